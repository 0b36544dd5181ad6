from yolof_d2.encoder import DilatedBlock, DilatedEncoder

import pytest
import torch
from torch import nn


def encoder(**kwargs):
    torch.manual_seed(0)
    return DilatedEncoder(in_channels=12, channels=16, block_mid_channels=4, **kwargs)


def test_dilations_and_names():
    model = encoder(block_dilations=[2, 4, 6])
    blocks = model.dilated_encoder_blocks
    assert [block.conv2[0].dilation for block in blocks] == [(2, 2), (4, 4), (6, 6)]
    assert model(torch.randn(2, 12, 5, 7)).shape == (2, 16, 5, 7)
    assert [[b.shortcut for b in encoder(shortcut=s).dilated_encoder_blocks] for s in (True, False)] == [
        [True] * 4,
        [False] * 4,
    ]
    names = {name.split(".", 2)[-1] for name in model.state_dict() if name.startswith("dilated_encoder_blocks.2")}
    assert {"conv1.0.bias", "conv2.0.weight", "conv3.1.running_var"} <= names and len(names) == 3 * 7


def test_a_block_sees_as_far_as_its_dilation():
    block = DilatedBlock(16, 4, dilation=3).eval()
    x = torch.randn(1, 16, 9, 9, requires_grad=True)
    (block(x) - x)[0, :, 4, 4].sum().backward()
    seen = x.grad.abs().sum(dim=1)[0].nonzero().unique().tolist()
    assert seen == [1, 4, 7]


def test_without_blocks_the_projector_is_left():
    model = encoder(block_dilations=[]).eval()
    x = torch.randn(1, 12, 4, 4)
    expected = nn.functional.conv2d(
        nn.functional.conv2d(x, model.lateral_conv.weight) / (1 + 1e-5) ** 0.5, model.fpn_conv.weight, padding=1
    )
    torch.testing.assert_close(model(x), expected / (1 + 1e-5) ** 0.5)
    assert (model(x) < 0).any()  # no activation


@pytest.mark.parametrize("activation, slope", [("ReLU", 0.0), ("LeakyReLU", 0.1)])
def test_activation_comes_before_the_addition(activation, slope):
    x = torch.randn(1, 16, 6, 6)
    with_shortcut = DilatedBlock(16, 4, 1, activation=activation).eval()
    alone = DilatedBlock(16, 4, 1, activation=activation, shortcut=False).eval()
    alone.load_state_dict(with_shortcut.state_dict())
    branch = alone(x)
    torch.testing.assert_close(with_shortcut(x), branch + x)
    before = alone.conv3[1](alone.conv3[0](alone.conv2(alone.conv1(x))))
    torch.testing.assert_close(branch, torch.where(before > 0, before, slope * before))


def test_norm_and_activation_can_be_chosen():
    block = DilatedBlock(64, 32, dilation=1, norm="GN")
    assert isinstance(block.conv1[1], nn.GroupNorm)
    with pytest.raises(ValueError, match="'relu' is not known.*ReLU"):
        encoder(activation="relu")


def test_initial_weights():
    torch.manual_seed(0)
    model = DilatedEncoder()
    std = {"lateral_conv": 0.0221, "fpn_conv": 0.0147, "dilated_encoder_blocks.3.conv2.0": 0.01}
    for name, expected in std.items():
        layer = model.get_submodule(name)
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.02)
        assert not layer.bias.any()
