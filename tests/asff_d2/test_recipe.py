"""Configs against the facts: the registry path, learning rates, decay, initial weights, the hook of ASFF*."""

import math
import os

from asff_d2 import add_asff_config
from asff_d2.conv import init_convs
from asff_d2.drop_block import DropBlock
from tests.yacs import load_yaml, settings

import pytest
import torch
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_model
from torch import nn

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
EPOCH = 1848


def load(row):
    return LazyConfig.load(os.path.join(ROOT, f"configs/asff/{row}.py"))


def test_yaml_builds_the_same_model_and_touches_no_global():
    before = get_cfg()
    cfg = load_yaml(add_asff_config, "asff")
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model, lazy = build_model(cfg), instantiate(load("asff_darknet53_asff").model)
    solver, given = cfg.SOLVER, load("asff_darknet53_asff").model
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.WEIGHT_DECAY, solver.WEIGHT_DECAY_NORM) == (
        64,
        1e-3,
        5e-4,
        5e-4,
    )
    assert (solver.MAX_ITER, solver.WARMUP_ITERS, solver.WARMUP_FACTOR) == (301 * EPOCH, 5 * EPOCH, 0)
    assert (given.pixel_mean, given.pixel_std, "RGB") == (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, cfg.INPUT.FORMAT)
    assert not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    assert given.anchors.priors == cfg.MODEL.ASFF.ANCHORS
    shapes = [{name: value.shape for name, value in m.state_dict().items()} for m in (model, lazy)]
    assert shapes[0] == shapes[1]

    assert settings(model) == settings(lazy) and "ignore_thresh" in settings(lazy)
    assert settings(model.anchors) == settings(lazy.anchors)
    assert get_cfg() == before


def test_every_yacs_key_reaches_the_model():
    cfg = get_cfg()
    add_asff_config(cfg)
    asff = cfg.MODEL.ASFF
    assert (asff.SCORE_THRESH_TEST, asff.IGNORE_THRESH, asff.NMS_THRESH_TEST, asff.MIXUP_WEIGHT) == (
        0.01,
        0.7,
        0.65,
        "obj",
    )
    cfg.merge_from_file(os.path.join(ROOT, "configs/yacs/asff.yaml"))
    cfg.MODEL.DEVICE, cfg.MODEL.BACKBONE.FREEZE_AT = "meta", 2
    asff.update(NUM_CLASSES=7, NORM="GN", FUSION="sum", DROP_BLOCK=True, RFB=True, IOU_LOSS=False, DETACH_ANCHORS=True)
    asff.update(IGNORE_THRESH=0.6, ADJACENT_IGNORE=0.2, LABEL_SMOOTHING=False, MIXUP_WEIGHT="all")
    asff.update(SCORE_THRESH_TEST=0.1, NMS_THRESH_TEST=0.5, TOPK_CANDIDATES_TEST=50, DETECTIONS_PER_IMAGE=10)
    asff.ANCHORS = [[[1, 2]], [[3, 4]], [[5, 6]]]
    with torch.device("meta"):
        model = build_model(cfg)
        neck, trunk = model.backbone, model.backbone.bottom_up.bottom_up
        assert {type(m).__name__ for m in model.modules() if "Norm" in type(m).__name__} == {"GroupNorm"}
        assert [level.fusion for level in neck.levels] == ["sum"] * 3
        assert sum(isinstance(m, DropBlock) for m in model.modules()) == 3
        assert not trunk.stem.conv.weight.requires_grad and next(trunk.dark5.parameters()).requires_grad
        assert (model.head.num_slots, model.head.rfb, model.num_classes) == (2, True, 7)
        assert (model.iou_loss, model.detach_anchors, model.label_smoothing) == (False, True, False)
        assert (model.ignore_thresh, model.adjacent_ignore, model.mixup_weight) == (0.6, 0.2, "all")
        assert (model.test_score_thresh, model.test_nms_thresh) == (0.1, 0.5)
        assert (model.test_topk_candidates, model.max_detections_per_image) == (50, 10)
        asff.update(ADJACENT_IGNORE=0.0, RFB=False, GUIDED_ANCHOR=False, FREE_SLOT=False)
        model = build_model(cfg)
    assert (model.adjacent_ignore, model.head.num_slots, model.head.guided_anchor) == (0, 1, False)


def released_lr(iteration):
    epoch = iteration // EPOCH
    if epoch < 5:
        return 1e-3 * (iteration / (5 * EPOCH)) ** 4
    if epoch <= 20:
        return 1e-3
    return 1e-5 if epoch > 270 else 1e-5 + 0.5 * (1e-3 - 1e-5) * (1 + math.cos(math.pi * (epoch - 20) / 250))


def test_learning_rates():
    cfg = load("asff_darknet53_asff")
    schedule = instantiate(cfg.lr_multiplier)
    epochs = [0, 1, 4, 5, 20, 21, 22, 100, 269, 270, 271, 300]
    for iteration in [epoch * EPOCH + offset for epoch in epochs for offset in (0, 1, EPOCH - 1)]:
        found = cfg.optimizer.lr * schedule(iteration / cfg.train.max_iter)
        assert found == pytest.approx(released_lr(iteration), rel=1e-9, abs=1e-15), iteration


def test_everything_decays():
    cfg = load("asff_mobilenetv2")
    with torch.device("meta"):
        cfg.optimizer.params.model = instantiate(cfg.model)
    cfg.optimizer.fused = False  # wants real tensors
    (group,) = instantiate(cfg.optimizer).param_groups
    assert (group["lr"], group["weight_decay"], group["momentum"], group["nesterov"]) == (1e-3, 5e-4, 0.9, False)


@pytest.mark.parametrize("slope", [0.1, 1.0])
def test_initial_weights(slope):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(64, 256, 3), nn.Conv2d(256, 64, 1, bias=False))
    init_convs(layers, slope)
    for layer in layers:
        fan_in = layer.weight[0].numel()
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / (1 + slope**2) / fan_in), rel=0.03)
    assert not layers[0].bias.any()


def test_drop_blocks_of_asff_star():
    cfg = load("asff_darknet53_asff_star")
    with torch.device("meta"):
        model = instantiate(cfg.model)
    blocks = {name: m for name, m in model.named_modules() if isinstance(m, DropBlock)}
    # in the order in which the hook lists sizes: stride 32 first, with the smallest squares
    assert list(blocks) == [f"backbone.bottom_up.{name}" for name in ("p5.6", "p4.2", "p3.2")]
    hook = instantiate(cfg.train.hooks.drop_block)
    assert [start / EPOCH for start in hook.starts] == [5, 80, 150]
    assert hook.block_sizes == [[1, 3, 5], [3, 5, 7], [7, 7, 7]]
