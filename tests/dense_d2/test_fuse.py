"""Merging batch norms: the same function, the original untouched, nothing left to merge."""

import os

from dense_d2.config import load_config
from dense_d2.modeling.fuse import fuse_conv_bn

import pytest
import torch
from detectron2.config import instantiate
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
