"""Merging batch norms: the same function, the original untouched, nothing left to merge."""

import os

from dense_d2.config import load_config
from dense_d2.modeling.frozen_norm import fold_frozen_norms
from dense_d2.modeling.fuse import fuse_conv_bn
from dense_d2.modeling.layers import ConvBlock

import pytest
import torch
from detectron2.config import instantiate
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")


def build(row, *overrides):
    torch.manual_seed(0)
    model = instantiate(load_config(os.path.join(ROOT, "configs", row), overrides).model).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after training
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2.0)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(std=0.1)
    return model


def predictions(model, image):
    with torch.no_grad():
        features = model.backbone(image)
        outputs = model.head([features[name] for name in model.head_in_features])
    return [x for level in outputs if level is not None for x in (level if isinstance(level, list) else [level])]


@pytest.mark.parametrize("row", ["yolox/yolox_nano.py", "yolof/yolof_thin_bccd.py"])
def test_fused_equals_unfused(row):
    model = build(row)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    image = torch.rand(1, 3, 64, 96)
    fused = fuse_conv_bn(model)
    for ours, theirs in zip(predictions(fused, image), predictions(model, image)):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_no_batch_norm_is_left_in_yolox():
    fused = fuse_conv_bn(build("yolox/yolox_nano.py"))
    assert not [module for module in fused.modules() if isinstance(module, nn.BatchNorm2d)]
    assert sum(p.numel() for p in fused.parameters()) == 904463  # the authors' count


@pytest.mark.parametrize("channels_last", [False, True])
def test_every_kind_of_pair_is_fused(channels_last):
    """A block, convolutions that hold their norm (constant, folded, usual), and pairs side by side, the last at the end."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        ConvBlock(3, 4, 3, norm_eps=1e-3),
        Conv2d(4, 4, 3, norm=FrozenBatchNorm2d(4), activation=torch.relu),
        fold_frozen_norms(nn.Sequential(Conv2d(4, 4, 3, norm=FrozenBatchNorm2d(4)))),
        Conv2d(4, 4, 3, norm=nn.BatchNorm2d(4)),
        nn.Sequential(
            nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), Conv2d(4, 4, 3, bias=False), FrozenBatchNorm2d(4)
        ),
    )
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 1, generator=generator)
    model.channels_last, x = channels_last, torch.rand(1, 3, 16, 16)
    fused = fuse_conv_bn(model.train())
    assert model.training and not fused.training
    assert not [m for m in fused.modules() if isinstance(m, (nn.BatchNorm2d, FrozenBatchNorm2d))]
    torch.testing.assert_close(fused(x), model.eval()(x), atol=0, rtol=1e-4)
    assert fused[1].weight.is_contiguous(memory_format=torch.channels_last) == channels_last
