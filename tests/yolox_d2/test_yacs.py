"""YOLOX from a yacs config, against the rows."""

import os

from tests.yacs import load_yaml, settings
from tests.yolox_d2.tiny import tiny_yolox
from yolox_d2 import add_yolox_config
from yolox_d2.cspdarknet import DepthwiseBlock

import torch
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_model
from torch import nn

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")


def test_yaml_builds_the_same_model_and_touches_no_global():
    before = get_cfg()
    cfg = load_yaml(add_yolox_config, "yolox")
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
        lazy = instantiate(LazyConfig.load(os.path.join(ROOT, "configs/yolox/yolox_s.py")).model)
    shapes = [{name: value.shape for name, value in m.state_dict().items()} for m in (model, lazy)]
    assert shapes[0] == shapes[1] and str(model) == str(lazy)

    # the row says all of them, so this is what the arguments' own values are held to
    assert settings(model) == settings(lazy) == settings(tiny_yolox(80)) and "box_loss_weight" in settings(lazy)
    assert vars(model.assigner) == vars(lazy.assigner) and vars(model.box_coder) == vars(lazy.box_coder)
    assert get_cfg() == before


def test_any_width_fits_backbone_and_head():
    cfg = LazyConfig.load(os.path.join(ROOT, "configs/yolox/yolox_s.py")).model
    cfg.backbone.bottom_up.width = 0.35  # 22 units of 64: 88 channels, where 256 * 0.35 is 89
    yaml = load_yaml(add_yolox_config, "yolox")
    yaml.MODEL.DEVICE, yaml.MODEL.YOLOX.WIDTH = "meta", 0.35
    with torch.device("meta"):
        for model in (instantiate(cfg), build_model(yaml)):
            assert model.head.in_channels == [88, 176, 352]
            assert {tower[0].conv.out_channels for tower in model.head.cls_convs} == {88}


def test_every_key_reaches_the_model():
    cfg = load_yaml(add_yolox_config, "yolox")
    cfg.MODEL.DEVICE, cfg.INPUT.FORMAT, cfg.TEST.DETECTIONS_PER_IMAGE = "cpu", "RGB", 7
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]
    cfg.MODEL.YOLOX.update(DEPTH=0.67, WIDTH=0.125, DEPTHWISE=True, ACTIVATION="ReLU", NUM_CLASSES=2, CENTER_RADIUS=2.5)
    cfg.MODEL.YOLOX.update(USE_L1=True, SCORE_THRESH_TEST=0.2, NMS_THRESH_TEST=0.3)
    model = build_model(cfg)
    assert (model.use_l1, model.assigner.radius, model.num_classes) == (True, 2.5, 2)
    assert (model.test_score_thresh, model.test_nms_thresh, model.max_detections_per_image) == (0.2, 0.3, 7)
    assert (model.pixel_mean.flatten().tolist(), model.pixel_std.flatten().tolist()) == ([1, 2, 3], [4, 5, 6])
    assert model.input_format == "RGB"
    for part in ("backbone.bottom_up.", "backbone.pan5.", "head."):
        kinds = {type(module) for name, module in model.named_modules() if name.startswith(part)}
        assert {DepthwiseBlock, nn.ReLU} <= kinds and nn.SiLU not in kinds
    assert [len(getattr(model.backbone.bottom_up, f"dark{i}")[-1].blocks) for i in range(2, 6)] == [2, 6, 6, 2]
    assert len(model.backbone.fpn3.blocks) == 2


def test_darknet53_by_name():
    cfg, row = get_cfg(), LazyConfig.load(os.path.join(ROOT, "configs/yolox/yolox_darknet53.py")).model
    add_yolox_config(cfg)
    cfg.merge_from_file(os.path.join(ROOT, "configs/yacs/yolox.yaml"))
    cfg.MODEL.DEVICE, cfg.MODEL.BACKBONE.NAME = "meta", "build_yolox_darknet53_fpn_backbone"
    cfg.MODEL.YOLOX.update(WIDTH=1.0, ACTIVATION="ReLU")  # any but the layers' own
    row.backbone.bottom_up.activation = "ReLU"
    with torch.device("meta"):
        assert str(build_model(cfg)) == str(instantiate(row))
