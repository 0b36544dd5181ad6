from tests.yolof_d2.tiny import instances, tiny_yolof

import torch
from torchvision.ops import box_iou

FAR = [900.0, 900, 910, 910]
GT_A, GT_B = [0.0, 0, 100, 100], [0.0, 0, 100, 90]
ANCHORS = torch.tensor([GT_A, GT_A, [0.0, 0, 100, 16], [0.0, 0, 100, 14], FAR])  # IoU with A: 1, 1, 0.16, 0.14, 0


class Fixed:
    """Returns given pairs, one list an image."""

    def __init__(self, *pairs):
        self.pairs = list(pairs)

    def __call__(self, anchors, pred_boxes, gt_boxes):
        pairs = torch.tensor(self.pairs.pop(0), dtype=torch.int64).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]


def label(pred_boxes, gts, *pairs, anchors=ANCHORS):
    model = tiny_yolof(num_classes=3, matcher=Fixed(*pairs))
    return model.label_anchors(anchors, torch.tensor(pred_boxes), gts)


def test_thresholds_look_at_predictions_for_negatives_and_at_anchors_for_positives():
    # unmatched: predictions of IoU 1, 0.72 and 0.68; anchor 0 itself lies on the box, which does not count
    preds = [[FAR, GT_A, [0.0, 0, 100, 72], [0.0, 0, 100, 68], GT_A]]
    labels, *_ = label(preds, [instances([GT_A], [1])], [])
    assert labels.tolist() == [[3, -1, -1, 3, -1]]
    # matched: anchor IoU 1, 0.16 and 0.14; a match overrides the first rule, and an ignored pair does not count as one
    labels, idxs, boxes, weights = label(preds, [instances([GT_A], [1])], [(1, 0), (2, 0), (3, 0)])
    assert labels.tolist() == [[3, 1, 1, -1, -1]]
    assert idxs.tolist() == [1, 2, 3]
    assert weights.tolist() == [1, 1, 0]
    assert boxes.tolist() == [GT_A] * 3


def test_an_iou_at_a_threshold_is_not_ignored():
    seen, anchors = [], torch.tensor([[0.0, 0, 100, 25], FAR, FAR])
    preds = torch.tensor([[FAR, [0.0, 0, 100, 75], [0.0, 0, 100, 76]]])

    def first(*boxes):
        seen.extend(boxes)
        return torch.tensor([0]), torch.tensor([0])

    gt = instances([GT_A], [1])
    model = tiny_yolof(num_classes=3, matcher=first, pos_ignore_thresh=0.25, neg_ignore_thresh=0.75)
    labels, *_ = model.label_anchors(anchors, preds, [gt])
    assert labels.tolist() == [[1, 3, -1]]
    assert all(torch.equal(*pair) for pair in zip(seen, (anchors, preds[0], gt.gt_boxes.tensor)))


def test_the_last_pair_of_an_anchor_wins():
    gts = [instances([GT_A, GT_B, FAR], [0, 2, 1])]
    for pairs, expected in (
        ([(0, 0), (0, 1)], 2),
        ([(0, 1), (0, 0)], 0),
        ([(0, 0), (0, 1), (0, 0)], 0),
        ([(0, 0), (0, 2)], -1),  # the anchor does not overlap box 2: ignored, although box 0 would keep it
        ([(0, 2), (0, 1)], 2),
    ):
        labels, _, _, weights = label([[FAR] * 4 + [GT_A]], gts, pairs)
        assert labels[0, 0] == expected
        assert len(weights) == len(pairs)  # no pair is lost


def test_images_of_a_batch_do_not_mix():
    preds = [[FAR] * 5, [FAR] * 5]
    gts = [instances([GT_A], [1]), instances([GT_B, GT_A], [0, 2])]
    labels, idxs, boxes, _ = label(preds, gts, [(0, 0)], [(0, 1), (1, 0)])
    assert labels.tolist() == [[1, 3, 3, 3, 3], [2, 0, 3, 3, 3]]
    assert idxs.tolist() == [0, 5, 6]
    assert boxes.tolist() == [GT_A, GT_A, GT_B]


def test_no_boxes_make_background():
    labels, idxs, boxes, weights = label([[GT_A] * 5, [GT_A] * 5], [instances([], []), instances([], [])], [], [])
    assert labels.tolist() == [[3] * 5] * 2
    assert idxs.shape == weights.shape == (0,) and boxes.shape == (0, 4)


def test_equals_the_rules_written_as_loops():
    generator = torch.Generator().manual_seed(0)

    def boxes(*shape):
        corners = torch.rand(*shape, 2, generator=generator) * 60
        return torch.cat([corners, corners + 10 + torch.rand(*shape, 2, generator=generator) * 60], dim=-1)

    anchors, preds = boxes(40), boxes(2, 40)
    preds[:, :5] = anchors[:5]
    gts, pairs, expected = [], [], torch.full((2, 40), 3)
    for i in range(2):
        gt_boxes = torch.cat([anchors[i : i + 1], boxes(4)])
        gts.append(instances(gt_boxes.tolist(), [0, 1, 2, 1, 0]))
        chosen = torch.randint(0, 40, (60,), generator=generator).tolist()
        pairs.append([(a, p % 5) for p, a in enumerate(chosen)])
        for a in range(40):
            if box_iou(preds[i, a : a + 1], gt_boxes).max() > 0.7:
                expected[i, a] = -1
        for a, g in pairs[-1]:
            kept = box_iou(anchors[a : a + 1], gt_boxes[g : g + 1]) >= 0.15
            expected[i, a] = gts[i].gt_classes[g] if kept else -1
    model = tiny_yolof(num_classes=3, matcher=Fixed(*pairs))
    labels, *_ = model.label_anchors(anchors, preds, gts)
    assert torch.equal(labels, expected)
    assert {-1, 0, 1, 2, 3} == set(labels.flatten().tolist())
