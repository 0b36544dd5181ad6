from tests.yolof_d2.tiny import SIZES
from yolof_d2.uniform_matcher import UniformMatcher

import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator


def random_boxes(count, seed):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 200
    return torch.cat([corners, corners + 8 + torch.rand(count, 2, generator=generator) * 150], dim=1)


def grid_anchors(height=7, width=8):
    generator = DefaultAnchorGenerator(sizes=[SIZES], aspect_ratios=[[1.0]], strides=[32], offset=0.0)
    return generator([torch.zeros(1, 1, height, width)])[0].tensor


def cost(box, gt):
    """L1 distance of centre and size, one pair at a time."""
    (x0, y0, x1, y1), (u0, v0, u1, v1) = box.tolist(), gt.tolist()
    centers = abs((x0 + x1) / 2 - (u0 + u1) / 2) + abs((y0 + y1) / 2 - (v0 + v1) / 2)
    return centers + abs((x1 - x0) - (u1 - u0)) + abs((y1 - y0) - (v1 - v0))


def reference(anchors, pred_boxes, gt_boxes, topk):
    """(rank, source, box) -> (anchor, its cost), where equal costs may stand in any order."""
    matches = {}
    for g, gt in enumerate(gt_boxes):
        for source, boxes in enumerate((pred_boxes, anchors)):
            ranked = sorted((cost(box, gt), i) for i, box in enumerate(boxes))
            for rank in range(topk):
                matches[rank, source, g] = ranked[rank][1], ranked[rank][0]
    return matches


def test_equals_the_plain_search_in_order():
    anchors, preds, gts = random_boxes(60, 0), random_boxes(60, 1), random_boxes(5, 2)
    anchor_idxs, gt_idxs = UniformMatcher()(anchors, preds, gts)
    expected = reference(anchors, preds, gts, 4)
    keys = [(rank, source, g) for rank in range(4) for source in range(2) for g in range(5)]
    assert gt_idxs.tolist() == [g for _, _, g in keys]
    assert anchor_idxs.tolist() == [expected[key][0] for key in keys]


def test_ties_on_the_anchor_grid_have_equal_costs():
    # 60 x 130 box: anchors of 64 and 128 cost the same in a cell, and so do cells to the right and below
    gts = torch.cat([torch.tensor([[70.0, 40, 130, 170]]), random_boxes(4, 3)])
    anchors, preds = grid_anchors(), random_boxes(7 * 8 * 3, 4)
    anchor_idxs, gt_idxs = UniformMatcher(topk=4)(anchors, preds, gts)
    for position, ((_, source, g), (_, best)) in enumerate(sorted(reference(anchors, preds, gts, 4).items())):
        assert gt_idxs[position] == g
        assert abs(cost((preds, anchors)[source][anchor_idxs[position]], gts[g]) - best) < 1e-3


def test_duplicates_stay():
    anchors = random_boxes(20, 5)
    gts = anchors[[3, 3, 11]]
    anchor_idxs, gt_idxs = UniformMatcher(topk=1)(anchors, anchors, gts)
    assert anchor_idxs.tolist() == [3, 3, 11, 3, 3, 11]
    assert gt_idxs.tolist() == [0, 1, 2, 0, 1, 2]


def test_predictions_matter():
    anchors = random_boxes(20, 6)
    preds, gt = anchors.roll(1, dims=0), anchors[7:8]
    anchor_idxs, _ = UniformMatcher(topk=1)(anchors, preds, gt)
    assert anchor_idxs.tolist() == [8, 7]  # prediction 8 is where anchor 7 is


def test_fewer_anchors_than_topk_all_match():
    anchors = random_boxes(3, 7)
    anchor_idxs, gt_idxs = UniformMatcher(topk=8)(anchors, anchors, random_boxes(2, 8))
    assert len(anchor_idxs) == len(gt_idxs) == 2 * 3 * 2
    for g in range(2):
        assert sorted(anchor_idxs[gt_idxs == g].tolist()) == [0, 0, 1, 1, 2, 2]


def test_no_boxes_no_pairs():
    anchors = random_boxes(10, 9)
    anchor_idxs, gt_idxs = UniformMatcher()(anchors, anchors, torch.zeros(0, 4))
    assert anchor_idxs.shape == gt_idxs.shape == (0,)
    assert anchor_idxs.dtype == gt_idxs.dtype == torch.int64
