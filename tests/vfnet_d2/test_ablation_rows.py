"""Rows of the paper's Tables 2 and 3, and RetinaNet's of Table 5, which has no other test of its settings."""

import inspect
import json
import os

from dense_d2.config import load_config
from dense_d2.modeling.frozen_norm import StatFrozenBN
from dense_d2.modeling.retinanet import BestOfBoxMatcher
from vfnet_d2.varifocal_loss import FocalLoss, QualityFocalLoss, VarifocalLoss

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import OmegaConf

ROWS = os.path.join(os.path.dirname(__file__), "..", "..", "configs/vfnet/ablation")
TABLE2 = {  # gamma, alpha, weighted by the IoU
    "gamma1_0_alpha0_50": (1.0, 0.5, True),
    "gamma1_5_alpha0_75": (1.5, 0.75, True),
    "gamma2_0_alpha0_75": (2.0, 0.75, True),
    "gamma2_0_alpha0_75_unweighted": (2.0, 0.75, False),
    "gamma2_5_alpha1_25": (2.5, 1.25, True),
    "gamma3_0_alpha1_00": (3.0, 1.0, True),
}
TABLE3 = {  # star convolution, refinement, centerness, loss, weight of the first boxes
    "fcos_atss": (False, False, True, FocalLoss, 2.0),
    "raw_focal": (False, False, False, FocalLoss, 2.0),
    "raw_varifocal": (False, False, False, VarifocalLoss, 2.0),
    "star": (True, False, False, VarifocalLoss, 2.0),
    "full": (True, True, False, VarifocalLoss, 1.5),
}

TABLE5 = {  # loss and its options
    "focal": (FocalLoss, dict(alpha=0.25, gamma=2.0)),
    "quality_focal": (QualityFocalLoss, dict(beta=2.0)),
    "varifocal": (VarifocalLoss, dict(alpha=0.75, gamma=2.0, iou_weighted=True)),
}


def load(row):
    cfg = load_config(os.path.join(ROWS, f"{row}.py"))
    with torch.device("meta"):
        return cfg, instantiate(cfg.model)


@pytest.mark.parametrize("row", TABLE2)
def test_table2(row):
    loss = load(f"table2/{row}")[1].cls_loss
    assert (loss.gamma, loss.alpha, loss.iou_weighted) == TABLE2[row]


@pytest.mark.parametrize("row", TABLE3)
def test_table3(row):
    model = load(f"table3/{row}")[1]
    head = model.head
    found = (head.star_conv, head.refine, head.centerness, type(model.cls_loss), model.box_loss_weight)
    assert found == TABLE3[row]


@pytest.mark.parametrize("row", TABLE5)
def test_losses_and_thresholds_of_table5(row):
    for host, nms_thresh in dict(vfnet=0.6, atss=0.6, foveabox=0.5, reppoints=0.5, retinanet=0.5).items():
        model = load_config(os.path.join(ROWS, f"table5/{host}_{row}.py")).model
        loss, options = TABLE5[row]
        options = dict(alpha=0.4, gamma=1.5) if (host, row) == ("foveabox", "focal") else options
        assert model.cls_loss == {"_target_": loss, **options}
        found = (model.test_score_thresh, model.test_nms_thresh, model.test_topk_candidates)
        assert found == (0.05, nms_thresh, 1000) and model.max_detections_per_image == 100
        assert model.pixel_mean == [123.675, 116.28, 103.53] and model.pixel_std == [58.395, 57.12, 57.375]


@pytest.mark.parametrize(
    "row, loss", [("focal", FocalLoss), ("quality_focal", QualityFocalLoss), ("varifocal", VarifocalLoss)]
)
def test_retinanet_of_table5(row, loss):
    cfg, model = load(f"table5/retinanet_{row}")
    assert type(model.cls_loss) is loss and type(model.anchor_matcher) is BestOfBoxMatcher
    assert not model.uses_ema and model.ignore_padding and model.smooth_l1_beta == 0
    bottom_up, top_block = model.backbone.bottom_up, model.backbone.top_block
    assert top_block.in_feature == "res5" and not top_block.relu_before_p7
    assert type(bottom_up.res3[0].conv2.norm) is StatFrozenBN and bottom_up.res3[0].conv2.stride == (2, 2)
    assert cfg.dataloader.test.mapper.image_format == model.input_format == "RGB"
    cfg.optimizer.params.model = model
    assert [(g["lr"], g["weight_decay"]) for g in instantiate(cfg.optimizer).param_groups] == [(0.01, 1e-4)]


@pytest.mark.parametrize("host", ["vfnet", "atss", "foveabox", "reppoints", "retinanet"])
def test_class_layers_are_those_whose_size_follows_the_classes(host):
    cfg, model = load(f"table5/{host}_focal")
    cfg.model.num_classes = 7
    with torch.device("meta"):
        other = instantiate(cfg.model).state_dict()
    depend = {name for name, value in model.state_dict().items() if value.shape != other[name].shape}
    assert depend == {name for name in other if name.startswith(model.class_layers)} and len(depend) == 2


@pytest.mark.parametrize("host", ["atss", "foveabox", "reppoints"])
def test_configs_spell_out_the_defaults(host):
    model = OmegaConf.to_container(load_config(os.path.join(ROWS, f"table5/{host}_focal.py")).model, resolve=True)
    checked = 0
    for node in (model, model["head"], model["assigner"], model.get("refine_assigner")):
        parameters = {} if node is None else inspect.signature(node["_target_"]).parameters
        for name in set(parameters) & set(node or {}):
            default = parameters[name].default
            if default is not inspect.Parameter.empty:
                assert node[name] == json.loads(json.dumps(default)), name
                checked += 1
    assert checked >= 11
