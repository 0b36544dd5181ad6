"""YOLOX's rows against the released recipe of August 2021, and the paper where it differs."""

import pathlib

from dense_d2.config import load_config

import pytest
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
    mosaic, *others = data.composition.strong
    assert (mosaic.degrees, mosaic.translate, tuple(mosaic.scale), mosaic.shear) == (10, 0.1, expected["scale"], 2)
    assert [step._target_.__name__ for step in others] == [expected["second"]] * (expected["second"] is not None)
    assert all(tuple(step.scale) == (0.5, 1.5) for step in others)
    assert (data.composition.strong_prob, data.close_iters) == (expected["prob"], expected["closing"] * EPOCH)
    assert [step._target_.__name__ for step in data.composition.final] == ["RandomHSV", "RandomFlip", "Letterbox"]
    assert (data.composition.input_size, data.composition.min_box_side, data.composition.max_boxes) == (640, 1, 120)
    low, high = expected["sizes"]
    assert list(data.multi_scale.sizes) == list(range(low, high + 1, 32))
    assert (data.multi_scale.period, data.multi_scale.first) == (10, 640)
    assert (data.filter_empty, data.aspect_ratio_grouping, data.total_batch_size) == (False, False, 64)
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
