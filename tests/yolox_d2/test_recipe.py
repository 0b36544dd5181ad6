"""The configs against the facts: paper, sections 2.1 and 2.2, and the code that trained the published weights."""

import os

from dense_d2.config import load_config
from dense_d2.data import Letterbox, MixUp, MosaicWarp, RandomFlip, RandomHSV

import pytest
import torch
from detectron2.config import instantiate

ROOT = os.path.join(os.path.dirname(__file__), "..", "..", "configs", "yolox")
EPOCH = 1849
# row: probability of strong steps, scale of the mosaic, whether there is MixUp, first and last side / 32, side in testing
LARGE, SMALL = ((0.1, 2.0), True, 14, 26, 640), ((0.5, 1.5), False, 10, 20, 416)
ROWS = {
    "yolox_nano": (0.5, *SMALL),
    "yolox_tiny": (1.0, *SMALL),
    **{f"yolox_{size}": (1.0, *LARGE) for size in ("s", "m", "l", "x", "darknet53")},
    "augmentation/yolox_nano_strong": (0.5, (0.1, 2.0), True, 10, 20, 416),
    "augmentation/yolox_l_no_mixup": (1.0, (0.1, 2.0), False, 14, 26, 640),
    "roadmap/baseline": (0.0, *LARGE),
    "roadmap/strong_augmentation": (1.0, *LARGE),
}


@pytest.mark.parametrize("row", ROWS)
def test_augmentation(row):
    prob, scale, has_mixup, first, last, test_side = ROWS[row]
    loaders = load_config(os.path.join(ROOT, f"{row}.py")).dataloader
    composition, sizes = instantiate(loaders.train.composition), instantiate(loaders.train.multi_scale)
    assert (composition.input_size, composition.strong_prob) == ((640, 640), prob)
    assert (composition.min_box_side, composition.max_boxes, composition.fallback) == (1, 120, None)
    mosaic, *mixups = composition.strong
    assert isinstance(mosaic, MosaicWarp) and mosaic.centred
    assert (mosaic.degrees, mosaic.translate, mosaic.scale, mosaic.shear) == (10, 0.1, scale, 2)
    assert mosaic.candidates == {"min_side": 2, "min_area_ratio": 0.2, "max_aspect": 20}
    assert len(mixups) == has_mixup
    for mixup in mixups:
        assert isinstance(mixup, MixUp) and (mixup.scale, mixup.flip_prob) == ((0.5, 1.5), 0.5)
        assert mixup.candidates == {"min_side": 5, "min_area_ratio": 0.2, "max_aspect": 20}
    hsv, flip, letterbox = composition.final
    assert isinstance(hsv, RandomHSV) and not hsv.additive
    assert (hsv.gains.tolist(), hsv.prob) == ([0.015, 0.7, 0.4], 1)
    assert isinstance(flip, RandomFlip) and flip.prob == 0.5
    assert isinstance(letterbox, Letterbox)
    assert [side / 32 for side in sizes.sizes] == list(range(first, last + 1))
    assert (sizes.period, sizes.first, sizes.in_pipeline, sizes.fixed_from) == (10, (640, 640), False, None)
    assert loaders.test.mapper.augmentations[0].size == test_side


def test_every_image_is_used_and_the_last_epochs_are_plain_with_l1():
    cfg = load_config(os.path.join(ROOT, "yolox_s.py"))
    train = cfg.dataloader.train
    assert (cfg.train.max_iter, train.max_iter, train.total_batch_size) == (300 * EPOCH, 300 * EPOCH, 64)
    assert not train.filter_empty and not train.aspect_ratio_grouping
    l1, ema = instantiate(cfg.train.hooks.l1), instantiate(cfg.train.hooks.ema)
    assert (train.close_iters, l1.last_iters, l1.attribute) == (29_584, 29_584, "use_l1")
    assert (ema.decay, ema.warmup) == (0.9998, 2000)


def test_optimizer_and_learning_rates():
    cfg = load_config(os.path.join(ROOT, "yolox_nano.py"))
    cfg.optimizer.fused = False  # wants real tensors
    with torch.device("meta"):
        cfg.optimizer.params.model = instantiate(cfg.model)
    groups = instantiate(cfg.optimizer).param_groups
    assert {g["weight_decay"]: len(g["params"]) for g in groups} == {5e-4: 113, 0.0: 104 + 113}
    assert {(g["lr"], g["momentum"], g["nesterov"]) for g in groups} == {(0.01, 0.9, True)}
    schedule = instantiate(cfg.lr_multiplier)
    rates = {i: 0.01 * schedule(i / cfg.train.max_iter) for i in (0, 1849, 9245, 268_105, 526_000, 526_965, 554_699)}
    assert rates == pytest.approx(
        {0: 0, 1849: 4e-4, 9245: 0.01, 268_105: 5.25e-3, 526_000: 5.00081438e-4, 526_965: 5e-4, 554_699: 5e-4}, rel=1e-6
    )
