"""A YOLOX run from end to end on the CPU: the same to the bit with 0 and 2 workers, and when it is resumed."""

import os
import shutil

from dense_d2.config import load_config
from dense_d2.engine import LazyTrainer

import pytest
import torch

ROW = os.path.join(os.path.dirname(__file__), "..", "..", "configs", "yolox", "yolox_nano.py")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(toy_coco, folder, *overrides, resume=False, seed=0):
    """Six iterations, the last three without strong augmentation and with L1. Returns the losses of each and the weights."""
    images, annotations = toy_coco
    data = [f"dataset.{split}.{key}" for split in ("train", "test") for key in ("images", "annotations")]
    cfg = load_config(
        ROW,
        [
            *(f"{key}={value}" for key, value in zip(data, (images, annotations) * 2)),
            f"train.output_dir={folder}",
            "train.device=cpu",
            "train.max_iter=6",
            "train.eval_period=0",
            "train.log_period=1",
            "train.pictures=0",
            f"train.seed={seed}",
            "train.checkpointer.period=2",
            "train.checkpointer.max_to_keep=9",
            "model.backbone.bottom_up.width=0.125",
            "lr_multiplier.warmup_iters=1",
            "lr_multiplier.flat_iters=2",
            "dataloader.train.total_batch_size=4",
            "dataloader.train.num_workers=0",
            "dataloader.train.close_iters=3",
            "dataloader.train.composition.input_size=64",
            "dataloader.train.composition.strong_prob=1.0",
            "dataloader.train.multi_scale.sizes=[32,64,96]",
            "dataloader.train.multi_scale.period=1",
            "dataloader.test.num_workers=0",
            *overrides,
        ],
    )
    torch.manual_seed(seed)
    os.makedirs(folder, exist_ok=True)
    trainer = LazyTrainer(cfg, resume=resume)
    trainer.resume_or_load(resume=resume)
    losses = []
    write = trainer._trainer._write_metrics
    trainer._trainer._write_metrics = lambda metrics, *args: losses.append(metrics) or write(metrics, *args)
    trainer.train()
    weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    return losses, {**weights, **{f"ema.{k}": v for k, v in trainer._hooks[2].weights.items()}}


@pytest.fixture(scope="module")
def run(toy_coco, tmp_path_factory):
    folder = tmp_path_factory.mktemp("yolox")
    return folder, *train(toy_coco, str(folder))


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_l1_is_on_for_the_last_iterations(run):
    _, losses, _ = run
    assert ["loss_l1" in names for names in losses] == [False] * 3 + [True] * 3


def test_workers_do_not_matter_and_the_seed_does(run, toy_coco, tmp_path):
    _, losses, weights = run
    again_losses, again = train(toy_coco, str(tmp_path / "two"), "dataloader.train.num_workers=2")
    assert equal(again, weights)
    assert all(equal(a, b) for a, b in zip(losses, again_losses))
    _, other = train(toy_coco, str(tmp_path / "other"), seed=1)
    assert not equal(other, weights)


def test_resumed_equals_uninterrupted(run, toy_coco, tmp_path):
    folder, losses, weights = run
    shutil.copy(folder / "model_0000001.pth", tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    rest, resumed = train(toy_coco, str(tmp_path), resume=True)
    assert equal(resumed, weights)
    assert len(rest) == 4 and all(equal(a, b) for a, b in zip(losses[2:], rest))
