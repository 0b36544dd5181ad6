"""Training from end to end on the CPU: checkpoints, resume, EMA, two processes, the command line."""

import argparse
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import yolof_d2  # noqa: F401  (its yacs keys)
from dense_d2.check_data import _check_splits
from dense_d2.checkpoint import CheckpointError, DenseCheckpointer
from dense_d2.config import load_config
from dense_d2.datasets import DatasetError
from dense_d2.engine import EMA, LazyTrainer, YacsTrainer
from dense_d2.engine.trainer import checkpoint_meta
from dense_d2.errors import UserError
from tests.toy import CLASS_NAMES, toy_overrides, write_toy_coco

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from detectron2.engine import DefaultTrainer, HookBase

ROW = "configs/yolof/yolof_thin_shapes.py"


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trainer_of(toy_coco, folder, *overrides, resume=False, hooks=()):
    cfg = load_config(ROW, toy_overrides(toy_coco, folder) + list(overrides))
    for name, hook in hooks:
        cfg.train.hooks[name] = hook
    torch.manual_seed(0)
    os.makedirs(folder, exist_ok=True)
    trainer = LazyTrainer(cfg, resume=resume)
    trainer.resume_or_load(resume=resume)
    return trainer


def weights_of(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def test_a_stream_is_timed_where_no_latency_is_given(toy_coco, tmp_path):
    images, annotations = toy_coco
    content = json.loads(Path(annotations).read_text())
    content["sequences"] = ["one"]
    content["images"] = [{**image, "sid": 0, "fid": i} for i, image in enumerate(content["images"])]
    (tmp_path / "video.json").write_text(json.dumps(content))
    overrides = [
        f"dataset.test.annotations={tmp_path / 'video.json'}",
        "dataloader.evaluator._target_=dense_d2.evaluation.StreamingCOCOEvaluator",
    ]
    trainer = trainer_of(toy_coco, str(tmp_path / "out"), *overrides)
    streaming = LazyTrainer.test(trainer.cfg, trainer.model)["streaming"]
    assert streaming["frames"] == len(content["images"]) and 1 <= streaming["processed"] <= streaming["frames"]


def test_lazy_trainer_has_the_attributes_of_a_default_trainer(toy_coco, tmp_path):
    lazy = trainer_of(toy_coco, str(tmp_path / "a"), "train.max_iter=1")
    cfg = get_cfg()
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = "cpu", "", str(tmp_path / "b")
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATASETS.TRAIN = (lazy.cfg.dataset.train.name,)
    cfg.DATASETS.TEST = ()
    assert set(vars(DefaultTrainer(cfg))) == set(vars(lazy))


def test_training_writes_what_it_promises(toy_coco, tmp_path):
    trainer = trainer_of(toy_coco, str(tmp_path), "train.max_iter=3", "train.pictures=2")
    results = trainer.train()
    assert 0 <= results["bbox"]["AP"] <= 100
    names = set(os.listdir(tmp_path))
    assert names >= {"metrics.json", "results.json", "training_curve.png", "model_final.pth", "pictures"}
    assert len(os.listdir(tmp_path / "pictures")) == 2
    stored = json.loads((tmp_path / "results.json").read_text())
    text = json.dumps(stored)
    assert all(word in text for word in ("AP-disc", "seconds_per_image", "float32", "detectron2"))
    meta = torch.load(tmp_path / "model_final.pth", weights_only=True)["meta"]
    assert meta["class_names"] == CLASS_NAMES and meta["category_ids"] == [1, 3, 7]
    (tmp_path / "again.yaml").write_text(meta["config"])
    assert load_config(tmp_path / "again.yaml").model.num_classes == 3


def test_resumed_training_equals_uninterrupted_to_the_bit(toy_coco, tmp_path):
    ema = ("ema", L(EMA)(decay=0.9, warmup=0))
    whole = trainer_of(toy_coco, str(tmp_path / "whole"), "train.max_iter=6", hooks=[ema])
    whole.train()
    first = trainer_of(
        toy_coco, str(tmp_path / "parts"), "train.max_iter=6", "train.checkpointer.period=2", hooks=[ema]
    )
    with pytest.raises(KeyboardInterrupt):
        first.register_hooks([StopAt(4)])
        first.train()
    second = trainer_of(toy_coco, str(tmp_path / "parts"), "train.max_iter=6", resume=True, hooks=[ema])
    assert second.start_iter == 4
    second.train()
    for name, value in weights_of(whole).items():
        assert torch.equal(value, weights_of(second)[name]), name
    files = [torch.load(tmp_path / part / "model_final.pth", weights_only=True) for part in ("whole", "parts")]
    moments = [file["trainer"]["_trainer"]["optimizer"]["state"] for file in files]
    assert len(moments[0]) > 10
    for index, state in moments[0].items():
        assert all(torch.equal(state[name], moments[1][index][name]) for name in ("exp_avg", "exp_avg_sq", "step"))
    averaged = [file["trainer"]["hooks"]["EMA"] for file in files]
    assert averaged[0]["updates"] == averaged[1]["updates"] == 6
    assert all(torch.equal(value, averaged[1]["weights"][name]) for name, value in averaged[0]["weights"].items())


class StopAt(HookBase):
    def __init__(self, iteration):
        self.iteration = iteration

    def before_step(self):
        if self.trainer.iter == self.iteration:
            raise KeyboardInterrupt


def test_raw_and_averaged_weights_are_reported_apart(toy_coco, tmp_path):
    ema = ("ema", L(EMA)(decay=0.5, warmup=0))
    trainer = trainer_of(toy_coco, str(tmp_path), "train.max_iter=2", hooks=[ema])
    results = trainer.train()
    assert {"bbox", "bbox_ema", "speed", "speed_ema"} <= set(results)
    cfg = load_config(ROW, toy_overrides(toy_coco, tmp_path / "eval"))
    cfg.train.init_checkpoint = str(tmp_path / "model_final.pth")
    cfg.train.hooks.ema = ema[1]
    os.makedirs(tmp_path / "eval")
    again = LazyTrainer.evaluate_checkpoint(cfg)
    assert json.loads((tmp_path / "eval" / "results.json").read_text())["iterations"] == 2
    assert again["bbox"] == pytest.approx(results["bbox"], nan_ok=True)
    assert again["bbox_ema"] == pytest.approx(results["bbox_ema"], nan_ok=True)


def test_a_used_folder_is_not_overwritten(toy_coco, tmp_path):
    trainer_of(toy_coco, str(tmp_path), "train.max_iter=1").train()
    before = (tmp_path / "model_final.pth").read_bytes()
    with pytest.raises(FileExistsError, match="--resume goes on"):
        trainer_of(toy_coco, str(tmp_path), "train.max_iter=1")
    assert (tmp_path / "model_final.pth").read_bytes() == before
    cfg = load_config(ROW, toy_overrides(toy_coco, tmp_path))
    with pytest.raises(FileExistsError, match="--resume goes on"):  # before config.yaml is written
        LazyTrainer.setup(cfg, argparse.Namespace(eval_only=False, resume=False))


def test_fine_tuning_on_other_classes_needs_to_be_asked_for(toy_coco, tmp_path):
    trainer_of(toy_coco, str(tmp_path / "a"), "train.max_iter=1").train()
    images, annotations = write_toy_coco(tmp_path / "other")
    data = json.loads(Path(annotations).read_text())
    data["categories"] = [{"id": i, "name": name} for i, name in ((1, "disc"), (3, "box"), (7, "cone"), (9, "x"))]
    Path(annotations).write_text(json.dumps(data))
    start = f"train.init_checkpoint={tmp_path / 'a' / 'model_final.pth'}"
    with pytest.raises(CheckpointError, match="reinit_head"):
        trainer_of((images, annotations), str(tmp_path / "b"), "train.max_iter=1", start)
    trainer = trainer_of(
        (images, annotations), str(tmp_path / "b"), "train.max_iter=1", start, "train.reinit_head=true"
    )
    assert trainer.model.num_classes == 4
    assert trainer.model.head.decoder.cls_score.out_channels == 4 * 5


@pytest.mark.parametrize("empty_rank", [False, True])
def test_two_processes_equal_one(toy_coco, tmp_path, empty_rank):
    """Half the batch each gives the losses and the weights of the whole batch, also when one process has no box."""
    script = os.path.join(os.path.dirname(__file__), "two_processes.py")
    run = subprocess.run(
        [sys.executable, script, str(tmp_path), str(int(empty_rank))], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stdout + run.stderr
    one, two = (torch.load(tmp_path / f"{count}.pth", weights_only=True) for count in (1, 2))
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
    moved = 0
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, rtol=1e-5, atol=1e-7)
        moved += int(not torch.equal(value, one["before"][name]))
    assert moved > 10


def command_line(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "train_net.py", "--config-file", ROW, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )


def test_command_line_trains_on_two_processes_resumes_and_evaluates(toy_coco, tmp_path):
    overrides = toy_overrides(toy_coco, tmp_path)
    run = command_line("--num-gpus", "2", "--dist-url", "auto", *overrides, "train.max_iter=2")
    assert run.returncode == 0, run.stderr
    run = command_line("--resume", *overrides, "train.max_iter=3")
    assert run.returncode == 0 and "Starting training from iteration 2" in run.stdout, run.stdout + run.stderr
    run = command_line("--eval-only", *overrides, f"train.init_checkpoint={tmp_path}/model_final.pth")
    assert run.returncode == 0 and "Total inference pure compute time" in run.stdout, run.stderr


def test_evaluation_inside_a_run_leaves_its_files_alone(toy_coco, tmp_path):
    trainer_of(toy_coco, str(tmp_path), "train.max_iter=1").train()
    (tmp_path / "config.yaml").write_text("the run's own")
    before = (tmp_path / "results.json").read_bytes()
    run = command_line("--eval-only", "--resume", *toy_overrides(toy_coco, tmp_path), "train.amp.evaluate=true")
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "config.yaml").read_text() == "the run's own"
    assert (tmp_path / "results.json").read_bytes() == before
    assert json.loads((tmp_path / "eval" / "results.json").read_text())["speed"]["dtype"] == "bfloat16"


def test_evaluation_needs_a_whole_detector(toy_coco, tmp_path):
    overrides = toy_overrides(toy_coco, tmp_path)
    trainer = trainer_of(toy_coco, str(tmp_path / "a"), "train.max_iter=1")
    backbone = {k: v for k, v in trainer.model.state_dict().items() if k.startswith("backbone.")}
    torch.save(backbone, tmp_path / "backbone.pth")
    cfg = load_config(ROW, overrides + [f"train.init_checkpoint={tmp_path}/backbone.pth"])
    with pytest.raises(CheckpointError, match="only a backbone"):
        LazyTrainer.evaluate_checkpoint(cfg)
    arguments = argparse.Namespace(eval_only=True, resume=True)
    with pytest.raises(UserError, match="holds no checkpoint"):
        LazyTrainer.setup(cfg, arguments)
    cfg.train.init_checkpoint = ""
    with pytest.raises(UserError, match="needs weights"):
        LazyTrainer.setup(cfg, argparse.Namespace(eval_only=True, resume=False))


def test_a_coco_model_meets_other_classes_where_the_evaluator_translates(toy_coco, tmp_path, monkeypatch):
    overrides = toy_overrides(toy_coco, tmp_path) + [
        "dataset.train.images=",
        "dataset.train.annotations=",
        "model.num_classes=80",
        "dataloader.evaluator._target_=dense_d2.evaluation.StreamingCOCOEvaluator",
        "+dataloader.evaluator.coco_classes=true",
    ]
    cfg = load_config(ROW, overrides)
    assert cfg.model.num_classes == 80
    meta = checkpoint_meta(cfg, "coco_2017_val")
    DenseCheckpointer(LazyTrainer.build_model(cfg), str(tmp_path), meta=meta).save("own")
    cfg.train.init_checkpoint = str(tmp_path / "own.pth")
    monkeypatch.setattr(LazyTrainer, "_test_all_weights", lambda *args, **kwargs: "evaluated")
    assert LazyTrainer.evaluate_checkpoint(cfg) == "evaluated"
    _check_splits(cfg, ["test"])
    cfg.dataloader.evaluator.coco_classes = False
    with pytest.raises(CheckpointError, match="80 classes"):
        LazyTrainer.evaluate_checkpoint(cfg)
    with pytest.raises(DatasetError, match="the model 80"):
        _check_splits(cfg, ["test"])


def test_two_hooks_of_a_kind_are_refused(toy_coco, tmp_path):
    hooks = [("a", L(EMA)(decay=0.5)), ("b", L(EMA)(decay=0.9))]
    with pytest.raises(UserError, match="of each kind one"):
        trainer_of(toy_coco, str(tmp_path), "train.max_iter=1", hooks=hooks)


def test_resuming_with_another_learning_rate_warns(toy_coco, tmp_path, caplog):
    trainer_of(toy_coco, str(tmp_path), "train.max_iter=1").train()
    logging.getLogger("dense_d2").propagate = True
    with caplog.at_level(logging.WARNING, logger="dense_d2"):
        trainer_of(toy_coco, str(tmp_path), "train.max_iter=2", "optimizer.lr=0.5", resume=True)
        assert "is complete" not in caplog.text
        trainer_of(toy_coco, str(tmp_path), "train.max_iter=1", resume=True)
    assert "the config's [(0.5," in caplog.text
    assert "is complete (1 iterations)" in caplog.text


def test_command_line_errors_are_one_message(tmp_path):
    run = command_line("trian.max_iter=1")
    assert run.returncode == 1 and run.stderr.strip().endswith("Did you mean 'train.max_iter'?")
    assert "Traceback" not in run.stderr


def test_yacs_trainer_saves_the_optimizer(toy_coco, tmp_path):
    images, annotations = toy_coco
    name = load_config(ROW, toy_overrides(toy_coco, tmp_path)).dataset.train.name
    assert len(DatasetCatalog.get(name)) == 12
    cfg = load_config("configs/yacs/yolof.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = "cpu", "", str(tmp_path)
    cfg.MODEL.YOLOF.DECODER.NUM_CLASSES = 3
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER = 0, 1, 1
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (64,), 64
    os.makedirs(tmp_path, exist_ok=True)
    trainer = YacsTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    saved = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert saved["trainer"]["_trainer"]["optimizer"]["state"]
