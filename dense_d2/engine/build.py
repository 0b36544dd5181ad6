"""Building what the sections of a config describe. A value that does not work is the user's to mend: an error names it."""

import contextlib
import traceback

import torch
from detectron2.config import instantiate
from omegaconf import OmegaConf

from ..errors import UserError
from ..modeling.tta import MultiScaleTTA

__all__ = ["build", "build_hooks", "build_tta", "check_settings", "naming"]

_LEAST = {
    "max_iter": 1,
    "log_period": 1,
    "checkpointer.period": 1,
    "checkpointer.max_to_keep": 1,
    "eval_period": 0,
    "clip_grad_norm": 0,
}


def build(section, name):
    """Instantiates a section of the config.

    Raises:
        UserError: a constructor refuses a value or an argument, or a `_target_` does not exist; `name` says in which section.
    """
    with naming(name):
        return instantiate(section)


@contextlib.contextmanager
def naming(section):
    """Turns what a constructor raises inside into a UserError that names the section of the config."""
    try:
        yield
    except UserError:
        raise
    except (ImportError, TypeError, ValueError) as error:
        raise UserError(f"{section}: {error}{_origin(error)}") from error


def _origin(error):
    """The place of an error that no line raises, as of `min([])`: its message was not written for users."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return "" if "raise " in frame.line else f" ({frame.filename}, line {frame.lineno})"


def build_hooks(cfg):
    """The hooks of `train.hooks`."""
    built = [build(hook, f"train.hooks.{name}") for name, hook in cfg.train.hooks.items()]
    kinds = [type(hook).__qualname__ for hook in built]
    if len(set(kinds)) < len(kinds):
        raise UserError(
            f"train.hooks holds {kinds}: of each kind one, since checkpoints keep their state by that name."
        )
    return built


def build_tta(cfg, model):
    """The model to evaluate: with multi-scale testing around it, if section `tta` asks for that."""
    if not cfg.tta.enabled:
        return model
    options = {key: value for key, value in cfg.tta.items() if key != "enabled"}
    with naming("tta"):
        return MultiScaleTTA(model, image_format=cfg.dataloader.test.mapper.image_format, **options)


def check_settings(train):
    """Checks what the engine itself reads of section `train`, before it matters.

    Raises:
        UserError: a number below the least that works, or a device that is not there.
    """
    for key, least in _LEAST.items():
        value = OmegaConf.select(train, key)
        if value is not None and value < least:
            raise UserError(f"train.{key}={value}: give {least} or more.")
    try:
        torch.empty(0, device=train.device)
    except (AssertionError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"train.device={train.device} is not there ({reason}); give cuda on a GPU, else cpu") from error
