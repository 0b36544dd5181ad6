"""The neck: what goes where, and the consistency property of the paper's section 3.3, in float64.

The paper takes the Jacobian of resizing for 1 and leaves out the way of the gradient through the softmax; so the first tests
below have fixed weights, and the adjoint of their resizing.
"""

from asff_d2.conv import conv_block, negative_slope
from asff_d2.fusion import ASFFNeck
from dense_d2.modeling.layers import make_activation
from tests.asff_d2.tiny import TinyPyramid

import pytest
import torch
import torch.nn.functional as F
from torch import nn

NAMES = ("p5", "p4", "p3")  # coarse first
SIZES = (4, 8, 16)
CHANNELS = 8


def plain_neck(fusion):
    """Resizes by nearest neighbour and averages, has no last convolution (but for concat, which is read before it)."""
    torch.manual_seed(0)
    neck = ASFFNeck(bottom_up=TinyPyramid(), fusion=fusion, compress_channels=4, expand=fusion == "concat").double()
    for target, level in enumerate(neck.levels):
        level.resize = nn.ModuleList(
            nn.Upsample(scale_factor=2.0 ** (target - n)) if n <= target else nn.AvgPool2d(2 ** (n - target))
            for n in range(3)
        )
    return neck


def fix_weights(neck, weights):
    for level, weight in zip(neck.levels, weights):
        level.weights = lambda resized, weight=weight: weight


def random_maps(channels=CHANNELS, grad=True):
    return {
        name: torch.randn(2, channels, size, size, dtype=torch.float64, requires_grad=grad)
        for name, size in zip(NAMES, SIZES)
    }


def adjoint(x, source, target):
    """Adjoint of the resizing from level `source` to `target`, applied to a map of `target`."""
    k = 2 ** abs(target - source)
    if target >= source:  # of nearest neighbour: the sum over k x k cells
        return F.avg_pool2d(x, k) * k**2
    return F.interpolate(x, scale_factor=float(k)) / k**2


@pytest.mark.parametrize("fusion", ["asff", "sum", "concat"])
def test_gradient_of_a_level_is_that_of_the_fusions_times_their_weights(fusion):
    neck = plain_neck(fusion)
    weights = [torch.rand(2, 3, s, s, dtype=torch.float64).softmax(dim=1) for s in SIZES]
    if fusion == "asff":
        fix_weights(neck, weights)
    features = random_maps()
    grads = [torch.randn_like(x) for x in random_maps(CHANNELS * (3 if fusion == "concat" else 1)).values()]
    _, _, fused = neck.fuse(features, return_weights=True)
    sum((fused[name] * grad).sum() for name, grad in zip(NAMES, grads)).backward()
    for n, name in enumerate(NAMES):
        expected = 0
        for level, grad in enumerate(grads):
            if fusion == "concat":
                grad = grad[:, n * CHANNELS : (n + 1) * CHANNELS]
            elif fusion == "asff":
                grad = grad * weights[level][:, n : n + 1]
            expected = expected + adjoint(grad, n, level)
        torch.testing.assert_close(features[name].grad, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("alpha", [1 / 3, 0.1, 0.01, 1e-4, 0.0, None])
def test_conflict_of_an_object_with_background_fades_with_the_weight(alpha):
    """An object on level 0 whose cells are background elsewhere. alpha: the weight of level 0 there; None: sum."""
    neck = plain_neck("sum" if alpha is None else "asff")
    if alpha is not None:
        weights = [torch.zeros(1, 3, s, s, dtype=torch.float64) for s in SIZES]
        weights[0][:, 0] = 1
        weights[1][:, 0] = weights[2][:, 0] = alpha
        fix_weights(neck, weights)
    v = torch.randn(CHANNELS, 1, 1, dtype=torch.float64)
    grads = [torch.zeros(1, CHANNELS, s, s, dtype=torch.float64) for s in SIZES]
    grads[0][0, :, 1:2, 2:3] = v
    grads[1][0, :, 2:4, 4:6] = -v / 2
    grads[2][0, :, 4:8, 8:12] = -v / 4
    features = {name: x[:1].detach().requires_grad_() for name, x in random_maps().items()}
    _, _, fused = neck.fuse(features, return_weights=True)
    sum((fused[name] * grad).sum() for name, grad in zip(NAMES, grads)).backward()
    factor = -5 if alpha is None else 1 - 6 * alpha
    torch.testing.assert_close(features["p5"].grad[0, :, 1:2, 2:3], factor * v, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_one_weight_of_1_takes_one_level(chosen):
    torch.manual_seed(0)
    neck = ASFFNeck(bottom_up=TinyPyramid(), compress_channels=4).double().eval()
    for level in neck.levels:
        with torch.no_grad():
            level.weight_logits.weight.zero_()
            level.weight_logits.bias.copy_(50.0 * (torch.arange(3) == chosen))
    features = random_maps()
    for name, level in zip(NAMES, neck.levels):
        maps = [features[n] for n in NAMES]
        _, _, fused = level(maps)
        torch.testing.assert_close(fused, level.resize[chosen](maps[chosen]), rtol=1e-12, atol=1e-12)
        grads = torch.autograd.grad(fused.sum(), maps, allow_unused=True)
        assert grads[chosen].abs().max() > 1e-3
        assert all(g.abs().max() < 1e-15 for n, g in enumerate(grads) if n != chosen), name


def test_weights_of_a_level():
    neck = ASFFNeck(bottom_up=TinyPyramid(), compress_channels=4).double()
    features = random_maps(grad=False)
    outputs, weights, fused = neck.fuse(features, return_weights=True)
    for name, size, level in zip(NAMES, SIZES, neck.levels):
        assert weights[name].shape == (2, 3, size, size)
        assert weights[name].min() >= 0 and weights[name].max() <= 1
        torch.testing.assert_close(weights[name].sum(dim=1), torch.ones(2, size, size).double())
        fused[name].square().sum().backward(retain_graph=True)
        assert level.weight_logits.weight.grad.abs().sum() > 0
        resized = [resize(features[n]) for n, resize in zip(NAMES, level.resize)]
        expected = sum(x * weights[name][:, n, None] for n, x in enumerate(resized))  # one weight for all channels
        torch.testing.assert_close(fused[name], expected, rtol=1e-12, atol=1e-12)
    assert outputs["p3"].shape == features["p3"].shape


def test_uniform_start():
    neck = ASFFNeck(bottom_up=TinyPyramid(), uniform_start=True)
    _, weights, _ = neck.fuse({name: torch.randn(1, 8, s, s) for name, s in zip(NAMES, SIZES)}, return_weights=True)
    torch.testing.assert_close(weights["p4"], torch.full((1, 3, 8, 8), 1 / 3))


def test_released_resizing():
    """Two levels down a pool comes first; two equal numbers of channels need no convolution upwards."""
    pyramid = TinyPyramid({"p3": (8, 4), "p4": (16, 8), "p5": (32, 16)})
    neck = ASFFNeck(bottom_up=pyramid, widen={"p3": 8}, out_channels=[8, 16, 32], compress_channels=4)
    kinds = [[[type(layer).__name__ for layer in resize] for resize in level.resize] for level in neck.levels]
    assert kinds == [
        [[], ["ConvBlock"], ["MaxPool2d", "ConvBlock"]],
        [["ConvBlock", "Upsample"], [], ["ConvBlock"]],
        [["ConvBlock", "Upsample"], ["Upsample"], []],
    ]
    shapes = {name: (s.channels, s.stride) for name, s in neck.output_shape().items()}
    assert shapes == {"p3": (8, 8), "p4": (16, 16), "p5": (32, 32)}
    outputs = neck(torch.randn(2, 3, 64, 96))
    assert {name: tuple(x.shape[1:]) for name, x in outputs.items()} == {
        "p3": (8, 8, 12),
        "p4": (16, 4, 6),
        "p5": (32, 2, 3),
    }


@pytest.mark.parametrize("compress,million", [(16, 3.778), (8, 3.759)])
def test_size_under_retinanet(compress, million):
    levels = {f"p{i}": (2**i, 256) for i in range(3, 8)}
    with torch.device("meta"):
        pyramid = TinyPyramid(levels)
        neck = ASFFNeck(bottom_up=pyramid, compress_channels=compress, compress_equal=True, activation="ReLU")
        features = {f"p{i}": torch.zeros(1, 256, 64 // 2 ** (i - 3), 64 // 2 ** (i - 3)) for i in range(3, 8)}
        outputs = neck.fuse(features)
    own = sum(p.numel() for p in neck.parameters()) - sum(p.numel() for p in pyramid.parameters())
    assert round(own / 1e6, 3) == million
    assert list(outputs) == list(features) == list(neck.output_shape())
    assert outputs["p6"] is features["p6"] and outputs["p7"] is features["p7"]
    assert outputs["p5"].shape == features["p5"].shape


@pytest.mark.parametrize("norm", ["BN", "GN", ""])
@pytest.mark.parametrize("fusion", ["asff", "sum", "concat", "none"])
def test_every_fusion_and_norm_on_two_and_four_levels(fusion, norm):
    for count in (2, 4):
        pyramid = TinyPyramid({f"p{i}": (2**i, 8) for i in range(2, 2 + count)})
        neck = ASFFNeck(bottom_up=pyramid, in_features=list(pyramid.output_shape()), fusion=fusion, norm=norm)
        outputs = neck(torch.randn(2, 3, 64, 64))
        sum(x.square().sum() for x in outputs.values()).backward()
        assert all(p.grad is not None for p in neck.parameters())
        if fusion == "none":
            assert len(list(neck.levels.parameters())) == 0


def test_group_norm_of_narrow_convolutions():
    neck = ASFFNeck(bottom_up=TinyPyramid(), norm="GN")
    assert neck.levels[0].weight_convs[0].norm.num_groups == 2  # of 8 channels
    neck = ASFFNeck(bottom_up=TinyPyramid(), norm="GN", compress_channels=48)
    assert neck.levels[0].weight_convs[0].norm.num_groups == 6  # 32 do not divide them either


def test_without_a_norm_the_activation_stays():
    block, x = conv_block(4, 4, 3, norm="", activation="LeakyReLU"), torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(block(x), F.leaky_relu(F.conv2d(x, block.conv.weight, block.conv.bias, padding=1), 0.1))


@pytest.mark.parametrize("activation", ["LeakyReLU", "ReLU"])
def test_initial_weights_are_meant_for_the_activation(activation):
    slope = -make_activation(activation)(torch.tensor(-1.0)).item()
    assert negative_slope(activation) == pytest.approx(slope)
    torch.manual_seed(0)
    neck = ASFFNeck(bottom_up=TinyPyramid(), widen={"p3": 64}, activation=activation)
    for conv in (neck.widen["p3"].conv, neck.levels[2].expand.conv):
        expected = (2 / (1 + slope**2) / conv.weight[0].numel()) ** 0.5
        assert conv.weight.std().item() == pytest.approx(expected, rel=0.05)


def test_what_the_neck_asks_of_the_input():
    class Pyramid(TinyPyramid):
        padding_constraints = {"square_size": 128}

    neck = ASFFNeck(bottom_up=Pyramid({"p5": (32, 8), "p6": (64, 8)}), in_features=["p5", "p6"])
    assert (neck.size_divisibility, neck.padding_constraints) == (64, {"square_size": 128})


@pytest.mark.parametrize(
    "wrong",
    [{"fusion": "add"}, {"in_features": ["p3", "p5"]}, {"in_features": ["p3"]}, {"in_features": ["p3", "p6"]}]
    + [{"in_features": ["p5", "p4"]}, {"out_channels": [8, 8]}, {"fusion": "concat", "expand": False}],
)
def test_errors(wrong):
    with pytest.raises(ValueError):
        ASFFNeck(bottom_up=TinyPyramid(), **wrong)
