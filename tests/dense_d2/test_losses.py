import math

from dense_d2.modeling.losses import giou_loss, iou_loss, sigmoid_focal_loss

import torch
from fvcore.nn import giou_loss as fvcore_giou
from fvcore.nn import sigmoid_focal_loss as fvcore_focal


def test_focal_loss_equals_the_one_hot_form_in_value_and_gradient():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 30, 5, generator=generator, dtype=torch.float64).float().mul_(4).requires_grad_()
    labels = torch.randint(-1, 6, (2, 30), generator=generator)
    valid = labels >= 0
    one_hot = torch.nn.functional.one_hot(labels.clamp(min=0), 6)[..., :5].float()
    for alpha, gamma in ((0.25, 2.0), (0.6, 1.5)):
        ours = sigmoid_focal_loss(logits, labels, alpha=alpha, gamma=gamma)
        theirs = fvcore_focal(logits[valid], one_hot[valid], alpha=alpha, gamma=gamma, reduction="sum")
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits))


def test_without_modulation_it_is_cross_entropy():
    logits, labels = torch.tensor([[1.5, -2.0], [0.3, 4.0]]), torch.tensor([1, 2])
    loss = sigmoid_focal_loss(logits, labels, alpha=0.5, gamma=0.0)
    targets = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    expected = 0.5 * torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    torch.testing.assert_close(loss, expected)
    # alpha 1/4 and gamma 2 by default: at p = 1/2, (1/4 + 3/4) * 1/4 * log 2
    torch.testing.assert_close(sigmoid_focal_loss(torch.zeros(1, 2), torch.tensor([0])), torch.tensor(math.log(2) / 4))


def test_focal_loss_of_extreme_logits_is_finite():
    logits = torch.tensor([[-200.0, 200.0], [200.0, -200.0]], requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([0, 2]))
    loss.backward()
    torch.testing.assert_close(loss, torch.tensor(0.25 * 200 + 0.75 * 200 + 0.75 * 200))
    assert logits.grad.isfinite().all()


def test_losses_are_float32_for_half_inputs():
    logits = torch.tensor([[60.0, -60.0]]).half()
    assert sigmoid_focal_loss(logits, torch.tensor([1])).dtype == torch.float32
    logits = torch.tensor([[0.3, -0.7]]).half()
    assert sigmoid_focal_loss(logits, torch.tensor([1])) == sigmoid_focal_loss(logits.float(), torch.tensor([1]))
    boxes = torch.tensor([[0.0, 0, 1000, 1000]]).half()
    assert giou_loss(boxes, boxes).tolist() == [0]  # the area is no half


def test_giou_by_hand():
    a = torch.tensor([[0.0, 0, 2, 2], [0.0, 0, 2, 2], [0.0, 0, 1, 1]])
    b = torch.tensor([[0.0, 0, 2, 2], [1.0, 0, 3, 2], [2.0, 0, 3, 1]])
    # equal; half overlap: IoU 2/6, hull 6; apart: IoU 0, hull 3, union 2
    torch.testing.assert_close(giou_loss(a, b), torch.tensor([0, 2 / 3, 1 + 1 / 3]))


def test_giou_equals_fvcore_on_proper_boxes():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 50, 2, generator=generator) * 50
    boxes = torch.cat([corners, corners + 1 + torch.rand(2, 50, 2, generator=generator) * 60], dim=-1)
    torch.testing.assert_close(giou_loss(boxes[0], boxes[1]), fvcore_giou(boxes[0], boxes[1], reduction="none"))


def test_giou_of_boxes_without_area_is_finite_and_nan_passes_through():
    point = torch.tensor([[5.0, 5, 5, 5]], requires_grad=True)
    for other in ([[5.0, 5, 5, 5]], [[0.0, 0, 9, 9]]):
        loss = giou_loss(point, torch.tensor(other))
        (grad,) = torch.autograd.grad(loss.sum(), point)
        assert loss.isfinite().all() and grad.isfinite().all()
    assert giou_loss(torch.full((1, 4), float("nan")), torch.zeros(1, 4)).isnan().all()
    assert giou_loss(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)


def test_iou_loss_by_hand_in_value_and_gradient():
    a = torch.tensor([[0.0, 0, 2, 2], [0.0, 0, 2, 2], [0.0, 0, 1, 1]])
    b = torch.tensor([[0.0, 0, 2, 2], [1.0, 0, 3, 2], [2.0, 0, 3, 1]], requires_grad=True)
    loss = iou_loss(b, a)
    torch.testing.assert_close(loss, torch.tensor([0, 1 - 1 / 9, 1]))
    torch.testing.assert_close(iou_loss(a, b, power=1), torch.tensor([0, 2 / 3, 1]))
    # b's left side x: IoU = (2 - x) / 3, so the loss has the slope 2 * IoU / 3; its right side x: IoU = 1 / x
    (grad,) = torch.autograd.grad(loss.sum(), b)
    torch.testing.assert_close(grad[1, [0, 2]], torch.tensor([2 / 9, 2 / 27]))
    assert grad[2].tolist() == [0, 0, 0, 0]


def test_iou_loss_of_boxes_without_area_is_finite():
    point = torch.tensor([[5.0, 5, 5, 5]], requires_grad=True)
    for other in ([[5.0, 5, 5, 5]], [[0.0, 0, 9, 9]], [[7.0, 7, 9, 9]]):
        loss = iou_loss(point, torch.tensor(other))
        (grad,) = torch.autograd.grad(loss.sum(), point)
        assert loss.tolist() == [1] and grad.isfinite().all()
    boxes = torch.tensor([[0.0, 0, 1000, 1000]]).half()
    assert iou_loss(boxes, boxes).tolist() == [0]
    assert iou_loss(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)
