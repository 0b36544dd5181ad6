import math

from vfnet_d2.varifocal_loss import (
    FocalLoss,
    QualityFocalLoss,
    VarifocalLoss,
    quality_focal_loss,
    varifocal_loss,
)

import pytest
import torch
from torch.nn import functional as F

LOSSES = [VarifocalLoss(), VarifocalLoss(iou_weighted=False), QualityFocalLoss(), FocalLoss()]
LOGITS = torch.tensor([[0.5, -1.0], [2.0, 0.0], [-3.0, 1.0], [9.0, 9.0]])
LABELS = torch.tensor([0, 1, 2, -1])  # the third is background, the fourth ignored
QUALITY = torch.tensor([0.8, 0.25, 0.9, 0.9])


def p(z):
    return 1 / (1 + math.exp(-z))


def entropy(z, q):
    return -q * math.log(p(z)) - (1 - q) * math.log(1 - p(z))


def test_varifocal_by_hand():
    def absent(z):
        return 0.75 * p(z) ** 2 * entropy(z, 0)

    negatives = absent(-1) + absent(2) + absent(-3) + absent(1)
    present = 0.8 * entropy(0.5, 0.8) + 0.25 * entropy(0, 0.25)
    assert VarifocalLoss()(LOGITS, LABELS, QUALITY).item() == pytest.approx(negatives + present, rel=1e-6)
    present = entropy(0.5, 0.8) + entropy(0, 0.25)
    loss = VarifocalLoss(iou_weighted=False)(LOGITS, LABELS, QUALITY)
    assert loss.item() == pytest.approx(negatives + present, rel=1e-6)
    # 0.7310586 = sigmoid(1): 0.4 * 0.7310586**1.5 * 1.3132617
    loss = varifocal_loss(torch.tensor(1.0), torch.tensor(0.0), alpha=0.4, gamma=1.5)
    assert loss.item() == pytest.approx(0.328349, rel=1e-5)


def test_quality_focal_by_hand():
    def term(z, q):
        return abs(q - p(z)) ** 2 * entropy(z, q)

    expected = term(0.5, 0.8) + term(-1, 0) + term(2, 0) + term(0, 0.25) + term(-3, 0) + term(1, 0)
    assert QualityFocalLoss()(LOGITS, LABELS, QUALITY).item() == pytest.approx(expected, rel=1e-6)


def test_focal_ignores_the_quality():
    def term(z, present):
        z, alpha = (z, 0.25) if present else (-z, 0.75)
        return -alpha * (1 - p(z)) ** 2 * math.log(p(z))

    expected = term(0.5, True) + term(0, True) + sum(term(z, False) for z in (-1, 2, -3, 1))
    assert FocalLoss()(LOGITS, LABELS, QUALITY).item() == pytest.approx(expected, rel=1e-6)
    assert FocalLoss()(LOGITS, LABELS).item() == pytest.approx(expected, rel=1e-6)


def test_the_classes_hand_on_their_options():
    background = LOGITS[2:3], LABELS[2:3], QUALITY[2:3]
    for loss, alpha, gamma in (
        (VarifocalLoss(alpha=0.4, gamma=1.5), 0.4, 1.5),
        (QualityFocalLoss(beta=1.5), 1, 1.5),
        (FocalLoss(alpha=0.4, gamma=1.5), 0.6, 1.5),
    ):
        expected = sum(alpha * p(z) ** gamma * entropy(z, 0) for z in (-3, 1))
        assert loss(*background).item() == pytest.approx(expected, rel=1e-6)


def test_properties():
    logits = torch.linspace(-4, 4, 9)
    ones = torch.ones_like(logits)
    cross_entropy = F.binary_cross_entropy_with_logits
    # gamma 0 and alpha 1 leave cross-entropy, on either side; so does beta 0
    for targets in (ones, 0 * ones):
        expected = cross_entropy(logits, targets, reduction="none")
        torch.testing.assert_close(varifocal_loss(logits, targets, alpha=1.0, gamma=0.0), expected)
        torch.testing.assert_close(quality_focal_loss(logits, targets, beta=0.0), expected)
    assert varifocal_loss(logits, 0 * ones, alpha=0.0).abs().max() == 0
    # a positive is best where its score is its quality
    assert varifocal_loss(logits, ones * p(2)).argmin() == quality_focal_loss(logits, ones * p(2)).argmin() == 6


def test_weight_of_negatives_is_differentiated_and_that_of_positives_is_not():
    z = torch.tensor([0.7, 0.7], requires_grad=True)
    target = torch.tensor([0.0, 0.6], requires_grad=True)
    varifocal_loss(z, target).sum().backward()
    # d/dz of 0.75 p^2 softplus(z) is 0.75 p^2 (2 (1 - p) softplus(z) + p)
    negative = 0.75 * p(0.7) ** 2 * (2 * (1 - p(0.7)) * math.log(1 + math.exp(0.7)) + p(0.7))
    torch.testing.assert_close(z.grad, torch.tensor([negative, 0.6 * (p(0.7) - 0.6)]))
    assert target.grad is None


def test_weight_of_quality_focal_is_differentiated_and_its_target_is_not():
    z = torch.tensor([0.7, 0.7], requires_grad=True)
    target = torch.tensor([0.0, 0.6], requires_grad=True)
    quality_focal_loss(z, target).sum().backward()
    # d/dz of (p - q)^2 H(z, q) is 2 (p - q) p (1 - p) H + (p - q)^3
    expected = [2 * (p(0.7) - q) * p(0.7) * (1 - p(0.7)) * entropy(0.7, q) + (p(0.7) - q) ** 3 for q in (0, 0.6)]
    torch.testing.assert_close(z.grad, torch.tensor(expected))
    assert target.grad is None


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_huge_logits_stay_finite_in_float32(loss, dtype):
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [1e4, -1e4]], dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(logits, torch.tensor([0, 0, 2]), torch.tensor([1e-6, 1.0, 0.5]))
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite() and value > 1000
    assert logits.grad.isfinite().all() and logits.grad.abs().max() > 0


@pytest.mark.parametrize("loss", LOSSES)
def test_no_positive_and_nothing_at_all(loss):
    logits = torch.zeros(2, 3, 4, requires_grad=True)
    background = loss(logits, torch.full((2, 3), 4), torch.zeros(2, 3))
    background.backward()
    assert background > 0 and (logits.grad > 0).all()
    ignored = loss(logits, torch.full((2, 3), -1), torch.ones(2, 3))
    ignored.backward()
    assert ignored == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_no_location_gives_zero_with_a_gradient(loss):
    logits = torch.zeros(0, 4, requires_grad=True)
    value = loss(logits, torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    value.backward()
    assert value == 0 and logits.grad.shape == (0, 4)


def test_only_varifocal_counts_padding():
    assert [loss.counts_padding for loss in LOSSES] == [True, True, False, False]
