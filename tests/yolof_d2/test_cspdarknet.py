import math

from yolof_d2 import add_yolof_config
from yolof_d2.cspdarknet import CSPDarkNet

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from torch import nn


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return CSPDarkNet(norm="BN", res5_dilation=2, out_features=["res2", "res5"])


def test_outputs(model):
    with torch.no_grad():
        outputs = model.eval()(torch.zeros(1, 3, 64, 96))
    assert {name: tuple(out.shape) for name, out in outputs.items()} == {
        "res2": (1, 128, 16, 24),
        "res5": (1, 1024, 4, 6),
    }
    shapes = model.output_shape()
    assert (shapes["res2"].stride, shapes["res5"].stride, shapes["res5"].channels) == (4, 16, 1024)


def test_dilation_is_in_every_3x3_of_res5_and_nowhere_else(model):
    dilated = {name for name, conv in model.named_modules() if isinstance(conv, nn.Conv2d) and conv.dilation == (2, 2)}
    assert dilated == {"layer5.base_layer.0"} | {f"layer5.stage_layers.{i}.conv2" for i in range(4)}
    with torch.device("meta"):
        assert CSPDarkNet(norm="BN").output_shape()["res5"].stride == 32


def test_widths_of_the_first_stage_and_of_the_others(model):
    shapes = {name: tuple(p.shape[:2]) for name, p in model.named_parameters() if p.dim() == 4}
    assert shapes["conv1.weight"] == (32, 3)
    assert shapes["layer1.partial_transition1.0.weight"] == (64, 64)
    assert shapes["layer1.stage_layers.0.downsample.0.weight"] == (64, 64)
    assert shapes["layer1.stage_layers.0.conv1.weight"] == (32, 64)
    assert shapes["layer1.fuse_transition.0.weight"] == (64, 128)
    assert shapes["layer3.partial_transition2.0.weight"] == (128, 128)
    assert shapes["layer3.stage_layers.7.conv2.weight"] == (128, 128)
    assert shapes["layer3.fuse_transition.0.weight"] == (256, 256)
    assert "layer3.stage_layers.1.downsample.0.weight" not in shapes


def test_blocks_come_first_in_the_fusion(model):
    stage = model.layer2.eval()
    x = torch.randn(1, 64, 8, 8)
    seen = []
    handle = stage.fuse_transition.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        stage(x)
        base = stage.base_layer(x)
        expected = [stage.partial_transition2(stage.stage_layers(base)), stage.partial_transition1(base)]
    handle.remove()
    torch.testing.assert_close(seen[0], torch.cat(expected, dim=1))


def test_activation_comes_before_the_addition(model):
    block = model.layer2.stage_layers[1].eval()
    x = torch.randn(1, 64, 4, 4)
    with torch.no_grad():
        out = block.bn2(block.conv2(nn.functional.mish(block.bn1(block.conv1(x)))))
        torch.testing.assert_close(block(x), x + out * torch.tanh(torch.log1p(out.exp())))


def test_the_stem_ends_with_an_activation(model):
    seen, x = [], torch.randn(1, 3, 32, 32)
    handle = model.layer1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model.eval()(x)
        torch.testing.assert_close(seen[0], nn.functional.mish(model.bn1(model.conv1(x))))
    handle.remove()


def test_frozen_parameters_but_moving_statistics(model):
    frozen = {name.split(".")[0] for name, p in model.named_parameters() if not p.requires_grad}
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1", "layer2"} and trained == {"layer3", "layer4", "layer5"}
    before = model.bn1.running_mean.clone()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        batch_mean = model.conv1(x).mean(dim=(0, 2, 3))
        model.train()(x)
    torch.testing.assert_close(model.bn1.running_mean, before + 0.03 * (batch_mean - before))
    with torch.device("meta"):
        assert all(p.requires_grad for p in CSPDarkNet(freeze_at=0).parameters())


def test_norm_of_the_released_model():
    with torch.device("meta"):
        model = CSPDarkNet()
    norms = [m for m in model.modules() if isinstance(m, nn.SyncBatchNorm)]
    assert len(norms) == 1 + 5 * 4 + (1 + 2 + 8 + 8 + 4) * 2 + 5
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-4, 0.03)}
    assert math.isclose(sum(p.numel() for p in model.parameters()) / 1e6, 26.617, abs_tol=5e-4)


def test_initial_weights(model):
    for conv in (model.layer3.base_layer[0], model.layer5.stage_layers[0].conv2):
        fan_out = conv.out_channels * 9
        assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.02)


def test_backbone_of_a_yacs_config():
    cfg = get_cfg()
    add_yolof_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_yolof_cspdarknet_backbone"
    with torch.device("meta"):
        released = build_backbone(cfg)
        cfg.MODEL.BACKBONE.FREEZE_AT, cfg.MODEL.YOLOF.CSPDARKNET.NORM = 1, "BN"
        other = build_backbone(cfg)
    assert {name: (s.channels, s.stride) for name, s in released.output_shape().items()} == {"res5": (1024, 16)}
    assert isinstance(released.bn1, nn.SyncBatchNorm) and not released.layer2.base_layer[0].weight.requires_grad
    assert type(other.bn1) is not nn.SyncBatchNorm and other.layer2.base_layer[0].weight.requires_grad


def test_unknown_output_is_an_error():
    with pytest.raises(ValueError, match="dark5.*res1"):
        CSPDarkNet(norm="BN", out_features=["dark5"])
