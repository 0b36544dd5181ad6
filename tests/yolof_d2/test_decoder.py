import math

from yolof_d2.decoder import YOLOFDecoder, combine_objectness

import pytest
import torch


def released_formula(c, o):
    return c + o - torch.log(1 + c.exp().clamp(max=1e8) + o.exp().clamp(max=1e8))


def grid(*values):
    values = torch.tensor(values, dtype=torch.float32)
    c, o = torch.meshgrid(values, values, indexing="ij")
    return c.flatten().requires_grad_(), o.flatten().requires_grad_()


def test_equals_the_released_formula_in_value_and_gradient():
    c, o = grid(-200.0, -88, -20, -3, -0.5, 0, 0.5, 3, 10, 18, 19, 50, 88)
    results = [(f(c, o), *torch.autograd.grad(f(c, o).sum(), (c, o))) for f in (combine_objectness, released_formula)]
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_is_the_logit_of_the_product_of_probabilities():
    c, o = grid(-8.0, -2, -0.1, 0, 1.5, 4)
    expected = torch.logit(c.double().sigmoid() * o.double().sigmoid())
    torch.testing.assert_close(combine_objectness(c, o).double(), expected, rtol=1e-5, atol=1e-5)


def test_large_logits_stay_finite_forwards_and_backwards():
    c, o = grid(-200.0, 0, 88.8, 100, 200)
    out = combine_objectness(c, o)
    out.sum().backward()
    assert all(t.isfinite().all() for t in (out, c.grad, o.grad))


def test_half_precision_is_computed_in_float32():
    c, o = torch.tensor([60.0, -30, 2]), torch.tensor([40.0, 5, -7])
    out = combine_objectness(c.half(), o.half())
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, combine_objectness(c, o))


def test_initial_scores():
    torch.manual_seed(0)
    decoder = YOLOFDecoder(in_channels=16, num_classes=7, num_anchors=2, prior_prob=0.02)
    logits, deltas = decoder(torch.zeros(1, 16, 2, 3))
    assert logits.shape == (1, 14, 2, 3) and deltas.shape == (1, 8, 2, 3)
    torch.testing.assert_close(decoder.cls_score.bias, torch.full((14,), -math.log(49)))
    for conv in (decoder.cls_subnet[0], decoder.bbox_subnet[9], decoder.bbox_pred):
        assert conv.weight.std().item() == pytest.approx(0.01, rel=0.05) and not conv.bias.any()
    torch.testing.assert_close(logits.sigmoid(), torch.full_like(logits, 0.02 * 0.5), rtol=0.05, atol=0)


def test_objectness_belongs_to_an_anchor_and_comes_from_the_box_tower():
    torch.manual_seed(0)
    decoder = YOLOFDecoder(in_channels=16, num_classes=3, num_anchors=2).eval()
    before = decoder(torch.zeros(1, 16, 1, 1))[0].flatten()
    torch.nn.init.constant_(decoder.object_pred.bias[1:], -50.0)
    after = decoder(torch.zeros(1, 16, 1, 1))[0].flatten()
    torch.testing.assert_close(after[:3], before[:3])
    assert (after[3:] < -50).all()

    decoder(torch.randn(1, 16, 4, 4))[0].sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in decoder.bbox_subnet.parameters() if p.dim() > 1)
    assert decoder.bbox_pred.weight.grad is None  # deltas took no part
