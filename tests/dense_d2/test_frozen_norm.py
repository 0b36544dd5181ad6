from dense_d2.modeling.frozen_norm import fold_frozen_norms

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn


def block(bias):
    torch.manual_seed(0)
    conv = Conv2d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2, bias=bias, norm=FrozenBatchNorm2d(6))
    conv.activation = nn.LeakyReLU(0.1)
    for name, low in (("weight", 0.5), ("bias", -1), ("running_mean", -1), ("running_var", 0.5)):
        getattr(conv.norm, name).uniform_(low, 2)
    return nn.Sequential(conv)


def test_folded_equals_unfolded_in_value_and_gradient():
    for bias in (False, True):
        plain, folded = block(bias).double(), fold_frozen_norms(block(bias)).double()
        assert list(plain.state_dict()) == list(folded.state_dict())
        x = torch.randn(2, 4, 9, 11, dtype=torch.float64)
        results = []
        for model in (plain, folded):
            inputs = x.clone().requires_grad_()
            out = model(inputs)
            (out * torch.arange(out.numel()).view_as(out)).sum().backward()
            results.append([out, inputs.grad, *(p.grad for p in model.parameters())])
        for a, b in zip(*results):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-9)


def test_only_frozen_norms_are_folded():
    model = nn.Sequential(Conv2d(3, 4, 1, norm=nn.BatchNorm2d(4)), Conv2d(4, 4, 1), block(False))
    before = [type(module) for module in model]
    fold_frozen_norms(model)
    assert [type(module) for module in model] == before
    assert type(model[2][0]) is not Conv2d
