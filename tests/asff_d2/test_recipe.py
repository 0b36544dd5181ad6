"""Configs against the facts: the registry path, learning rates, decay, initial weights, the hook of ASFF*."""

import math
import os

from asff_d2 import add_asff_config
from asff_d2.conv import init_convs
from asff_d2.drop_block import DropBlock

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
    cfg = get_cfg()
    add_asff_config(cfg)
    cfg.merge_from_file(os.path.join(ROOT, "configs/yacs/asff.yaml"))
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model, lazy = build_model(cfg), instantiate(load("asff_darknet53_asff").model)
    shapes = [{name: value.shape for name, value in m.state_dict().items()} for m in (model, lazy)]
    assert shapes[0] == shapes[1]

    def settings(m):
        return {k: v for k, v in vars(m).items() if isinstance(v, (int, float, str, list)) and not k.startswith("_")}

    assert settings(model) == settings(lazy) and "ignore_thresh" in settings(lazy)
    assert settings(model.anchors) == settings(lazy.anchors)
    assert get_cfg() == before


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


def test_initial_weights():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(64, 256, 3), nn.Conv2d(256, 64, 1, bias=False))
    init_convs(layers, slope=0.1)
    for layer in layers:
        fan_in = layer.weight[0].numel()
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / 1.01 / fan_in), rel=0.03)
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
    assert hook.block_sizes[0] == [1, 3, 5]
