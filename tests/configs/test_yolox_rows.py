"""YOLOX's rows against the released recipe of August 2021, and the paper where it differs."""

import pathlib

from dense_d2.config import load_config
from dense_d2.data import Letterbox, MixUp, MosaicWarp, RandomFlip, RandomHSV

import pytest
import torch
from detectron2.config import instantiate

ROOT = pathlib.Path(__file__).parents[2]
EPOCH = 1849  # of 118287 images, 64 an iteration


def row(side=640, sizes=(448, 832), scale=(0.1, 2.0), second="MixUp", prob=1.0, closing=16):
    """Side of the test images; least and greatest training size; scale of the mosaic's warp, the step after it and their
    probability; epochs at the end without them."""
    return dict(side=side, sizes=sizes, scale=scale, second=second, prob=prob, closing=closing)


def small(**changes):
    return row(**{**dict(side=416, sizes=(320, 640), scale=(0.5, 1.5), second=None), **changes})


ROWS = {
    "yolox_nano": small(prob=0.5),
    "yolox_tiny": small(),
    **{f"yolox_{size}": row() for size in ("s", "m", "l", "x", "darknet53")},
    **{
        f"roadmap/{step}": row(prob=0.0, closing=0)
        for step in ("baseline", "decoupled_head", "coupled_end_to_end", "decoupled_end_to_end")
    },
    **{
        f"roadmap/{step}": row(closing=15)
        for step in ("strong_augmentation", "anchor_free", "multi_positives", "simota", "nms_free")
    },
    "augmentation/yolox_nano_strong": small(prob=0.5, scale=(0.1, 2.0), second="MixUp"),
    "augmentation/yolox_l_no_mixup": row(second=None),
    "augmentation/yolox_l_copy_paste": row(second="CopyPaste"),
}


def load(name):
    return load_config(ROOT / "configs" / "yolox" / f"{name}.py")


@pytest.mark.parametrize("name", ROWS)
def test_data(name):
    expected, cfg = ROWS[name], load(name)
    data = cfg.dataloader.train
    assert (data.close_iters, data.total_batch_size) == (expected["closing"] * EPOCH, 64)
    assert (data.filter_empty, data.aspect_ratio_grouping) == (False, False)
    composition, scales = instantiate(data.composition), instantiate(data.multi_scale)
    assert (composition.input_size, composition.strong_prob) == ((640, 640), expected["prob"])
    assert (composition.min_box_side, composition.max_boxes, composition.fallback) == (1, 120, None)
    mosaic, *others = composition.strong
    assert isinstance(mosaic, MosaicWarp) and mosaic.centred
    assert (mosaic.degrees, mosaic.translate, mosaic.scale, mosaic.shear) == (10, 0.1, expected["scale"], 2)
    assert mosaic.candidates == {"min_side": 2, "min_area_ratio": 0.2, "max_aspect": 20}
    assert [type(step).__name__ for step in others] == [expected["second"]] * (expected["second"] is not None)
    for step in others:
        assert (step.scale, step.flip_prob) == ((0.5, 1.5), 0.5)
        if isinstance(step, MixUp):
            assert step.candidates == {"min_side": 5, "min_area_ratio": 0.2, "max_aspect": 20}
    hsv, flip, letterbox = composition.final
    assert isinstance(hsv, RandomHSV) and (hsv.gains.tolist(), hsv.additive, hsv.prob) == ([0.015, 0.7, 0.4], False, 1)
    assert isinstance(flip, RandomFlip) and flip.prob == 0.5 and isinstance(letterbox, Letterbox)
    low, high = expected["sizes"]
    assert scales.sizes == list(range(low, high + 1, 32))
    assert (scales.period, scales.first, scales.in_pipeline, scales.fixed_from) == (10, (640, 640), False, None)
    assert cfg.dataloader.test.mapper.augmentations[0].size == expected["side"]
    assert (cfg.model.test_score_thresh, cfg.model.test_nms_thresh) == (0.01, 0.65)


@pytest.mark.parametrize("name", ROWS)
def test_schedule_and_averages(name):
    cfg = load(name)
    assert cfg.train.max_iter == 300 * EPOCH and cfg.train.eval_period == cfg.train.checkpointer.period == 10 * EPOCH
    schedule = instantiate(cfg.lr_multiplier)
    at = [0, EPOCH, 5 * EPOCH, 145 * EPOCH, 285 * EPOCH, 300 * EPOCH - 1]
    rates = [cfg.optimizer.lr * schedule(i / cfg.train.max_iter) for i in at]
    assert rates == pytest.approx([0, 4e-4, 0.01, 5.25e-3, 5e-4, 5e-4])
    sgd, groups = cfg.optimizer, cfg.optimizer.params
    assert (sgd.momentum, sgd.nesterov, sgd.weight_decay) == (0.9, True, 5e-4)
    assert (groups.weight_decay_norm, groups.weight_decay_bias, groups.batch_size, groups.lr_batch_size) == (
        0,
        0,
        64,
        64,
    )
    assert (cfg.train.hooks.ema.decay, cfg.train.hooks.ema.warmup) == (0.9998, 2000)
    if ROWS[name]["closing"]:
        assert cfg.train.hooks.l1.last_iters == ROWS[name]["closing"] * EPOCH
    else:
        assert "l1" not in cfg.train.hooks


def test_parameter_groups():
    cfg = load("yolox_nano")
    cfg.optimizer.fused = False  # wants real tensors
    with torch.device("meta"):
        cfg.optimizer.params.model = instantiate(cfg.model)
    groups = instantiate(cfg.optimizer).param_groups
    assert {g["weight_decay"]: len(g["params"]) for g in groups} == {5e-4: 113, 0.0: 104 + 113}
    assert {(g["lr"], g["momentum"], g["nesterov"]) for g in groups} == {(0.01, 0.9, True)}
