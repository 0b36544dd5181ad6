"""The folder of a run: what may be written there, and what an earlier run left."""

import os

import yaml

from ..errors import UserError

__all__ = ["checkpoint_to_evaluate", "evaluation_folder", "previous_seed", "refuse_used_folder"]


def checkpoint_to_evaluate(path, folder, resume):
    """The file that `--eval-only` reads: `path`, or with `resume` the last checkpoint in `folder`."""
    if resume:
        marker = os.path.join(folder, "last_checkpoint")
        if not os.path.exists(marker):
            raise UserError(
                f"--eval-only --resume: {folder} holds no checkpoint. Give train.init_checkpoint=FILE instead."
            )
        with open(marker) as file:
            return os.path.join(folder, file.read().strip())
    if not path:
        raise UserError("--eval-only needs weights: train.init_checkpoint=FILE, or --resume for the run's last ones.")
    return path


def evaluation_folder(folder):
    """Where an evaluation writes: inside the folder of a run, a subfolder."""
    return os.path.join(folder, "eval") if os.path.exists(os.path.join(folder, "last_checkpoint")) else folder


def previous_seed(folder):
    """The seed in the config.yaml of the run in `folder`, or None."""
    path = os.path.join(folder, "config.yaml")
    if not os.path.exists(path):
        return None
    with open(path) as file:
        return yaml.safe_load(file)["train"]["seed"]


def refuse_used_folder(folder, resume):
    """Raises FileExistsError if `folder` holds checkpoints and the run is not to go on with them."""
    if not resume and os.path.exists(os.path.join(folder, "last_checkpoint")):
        raise FileExistsError(
            f"{folder} holds the checkpoints of an earlier run. --resume goes on with it; "
            "train.output_dir=<another folder> starts a new one beside it."
        )
