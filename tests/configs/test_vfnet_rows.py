"""VFNet's rows against the published table of sizes, and the parts that only they have."""

import pathlib

from dense_d2.config import load_config
from tools.analyze_model import analyze

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.layers import FrozenBatchNorm2d

ROOT = pathlib.Path(__file__).parents[2]
# million parameters, GMACs at 800x1280
SIZES = {
    "vfnet_r50_1x": (32.89, 217.2),
    "vfnet_r50_ms_2x": (32.89, 217.2),
    "vfnet_r50_dcn_ms_2x": (33.89, 223.7),
    "vfnet_r101_1x": (51.88, 293.0),
    "vfnet_r101_2x": (51.88, 293.0),
    "vfnet_r101_ms_2x": (51.88, 293.0),
    "vfnet_r101_dcn_ms_2x": (53.94, 303.7),
    "vfnet_x101_32x4d_ms_2x": (51.51, 296.4),
    "vfnet_x101_32x4d_dcn_ms_2x": (55.49, 315.2),
    "vfnet_x101_64x4d_ms_2x": (90.79, 449.3),
    "vfnet_x101_64x4d_dcn_ms_2x": (98.63, 484.3),
    "vfnet_r2_101_ms_2x": (52.56, 303.3),
    "vfnet_r2_101_dcn_ms_2x": (55.04, 315.8),
    "vfnetx_r2_101_dcn_41e": (75.56, 571.5),
    "vfnetx_r2_101_dcn_59e": (75.56, 571.5),
}


def load(row, overrides=()):
    return load_config(ROOT / "configs" / "vfnet" / f"{row}.py", overrides)


@pytest.mark.parametrize("row", SIZES)
def test_parameters(row):
    with torch.device("meta"):
        model = instantiate(load(row).model)
    # the authors count the frozen scales and shifts of the first two stages, which are no parameters here
    frozen = [m.weight.numel() + m.bias.numel() for m in model.modules() if isinstance(m, FrozenBatchNorm2d)]
    assert round((sum(p.numel() for p in model.parameters()) + sum(frozen)) / 1e6, 2) == SIZES[row][0]


@pytest.mark.parametrize(
    "row", ["vfnet_r50_1x", "vfnet_r50_dcn_ms_2x", "vfnet_x101_32x4d_dcn_ms_2x", "vfnet_r2_101_ms_2x"]
)
def test_multiply_adds(row):
    """At a size of 128, where every level has whole cells: 62.5 times less, but for the rounded up sizes of P6 and P7."""
    report = analyze(instantiate(load(row).model), 128, 128)
    assert report["total"]["gflops_conv"] * 800 * 1280 / 128**2 == pytest.approx(SIZES[row][1], rel=1e-3)


def test_schedules():
    epoch = 7330
    for row, milestones in {
        "vfnet_r101_1x": (8, 11, 12),
        "vfnet_r101_2x": (16, 22, 24),
        "vfnet_r50_dcn_ms_2x": (16, 22, 24),
        "vfnetx_r2_101_dcn_41e": (36, 40, 41),
    }.items():
        cfg = load(row)
        assert [*cfg.lr_multiplier.milestones, cfg.train.max_iter] == [epochs * epoch for epochs in milestones]
    cfg = load("vfnetx_r2_101_dcn_59e")
    schedule, total = instantiate(cfg.lr_multiplier), 18 * epoch
    assert cfg.train.max_iter == total and cfg.train.hooks.swa.cycle_iters == epoch
    lrs = [cfg.optimizer.lr * schedule(i / total) for i in (0, epoch // 2, epoch - 1, epoch, total - 1)]
    assert lrs == pytest.approx([0.01, (0.01 + 1e-4) / 2, 1e-4, 0.01, 1e-4], rel=1e-3)


def test_only_the_multi_scale_rows_draw_their_size():
    for row in SIZES:
        resize = [a for a in load(row).dataloader.train.mapper.augmentations if "short_edge" in a][0]
        edges = [480, 960] if "_ms_" in row else [500, 1400] if "vfnetx" in row else 800
        assert resize.short_edge == edges and resize.long_edge == ([750, 2100] if "vfnetx" in row else 1333)
        (test,) = load(row).dataloader.test.mapper.augmentations
        assert (test.short_edge, test.long_edge) == (800, 1333)


def test_recipe():
    cfg = load("vfnet_r50_1x")
    assert cfg.train.eval_period == cfg.train.checkpointer.period == 7330
    flip = instantiate(cfg.dataloader.train.mapper.augmentations[-1])
    assert flip.horizontal and not flip.vertical and flip.prob == 0.5
    passes = sorted(zip(cfg.tta.max_size, cfg.tta.min_sizes))
    assert passes == [(1200, 800), (1300, 900), (1500, 1000), (1600, 1200)] and cfg.tta.flip

    cfg = load("vfnetx_r2_101_dcn_59e")
    crop, _, holes, flip = cfg.dataloader.train.mapper.augmentations
    assert crop.prob == 0.5 and crop.tfm_or_aug.crop_type == "relative_range"
    assert crop.tfm_or_aug.crop_size == [0.75, 0.75] and (holes.num_holes, holes.prob) == ([5, 10], 0.5)
    assert flip.horizontal and cfg.model.soft_nms and cfg.model.test_nms_thresh == 0.65
    assert cfg.model.backbone.norm == "GN"


def test_trunks_start_from_the_weights_of_their_own_kind():
    files = {
        "_r50_": "torchvision/R-50.pkl",
        "_r101_": "resnet101-63fe2227.pth",
        "_x101_32x4d_": "resnext101_32x4d-a5af3160.pth",
        "_x101_64x4d_": "resnext101_64x4d-ee2c6f71.pth",
        "_r2_101_": "res2net101_v1d_26w_4s_mmdetv2-f0a600f9.pth",
    }
    for row in SIZES:
        kind = "59e" if row.endswith("59e") else next(kind for kind in files if kind in row)
        assert load(row).train.init_checkpoint.endswith({**files, "59e": "vfnetx_r2_101_dcn_41e/model_final.pth"}[kind])


def test_vfnetx_reads_and_augments(toy_coco):
    images, annotations = toy_coco
    overrides = [
        f"dataset.{split}.{key}={value}"
        for split in ("train", "test")
        for key, value in (("images", images), ("annotations", annotations))
    ]
    overrides += ["dataloader.train.num_workers=0", "dataloader.train.total_batch_size=2"]
    overrides += [
        "dataloader.test.mapper.augmentations.0.short_edge=1200",
        "dataloader.test.mapper.augmentations.0.long_edge=1800",
    ]
    cfg = load("vfnetx_r2_101_dcn_59e", overrides)
    batches = iter(instantiate(cfg.dataloader.train))
    samples = [sample for _ in range(3) for sample in next(batches)]
    assert all(len(sample["instances"]) for sample in samples)
    assert len({tuple(sample["image"].shape) for sample in samples}) > 3
    for sample in samples:
        short, long = np.sort(sample["image"].shape[1:])
        assert 375 <= short <= 1400 and 500 <= long <= 2100
    assert cfg.dataloader.test.mapper.augmentations[0].long_edge == 1800
