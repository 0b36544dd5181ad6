"""Backbones, neck and heads. Names and sizes of the released ones: test_released.py, test_size.py."""

import os

from tests.yolox_d2.tiny import tiny_head, tiny_yolox
from yolox_d2.cspdarknet import CSPDarknet, Focus
from yolox_d2.head import CoupledHead
from yolox_d2.pafpn import YOLOXPAFPN

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from torch import nn

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")


def test_norms_and_first_biases_are_those_of_the_released_models():
    nano = instantiate(LazyConfig.load(os.path.join(ROOT, "configs/yolox/yolox_nano.py")).model)
    for model in (nano, tiny_yolox()):
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.03)}
        for level in range(3):
            for layer in (model.head.cls_preds[level], model.head.obj_preds[level]):
                torch.testing.assert_close(layer.bias, torch.full_like(layer.bias, -4.595120), atol=1e-5, rtol=0)
            assert model.head.reg_preds[level].bias.abs().max() < 0.4


def test_focus_moves_patches_into_channels():
    seen = []
    focus = Focus(4, lambda *args: seen.append)
    focus(torch.arange(3 * 4 * 4.0).view(1, 3, 4, 4))
    # red, green, blue of each corner of the first patch: top left, bottom left, top right, bottom right
    assert seen[0][0, :, 0, 0].tolist() == [0, 16, 32, 4, 20, 36, 1, 17, 33, 5, 21, 37]


def test_coupled_head_splits_its_channels_by_anchor():
    torch.manual_seed(0)
    head = CoupledHead(in_channels=[4], num_classes=2).eval()
    biases = head.preds[0].bias.view(3, 7)  # the four of the box as PyTorch draws them
    assert biases[:, :4].abs().max() < 0.4 and biases[:, 4:].flatten().tolist() == pytest.approx([-4.595120] * 9)
    assert (head.convs[0].norm.eps, head.convs[0].norm.momentum) == (1e-3, 0.03)
    assert isinstance(head.convs[0].activation, nn.LeakyReLU)
    head.preds[0] = nn.Conv2d(8, 21, 1)
    nn.init.zeros_(head.preds[0].weight)
    head.preds[0].bias.data = torch.arange(21.0)
    outputs = head([torch.zeros(1, 4, 1, 1)])
    assert outputs.deltas[0].flatten().tolist() == [0, 1, 2, 3, 7, 8, 9, 10, 14, 15, 16, 17]
    assert outputs.obj_logits[0].flatten().tolist() == [4, 11, 18]
    assert outputs.cls_logits[0].flatten().tolist() == [5, 6, 12, 13, 19, 20]


def test_objectness_and_selector_stand_on_the_box_tower():
    head, seen = tiny_head(selector=True), {}
    for name, layer in (("box", head.reg_preds[0]), ("objectness", head.obj_preds[0]), ("selector", head.selectors[0])):
        layer.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: inputs[0]}))
    head([torch.rand(1, 8, 2, 2)] * 3)
    assert seen["box"] is seen["objectness"] is seen["selector"]


def test_a_shallow_backbone_keeps_a_block_and_a_shallow_neck_none():
    trunk = CSPDarknet(depth=0.1, width=0.125)
    neck = YOLOXPAFPN(bottom_up=trunk, depth=0.1)
    assert [len(getattr(trunk, f"dark{i}")[-1].blocks) for i in range(2, 6)] == [1, 3, 3, 1]
    assert [len(fuse.blocks) for fuse in (neck.fpn4, neck.fpn3, neck.pan4, neck.pan5)] == [0] * 4
    norms = [module for module in neck.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.03)}
    assert {type(module) for module in neck.modules()} & {nn.SiLU, nn.ReLU, nn.LeakyReLU} == {nn.SiLU}
    assert trunk.size_divisibility == neck.size_divisibility == 32


def test_maps_that_a_backbone_lacks_or_a_neck_cannot_join_are_errors():
    with pytest.raises(
        ValueError, match=r"out_features=\['dark1'\]; choose from \['dark2', 'dark3', 'dark4', 'dark5'\]"
    ):
        CSPDarknet(depth=0.33, width=0.125, out_features=["dark1"])
    trunk = CSPDarknet(depth=0.33, width=0.125, out_features=["dark2", "dark3", "dark5"])
    with pytest.raises(ValueError, match=r"\[16, 32, 128\] channels; each must double the one before"):
        YOLOXPAFPN(bottom_up=trunk, in_features=["dark2", "dark3", "dark5"], depth=0.33)
