from vfnet_d2.soft_nms import soft_nms

import pytest
import torch

# IoU of neighbours: 80 / 120 = 2/3; of the first and the third: 60 / 140 = 3/7
BOXES = torch.tensor([[0.0, 0, 10, 10], [2.0, 0, 12, 10], [4.0, 0, 14, 10]])
SCORES = torch.tensor([0.9, 0.8, 0.7])
ONE_CLASS = torch.zeros(3, dtype=torch.int64)


def run(scores=SCORES, classes=ONE_CLASS, boxes=BOXES, **kwargs):
    return soft_nms(boxes, scores, classes, **{**dict(iou_thresh=0.5, max_detections=100), **kwargs})


def test_scores_decay_by_the_boxes_that_were_picked_before():
    keep, scores = run()
    # the first takes 2/3 off the second; the third is left alone by the first, and then takes its own 2/3 off the second
    assert keep.tolist() == [0, 2, 1]
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.7, 0.8 / 9]))


def test_every_overlap_from_the_threshold_on_counts():
    keep, scores = run(iou_thresh=0.4)
    # third: 0.7 * 4/7 = 0.4; then the second is down to 0.8 / 3 / 3
    assert keep.tolist() == [0, 2, 1]
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.4, 0.8 / 9]))
    _, scores = run(iou_thresh=0.7)
    assert torch.equal(scores, SCORES)
    pair = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 5]])  # IoU exactly 0.5
    _, scores = run(SCORES[:2], ONE_CLASS[:2], pair)
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.4]))


def test_classes_leave_each_other_alone():
    keep, scores = run(classes=torch.tensor([0, 1, 2]))
    assert keep.tolist() == [0, 1, 2] and torch.equal(scores, SCORES)


def test_equal_boxes_of_two_classes_and_of_one():
    boxes = BOXES[:1].repeat(3, 1)
    keep, scores = run(classes=torch.tensor([0, 1, 0]), boxes=boxes)
    assert keep.tolist() == [0, 1] and torch.equal(scores, SCORES[:2])  # the third decayed to 0


def test_the_best_decayed_scores_are_picked():
    keep, scores = run(max_detections=2)
    assert keep.tolist() == [0, 2]
    keep, _ = run(min_score=0.1)
    assert keep.tolist() == [0, 2]
    for score, kept in ((0.0031, [0, 1]), (0.0029, [0])):  # a third of it is on either side of 0.001
        keep, _ = run(torch.tensor([0.9, score]), ONE_CLASS[:2], BOXES[:2])
        assert keep.tolist() == kept


@pytest.mark.parametrize("max_detections", [0, 5])
def test_nothing_in_nothing_out(max_detections):
    keep, scores = run(SCORES[:0], ONE_CLASS[:0], BOXES[:0], max_detections=max_detections)
    assert keep.shape == scores.shape == (0,) and keep.dtype == torch.int64


def test_same_as_a_plain_loop_over_each_class():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(60, 2, generator=generator) * 30
    boxes = torch.cat([corners, corners + 10 + 10 * torch.rand(60, 2, generator=generator)], dim=1)
    scores, classes = torch.rand(60, generator=generator), torch.randint(0, 3, (60,), generator=generator)
    expected = []
    for label in range(3):
        left = [(s.item(), i) for i, s in enumerate(scores) if classes[i] == label]
        while left:
            best_score, best = max(left)
            if best_score < 1e-3:
                break
            expected.append((best_score, best))
            left = [(s * _factor(boxes[best], boxes[i]), i) for s, i in left if i != best]
    expected.sort(reverse=True)
    keep, found = soft_nms(boxes, scores, classes, iou_thresh=0.5, max_detections=20)
    assert keep.tolist() == [i for _, i in expected[:20]]
    torch.testing.assert_close(found, torch.tensor([s for s, _ in expected[:20]]))


def _factor(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(width, 0) * max(height, 0)
    iou = overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)
    return float(1 - iou) if iou >= 0.5 else 1.0
