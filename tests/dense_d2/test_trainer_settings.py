"""What a LazyTrainer takes from its config: schedule, checkpoints, evaluation, seed, and the folder of the run."""

import argparse
import json
import os

import yolof_d2  # noqa: F401  (its yacs keys)
from dense_d2.config import load_config
from dense_d2.datasets import DatasetError
from dense_d2.engine import LazyTrainer
from dense_d2.engine.hooks import SharedStatistics
from dense_d2.engine.run_folder import checkpoint_to_evaluate, evaluation_folder
from dense_d2.modeling.tta import MultiScaleTTA
from tests.dense_d2.test_trainer import ROW, one_thread, trainer_of  # noqa: F401  (one_thread: a fixture)
from tests.toy import toy_overrides

import pytest
import torch


def test_the_trainer_takes_its_settings_from_the_config(toy_coco, tmp_path, monkeypatch):
    evaluated = []
    monkeypatch.setattr(LazyTrainer, "_test_all_weights", lambda *args, iterations: evaluated.append(iterations) or {})
    ddp = {}
    monkeypatch.setattr(
        "dense_d2.engine.trainer.create_ddp_model", lambda model, **options: ddp.update(options) or model
    )
    trainer = trainer_of(
        toy_coco,
        str(tmp_path),
        "train.max_iter=3",
        "train.ddp.find_unused_parameters=true",
        "train.checkpointer.period=1",
        "train.checkpointer.max_to_keep=1",
        "train.eval_period=2",
        "train.accumulate=2",
        "train.clip_grad_norm=0.25",
        "train.amp.enabled=true",
        "optimizer.lr=0.001",
        "optimizer.params.lr_factors={}",
        "lr_multiplier.warmup_iters=2",
        "lr_multiplier.warmup_factor=0.5",
        "lr_multiplier.milestones=[2]",
        "lr_multiplier.gamma=0.1",
    )
    assert ddp == {"broadcast_buffers": False, "find_unused_parameters": True, "device_ids": None}
    step = trainer._trainer
    assert (step.accumulate, step.clip_grad_norm, step.amp) == (2, 0.25, torch.bfloat16)
    assert [hook.periods for hook in trainer._hooks if isinstance(hook, SharedStatistics)] == [[1, 2]]
    trainer.train()
    assert evaluated == [2, 3]
    assert {path.name for path in tmp_path.glob("*.pth")} == {"model_0000002.pth", "model_final.pth"}
    logged = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    rates = [line["lr"] for line in logged if "lr" in line]
    assert rates == pytest.approx([0.0005, 0.00075, 0.0001])


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["train.fuse_conv_bn=true"], (2, None, False)),  # the encoder's norms of its lateral convolutions stay
        (["train.fuse_conv_bn=false", "train.amp.evaluate=true"], (32, torch.bfloat16, False)),
        (["tta.enabled=true"], (2, None, True)),
    ],
)
def test_evaluation_computes_as_the_config_says(toy_coco, tmp_path, monkeypatch, overrides, expected):
    def evaluate(model, loader, evaluator, amp_dtype):
        norms = sum(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
        assert (norms, amp_dtype, isinstance(model, MultiScaleTTA)) == expected
        return {"bbox": {"AP": 1.0}}

    monkeypatch.setattr("dense_d2.engine.trainer.evaluate", evaluate)
    trainer = trainer_of(toy_coco, str(tmp_path), "train.max_iter=1", *overrides)
    assert LazyTrainer.test(trainer.cfg, trainer.model) == {"bbox": {"AP": 1.0}}


def test_the_data_is_checked_before_the_model_is_built(images, tmp_path, monkeypatch):
    os.remove(os.path.join(images[0], "toy_003.png"))
    monkeypatch.setattr(LazyTrainer, "build_model", None)
    with pytest.raises(DatasetError, match="missing-image-file"):
        trainer_of(images, str(tmp_path / "out"))


def test_evaluation_of_a_run_reads_its_last_checkpoint_and_writes_beside_it(tmp_path):
    folder = str(tmp_path)
    assert evaluation_folder(folder) == folder
    (tmp_path / "last_checkpoint").write_text("model_0000007.pth\n")
    assert evaluation_folder(folder) == os.path.join(folder, "eval")
    assert checkpoint_to_evaluate("other.pth", folder, resume=True) == os.path.join(folder, "model_0000007.pth")
    assert checkpoint_to_evaluate("other.pth", folder, resume=False) == "other.pth"


def test_a_drawn_seed_is_kept_when_resuming(toy_coco, tmp_path, monkeypatch):
    monkeypatch.setattr("dense_d2.engine.trainer.comm.shared_random_seed", lambda: 2**31 + 41)
    cfg = load_config(ROW, toy_overrides(toy_coco, tmp_path) + ["train.seed=-1"])
    LazyTrainer.setup(cfg, argparse.Namespace(eval_only=False, resume=False))
    assert cfg.train.seed == 41
    monkeypatch.setattr("dense_d2.engine.trainer.comm.shared_random_seed", lambda: 42)
    cfg.train.seed = -1
    LazyTrainer.setup(cfg, argparse.Namespace(eval_only=False, resume=True))
    assert cfg.train.seed == 41


def test_a_deterministic_run_asks_pytorch_for_it(toy_coco, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", asked.append)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    overrides = ["train.deterministic=true", "train.cudnn_benchmark=true"]
    cfg = load_config(ROW, toy_overrides(toy_coco, tmp_path) + overrides)
    LazyTrainer.setup(cfg, argparse.Namespace(eval_only=False, resume=False))
    assert asked == [True] and not torch.backends.cudnn.benchmark
