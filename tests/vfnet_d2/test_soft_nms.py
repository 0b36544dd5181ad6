"""Soft-NMS against the plain loop over one class after the other."""

from vfnet_d2.soft_nms import soft_nms

import pytest
import torch
from torchvision.ops import box_iou


def plain_soft_nms(boxes, scores, classes, iou_thresh, max_detections, min_score):
    found = []
    for label in classes.unique().tolist():
        rest = [(scores[i].item(), i) for i in range(len(boxes)) if classes[i] == label]
        while rest:
            score, best = max(rest)
            if score < min_score:
                break
            found.append((score, best))
            ious = box_iou(boxes[best : best + 1], boxes)[0].tolist()
            rest = [(s * (1 - ious[i]) if ious[i] >= iou_thresh else s, i) for s, i in rest if i != best]
    return sorted(found, reverse=True)[:max_detections]


@pytest.mark.parametrize("max_detections", [3, 15, 1000])
def test_equals_the_plain_loop_per_class(max_detections):
    generator = torch.Generator().manual_seed(3)
    corner = torch.rand(60, 2, generator=generator) * 30
    boxes = torch.cat([corner, corner + 10 + torch.rand(60, 2, generator=generator) * 40], dim=1)
    scores, classes = torch.rand(60, generator=generator), torch.randint(0, 3, (60,), generator=generator)
    keep, decayed = soft_nms(boxes, scores, classes, iou_thresh=0.3, max_detections=max_detections, min_score=0.05)
    expected = plain_soft_nms(boxes, scores, classes, 0.3, max_detections, 0.05)
    assert keep.tolist() == [i for _, i in expected]
    torch.testing.assert_close(decayed, torch.tensor([score for score, _ in expected]))
    assert (decayed < scores[keep] - 1e-3).any() == (max_detections == 1000)


def test_typed_out():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 8], [0.0, 0, 10, 8], [50.0, 50, 60, 60], [0.0, 0, 10, 10]])
    scores, classes = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]), torch.tensor([0, 0, 1, 0, 0])
    keep, decayed = soft_nms(boxes, scores, classes, iou_thresh=0.65, max_detections=100)
    # box 1: 0.8 * (1 - 0.8); box 4 is box 0 again and decays to nothing; class 1 keeps its score
    assert keep.tolist() == [0, 2, 3, 1]
    torch.testing.assert_close(decayed, torch.tensor([0.9, 0.7, 0.6, 0.16]))
    below = soft_nms(boxes, scores, classes, iou_thresh=0.81, max_detections=100)
    assert below[1].tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6])


def test_nothing_in_nothing_out():
    keep, scores = soft_nms(
        torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), iou_thresh=0.6, max_detections=100
    )
    assert keep.shape == scores.shape == (0,)
