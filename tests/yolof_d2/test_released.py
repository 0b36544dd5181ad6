"""Key names of the released files: the author's from the parity reference, mmdetection's typed out from its modules."""

import os

from yolof_d2.released import from_author, from_mmdet

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
BN = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@pytest.fixture(scope="module")
def shapes():
    cfg = LazyConfig.load(os.path.join(ROOT, "configs/common/models/yolof.py"))
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in instantiate(cfg.model).state_dict().items()}


def author_state():
    reference = np.load(os.path.join(ROOT, "tests", "parity", "yolof_r50_c5.npz"))
    return {
        str(key): torch.empty([int(s) for s in str(shape).split("x")] if str(shape) else [], device="meta")
        for key, shape in zip(reference["keys"], reference["shapes"])
    }


def test_author_and_cvpods(shapes):
    state = author_state()
    cvpods = {**state, "anchor_generator.cell_anchors.0": torch.zeros(5, 4)}
    port = {**state, "pixel_mean": torch.zeros(3, 1, 1), "pixel_std": torch.zeros(3, 1, 1)}
    x101 = {**state, "weight_order": torch.zeros(1)}
    for released in (state, cvpods, port, x101):
        renamed = from_author(released)
        assert {name: tuple(value.shape) for name, value in renamed.items()} == shapes
        assert renamed["head.encoder.fpn_conv.weight"] is state["encoder.fpn_conv.weight"]
        assert renamed["backbone.res2.0.conv1.norm.bias"] is state["backbone.res2.0.conv1.norm.bias"]
    assert from_mmdet(state) is None


def test_versions_of_modules_move_along():
    state = torch.nn.Sequential().state_dict()
    state["encoder.lateral_conv.weight"] = torch.zeros(1)
    state._metadata = {
        "": {"version": 1},
        "encoder.lateral_norm": {"version": 2},
        "backbone.stem.conv1.norm": {"version": 3},
    }
    renamed = from_author(state)._metadata
    assert renamed["head.encoder.lateral_norm"] == {"version": 2}
    assert renamed["backbone.stem.conv1.norm"] == {"version": 3}


def mmdet_state():
    state = {}

    def add(name, *shape):
        state[name] = torch.zeros(shape)

    def conv(name, out_channels, in_channels, kernel, bias=False):
        add(f"{name}.weight", out_channels, in_channels, kernel, kernel)
        if bias:
            add(f"{name}.bias", out_channels)

    def norm(name, channels):
        for entry in BN:
            add(f"{name}.{entry}", *(() if entry == "num_batches_tracked" else (channels,)))

    conv("backbone.conv1", 64, 3, 7)
    norm("backbone.bn1", 64)
    in_channels = 64
    for layer, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
        for block in range(blocks):
            prefix = f"backbone.layer{layer}.{block}"
            for i, (out, kernel, before) in enumerate(
                ((width, 1, in_channels), (width, 3, width), (4 * width, 1, width)), 1
            ):
                conv(f"{prefix}.conv{i}", out, before, kernel)
                norm(f"{prefix}.bn{i}", out)
            if block == 0:
                conv(f"{prefix}.downsample.0", 4 * width, in_channels, 1)
                norm(f"{prefix}.downsample.1", 4 * width)
            in_channels = 4 * width
    conv("neck.lateral_conv", 512, 2048, 1, bias=True)
    norm("neck.lateral_norm", 512)
    conv("neck.fpn_conv", 512, 512, 3, bias=True)
    norm("neck.fpn_norm", 512)
    for block in range(4):
        for i, (out, before, kernel) in enumerate(((128, 512, 1), (128, 128, 3), (512, 128, 1)), start=1):
            conv(f"neck.dilated_encoder_blocks.{block}.conv{i}.conv", out, before, kernel)
            norm(f"neck.dilated_encoder_blocks.{block}.conv{i}.bn", out)
    for tower, length in (("cls_subnet", 2), ("bbox_subnet", 4)):
        for i in range(length):
            conv(f"bbox_head.{tower}.{i}.conv", 512, 512, 3)
            norm(f"bbox_head.{tower}.{i}.bn", 512)
    for name, channels in (("cls_score", 400), ("bbox_pred", 20), ("object_pred", 5)):
        conv(f"bbox_head.{name}", channels, 512, 3, bias=True)
    return state


def test_mmdetection(shapes):
    state = mmdet_state()
    renamed = from_mmdet(state)
    assert {name: tuple(value.shape) for name, value in renamed.items()} == shapes
    for ours, theirs in {
        "backbone.stem.conv1.weight": "backbone.conv1.weight",
        "backbone.stem.conv1.norm.running_var": "backbone.bn1.running_var",
        "backbone.res4.5.conv2.norm.weight": "backbone.layer3.5.bn2.weight",
        "backbone.res5.0.shortcut.weight": "backbone.layer4.0.downsample.0.weight",
        "backbone.res5.0.shortcut.norm.bias": "backbone.layer4.0.downsample.1.bias",
        "head.encoder.lateral_norm.running_mean": "neck.lateral_norm.running_mean",
        "head.encoder.dilated_encoder_blocks.3.conv2.0.weight": "neck.dilated_encoder_blocks.3.conv2.conv.weight",
        "head.encoder.dilated_encoder_blocks.3.conv3.1.bias": "neck.dilated_encoder_blocks.3.conv3.bn.bias",
        "head.decoder.bbox_subnet.9.weight": "bbox_head.bbox_subnet.3.conv.weight",
        "head.decoder.cls_subnet.4.bias": "bbox_head.cls_subnet.1.bn.bias",
        "head.decoder.cls_subnet.4.num_batches_tracked": "bbox_head.cls_subnet.1.bn.num_batches_tracked",
        "head.decoder.object_pred.bias": "bbox_head.object_pred.bias",
    }.items():
        assert renamed[ours] is state[theirs]
    assert not renamed["head.decoder.bbox_subnet.9.bias"].any()  # mmdetection has none
    assert from_author(state) is None
