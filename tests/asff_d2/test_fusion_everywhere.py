"""Fusion is a matter of config: the rows' own networks, made narrow, with each fusion under each detector."""

import os

from dense_d2.config import load_config
from dense_d2.modeling.fuse import fuse_conv_bn
from tests.asff_d2.tiny import batch

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Instances
from omegaconf import OmegaConf
from torch import nn

CONFIGS = os.path.join(os.path.dirname(__file__), "..", "..", "configs", "asff")
TRUNK = "backbone.bottom_up.bottom_up"
THIN_RESNET = {
    f"{TRUNK}.stages.depth": 18,
    f"{TRUNK}.stages.base_channels": 8,
    f"{TRUNK}.stages.norm": "BN",
    f"{TRUNK}.stem.out_channels": 8,
    f"{TRUNK}.freeze_at": 0,
    "backbone.bottom_up.out_channels": 32,
}
# detector: (row, what makes its network narrow)
DETECTORS = {
    "yolox": ("yolox_s_asff", {f"{TRUNK}.width": 0.125}),
    "vfnet": ("vfnet_r50_asff", {**THIN_RESNET, "head.feat_channels": 32, "head.num_convs": 1}),
    "retinanet": (
        "retinanet_r50_asff_1x",
        {
            **THIN_RESNET,
            "backbone.bottom_up.top_block.in_channels": 64,
            "head.input_shape.0.channels": 32,
            "head.conv_dims": [32],
        },
    ),
    "yolov3": (
        "asff_darknet53_asff",
        {
            f"{TRUNK}.base_channels": 4,
            f"{TRUNK}.num_blocks": [1, 1, 1, 1, 1],
            "backbone.bottom_up.channels": 16,
            "backbone.out_channels": [32, 64, 128],
            "backbone.widen": {"p3": 32},
            "backbone.norm": "BN",
        },
    ),
}
FUSIONS = ("asff", "sum", "concat", "none")
BOXES = ([2, 2, 250, 190], [100, 50, 220, 160], [40, 40, 70, 60])  # large, medium, small


def build(detector, fusion="asff"):
    row, overrides = DETECTORS[detector]
    cfg = load_config(os.path.join(CONFIGS, f"{row}.py"))
    for key, value in {**overrides, "backbone.fusion": fusion, "num_classes": 3}.items():
        OmegaConf.update(cfg.model, key, value, merge=False, force_add=True)
    torch.manual_seed(0)
    return instantiate(cfg.model)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("detector", DETECTORS)
def test_trains_and_evaluates(detector, fusion):
    model = build(detector, fusion).train()
    fusion_params = dict(model.backbone.levels.named_parameters())
    assert any("weight_logits" in name for name in fusion_params) == (fusion == "asff")
    # YOLOv3 alone widens its levels behind the fusion, with whatever fusion
    assert bool(fusion_params) == (fusion != "none" or detector == "yolov3")
    before = {name: p.detach().clone() for name, p in fusion_params.items()}
    inputs = batch((BOXES, [0, 1, 2]), size=(192, 256))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = model(inputs)
    sum(losses.values()).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 10.0)  # sums over all cells, in YOLOv3
    optimizer.step()
    assert all(torch.isfinite(value) for value in losses.values())
    assert [name for name, p in fusion_params.items() if torch.equal(p, before[name])] == []

    model.eval()
    model.test_score_thresh = 0.0
    with torch.no_grad():
        results = [result["instances"] for result in model(inputs)]
    assert all(isinstance(result, Instances) and len(result) for result in results)
    assert all(result.pred_boxes.tensor.isfinite().all() for result in results)


@pytest.mark.parametrize("fusion", ["asff", "concat"])
def test_merged_batch_norms_compute_the_same(fusion):
    model = build("yolox", fusion).eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):  # as after training
            assert (norm.eps, norm.momentum) == (1e-3, 0.03)
            norm.running_mean.normal_(std=0.1)
            norm.running_var.uniform_(0.5, 2.0)
            norm.weight.data.uniform_(0.5, 1.5)
            norm.bias.data.normal_(std=0.1)
    fused = fuse_conv_bn(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected, found = model.backbone(image), fused.backbone(image)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-4)


def test_sizes_of_table_3():
    """ASFF without its three weight branches; concatenation makes the last convolutions read three maps instead of one."""
    sizes = {}
    for row in ("asff_darknet53_asff", "ablation/table3/sum", "ablation/table3/concat"):
        with torch.device("meta"):
            model = instantiate(load_config(os.path.join(CONFIGS, f"{row}.py")).model)
        sizes[os.path.basename(row)] = sum(p.numel() for p in model.parameters())
    assert sizes["sum"] == sizes["asff_darknet53_asff"] - (24_819 + 12_531 + 12_531)
    assert sizes["concat"] == sizes["sum"] + 2 * 9 * (512 * 1024 + 256 * 512 + 256 * 256)
