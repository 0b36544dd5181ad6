"""Varifocal, quality focal and focal loss: typed-out values, limits, and one interface."""

from vfnet_d2.varifocal_loss import FocalLoss, QualityFocalLoss, VarifocalLoss, quality_focal_loss, varifocal_loss

import pytest
import torch
from torch.nn import functional as F

LN2 = 0.6931472
LOSSES = [VarifocalLoss(), VarifocalLoss(iou_weighted=False), QualityFocalLoss(), FocalLoss()]


def test_varifocal_loss_typed_out():
    logits = torch.zeros(3)  # p = 0.5, cross-entropy ln 2 whatever the target
    targets = torch.tensor([0.0, 0.8, 1.0])
    loss = varifocal_loss(logits, targets)
    torch.testing.assert_close(loss, torch.tensor([0.75 * 0.25 * LN2, 0.8 * LN2, LN2]))
    loss = varifocal_loss(logits, targets, iou_weighted=False)
    torch.testing.assert_close(loss, torch.tensor([0.75 * 0.25 * LN2, LN2, LN2]))
    loss = varifocal_loss(logits, targets, alpha=0.5, gamma=1.0)
    torch.testing.assert_close(loss[0], torch.tensor(0.25 * LN2))
    # z = 2, q = 0.5: q * (q * -log p + (1 - q) * -log (1 - p)), p = 0.8807971
    loss = varifocal_loss(torch.tensor([2.0]), torch.tensor([0.5]))
    torch.testing.assert_close(loss, torch.tensor([0.5 * (0.5 * 0.1269280 + 0.5 * 2.1269280)]))


def test_quality_focal_loss_typed_out():
    loss = quality_focal_loss(torch.zeros(3), torch.tensor([0.0, 0.8, 0.5]))
    torch.testing.assert_close(loss, torch.tensor([0.25 * LN2, 0.09 * LN2, 0.0]))
    loss = quality_focal_loss(torch.zeros(1), torch.tensor([0.8]), beta=1.0)
    torch.testing.assert_close(loss, torch.tensor([0.3 * LN2]))


def test_gradient_passes_the_weight_of_negatives_but_not_the_target():
    logit = torch.tensor([0.3], requires_grad=True)
    varifocal_loss(logit, torch.zeros(1)).sum().backward()
    p = logit.detach().sigmoid()
    # d/dz of 0.75 * p^2 * -log(1 - p)
    torch.testing.assert_close(logit.grad, 0.75 * p**2 * (-2 * (1 - p) * torch.log(1 - p) + p))
    target = torch.tensor([0.6], requires_grad=True)
    loss = varifocal_loss(logit, target) + quality_focal_loss(logit, target)
    loss.sum().backward()
    assert target.grad is None


def test_gamma_0_and_alpha_1_is_cross_entropy():
    logits, targets = torch.randn(20, 3), torch.randint(0, 2, (20, 3)).float()
    expected = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    torch.testing.assert_close(varifocal_loss(logits, targets, alpha=1.0, gamma=0.0, iou_weighted=False), expected)
    torch.testing.assert_close(quality_focal_loss(logits, targets, beta=0.0), expected)


def test_the_three_read_labels_and_quality_alike():
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    labels = torch.tensor([1, 2, -1])  # class 1, background, ignored
    quality = torch.tensor([0.8, 0.9, 0.9])  # that of the others is not read
    negative = 0.25 * LN2
    sums = {type(loss).__name__: loss(logits, labels, quality).item() for loss in LOSSES[1:]}
    assert sums["VarifocalLoss"] == pytest.approx(LN2 + 3 * 0.75 * negative, rel=1e-6)
    assert sums["QualityFocalLoss"] == pytest.approx(0.09 * LN2 + 3 * negative, rel=1e-6)
    assert sums["FocalLoss"] == pytest.approx(0.25 * negative + 3 * 0.75 * negative, rel=1e-6)
    assert LOSSES[0](logits, labels, quality).item() == pytest.approx(0.8 * LN2 + 3 * 0.75 * negative, rel=1e-6)
    assert [loss.counts_padding for loss in LOSSES] == [True, True, False, False]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_losses_are_float32_and_finite_at_extreme_logits(loss, dtype):
    logits = torch.tensor([[-1e4, 1e4], [1e4, -1e4], [0.0, -1e4]], dtype=dtype, requires_grad=True)
    labels = torch.tensor([0, 0, 2])
    quality = torch.tensor([1e-6, 1.0, 0.0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(logits, labels, quality)
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_no_location_gives_zero_with_a_gradient(loss):
    logits = torch.zeros(0, 4, requires_grad=True)
    value = loss(logits, torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    value.backward()
    assert value.item() == 0 and logits.grad.shape == (0, 4)
