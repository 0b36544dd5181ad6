import json

from dense_d2.config import load_config
from dense_d2.modeling.frozen_norm import fold_frozen_norms
from tools.analyze_model import _test_size, analyze, main

import pytest
import torch
from detectron2.config import get_cfg, instantiate
from detectron2.layers import Conv2d, FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import Backbone
from torch import nn
from torchvision.ops import DeformConv2d


class BottomUp(Backbone):
    """3 to 8 channels, stride 4: 8 * 3 * 9 multiply-adds a cell, 2 * 8 for the frozen norm."""

    size_divisibility = 32

    def __init__(self):
        super().__init__()
        self.conv = Conv2d(3, 8, 3, stride=4, padding=1, bias=False, norm=FrozenBatchNorm2d(8))
        fold_frozen_norms(self)

    def forward(self, x):
        return {"res": self.conv(x)}

    def output_shape(self):
        return {"res": ShapeSpec(channels=8, stride=4)}


class Neck(Backbone):
    """8 to 4 channels: 4 * 8 multiply-adds a cell; its leaky ReLU counts only in thop's way."""

    size_divisibility = 32

    def __init__(self):
        super().__init__()
        self.bottom_up = BottomUp()
        self.lateral = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return {"p": nn.functional.leaky_relu(self.lateral(self.bottom_up(x)["res"])), "unused": x}

    def output_shape(self):
        return {"p": ShapeSpec(channels=4, stride=4)}


class Head(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.towers = nn.ModuleList([nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2)])
        self.norm = nn.BatchNorm2d(channels)
        self.deform = DeformConv2d(channels, 5, 3, padding=1, bias=False)
        self.scale = nn.Parameter(torch.ones(7))

    def forward(self, features):
        (x,) = features
        for tower in self.towers:
            x = tower(x)
        offset = torch.zeros(len(x), 18, *x.shape[2:])
        return torch.sigmoid(self.deform(self.norm(x), offset)) * self.scale[0]


class Detector(nn.Module):
    def __init__(self, backbone, channels, feature):
        super().__init__()
        self.backbone, self.head, self.head_in_features = backbone, Head(channels), [feature]
        self.extra = nn.Parameter(torch.zeros(3))

    def forward(self, batched_inputs):
        raise AssertionError("post-processing is not counted")


def table(report):
    return {
        x["name"]: (x["parameters"], round(x["gflops"] * 1e9), round(x["gflops_conv"] * 1e9)) for x in report["parts"]
    }


def test_parts_by_hand():
    report = analyze(Detector(BottomUp(), 8, "res"), height=32, width=64)
    cells = 8 * 16
    assert table(report) == {
        "backbone": (216, (216 + 16) * cells, 216 * cells),
        "head.towers": (2 * 576, 2 * 576 * cells, 2 * 576 * cells),
        "head.norm": (16, 16 * cells, 0),
        "head.deform": (360, 360 * cells, 360 * cells),
        "head, rest": (7, 0, 0),
        "outside backbone and head": (3, 0, 0),
    }
    for key in ("parameters", "gflops", "gflops_conv"):
        assert report["total"][key] == pytest.approx(sum(part[key] for part in report["parts"]))


def test_neck_is_a_part_of_its_own_and_images_are_padded():
    report = analyze(Detector(Neck(), 4, "p"), height=20, width=50)
    assert (report["height"], report["width"]) == (32, 64)
    cells = 8 * 16
    assert table(report)["backbone.bottom_up"] == (216, (216 + 16) * cells, 216 * cells)
    assert table(report)["backbone, neck"] == (36, 32 * cells, 32 * cells)


def test_the_detector_is_left_as_it_is(caplog):
    detector = Detector(BottomUp(), 8, "res").train()
    conv = type(detector.backbone.conv)
    analyze(detector, 32, 32)
    assert detector.training and detector.head.norm.training and type(detector.backbone.conv) is conv is not Conv2d
    assert int(detector.head.norm.num_batches_tracked) == 0
    assert "nsupported" not in caplog.text


# specs: parameters in millions, GFLOPs at 800 x 1088 with normalisation; a small image has its share of them
ROWS = {
    "r50_c5_1x": (
        44.113,
        84.8,
        {"backbone": (23.455, 66.9), "head.encoder": (4.534, 3.8), "head.decoder": (16.124, 13.7)},
    ),
    "r50_dc5_1x": (44.505, 177.0, {"head.decoder": (16.516, None)}),
}


@pytest.mark.parametrize("row", ROWS)
def test_published_numbers(row):
    detector = instantiate(load_config(f"configs/yolof/yolof_{row}.py").model)
    report = analyze(detector, height=64, width=64)
    share = 64 * 64 / (800 * 1088)
    parameters, gflops, parts = ROWS[row]
    assert round(report["total"]["parameters"] / 1e6, 3) == parameters
    assert round(report["total"]["gflops"] / share, 1) == gflops
    for part in report["parts"]:
        if part["name"] in parts:
            parameters, gflops = parts[part["name"]]
            assert round(part["parameters"] / 1e6, 3) == parameters
            assert gflops is None or round(part["gflops_conv"] / share, 1) == gflops


def test_command_line(monkeypatch, capsys):
    monkeypatch.setattr("tools.analyze_model.instantiate", lambda model: Detector(BottomUp(), 8, "res"))
    common = ["--config-file", "configs/yolof/yolof_r50_c5_1x.py", "--height", "32"]
    main([*common, "train.max_iter=7", "--json", "--width", "64"])
    report = json.loads(capsys.readouterr().out)
    assert (report["height"], report["width"], report["total"]["parameters"]) == (32, 64, 1754)
    main(common)
    text = capsys.readouterr().out
    assert "head.towers" in text and "0.002" in text and "multiply-adds" in text


@pytest.mark.parametrize("name, size, parameters", [("asff", 608, 79.409), ("yolox", 640, 8.968)])
def test_yacs_files_are_counted_at_the_size_they_test_on(monkeypatch, capsys, name, size, parameters):
    sizes = []
    monkeypatch.setattr("tools.analyze_model.analyze", lambda *args: sizes.append(args[1:]) or analyze(args[0], 32, 32))
    main(["--config-file", f"configs/yacs/{name}.yaml"])
    assert sizes == [(size, size)] and f"{parameters}" in capsys.readouterr().out
    assert _test_size(get_cfg()) == (800, 1088)  # 800 to 1333: one that COCO often has
