"""The assigners of the road map, on 64 x 64 pixels: cells 0..63 have stride 8, 64..79 stride 16, 80..83 stride 32."""

import dataclasses

from tests.yolox_d2.scenes import plain_scene, positives, priors_of, random_scene
from tests.yolox_d2.tiny import tiny_head, tiny_yolox
from yolox_d2.anchor_assigner import AnchorAssigner
from yolox_d2.assignment import box_iou, box_planes, cells_around, make_priors, pad_instances
from yolox_d2.center_assigner import CenterAssigner
from yolox_d2.one_to_one import OneToOneAssigner
from yolox_d2.simota import SimOTA

import pytest
import torch
from detectron2.structures import Boxes, Instances

ANCHORS = [[(8, 8), (8, 16)], [(32, 16), (32, 32)], [(64, 64), (128, 64)]]


def anchor_scene(gt_boxes, pred_boxes=None):
    scene = plain_scene(gt_boxes)
    priors, preds = priors_of(anchors=ANCHORS), torch.full((1, 168, 4), -9.0)
    for prior, box in (pred_boxes or {}).items():
        preds[0, prior] = torch.tensor(box, dtype=torch.float32)
    return dataclasses.replace(
        scene, priors=priors, pred_boxes=preds, cls_logits=torch.zeros(1, 168, 2), obj_logits=torch.zeros(1, 168)
    )


def test_priors_are_ordered_by_level_row_column_anchor():
    priors = make_priors([(2, 3), (1, 2)], [8, 16])
    assert priors.grid.tolist() == [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1], [0, 0], [1, 0]]
    assert priors.strides.tolist() == [8] * 6 + [16] * 2
    assert priors.sizes.tolist() == [[8, 8]] * 6 + [[16, 16]] * 2
    assert priors.shapes == ((2, 3, 8), (1, 2, 16))
    priors = make_priors([(1, 2), (1, 1)], [8, 16], [[(1, 2), (3, 4)], [(5, 6), (7, 8)]])
    assert priors.grid.tolist() == [[0, 0], [0, 0], [1, 0], [1, 0], [0, 0], [0, 0]]
    assert priors.sizes.tolist() == [[1, 2], [3, 4], [1, 2], [3, 4], [5, 6], [7, 8]]


def test_instances_are_padded_at_the_end():
    counts = (0, 2, 1)
    instances = [
        Instances((64, 64), gt_boxes=Boxes(torch.full((n, 4), float(n))), gt_classes=torch.full((n,), n))
        for n in counts
    ]
    boxes, classes, valid = pad_instances(instances)
    assert boxes[..., 0].tolist() == [[0, 0], [2, 2], [1, 0]] and boxes.dtype == torch.float32
    assert classes.tolist() == [[0, 0], [2, 2], [1, 0]]
    assert valid.tolist() == [[False, False], [True, True], [True, False]]
    assert pad_instances(instances[:1])[0].shape == (1, 0, 4)


def test_iou_by_hand_without_area_and_not_finite():
    first = torch.tensor([[0.0, 0, 2, 2], [0, 0, 0.02, 0.02], [1, 1, 1, 1], [0, 0, 9, 9], [-float("inf"), 0, 9, 9]])
    second = torch.tensor([[1.0, 0, 3, 2], [0.01, 0, 0.03, 0.02], [1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 9, 9]])
    torch.testing.assert_close(box_iou(box_planes(first), box_planes(second)), torch.tensor([1 / 3, 1 / 3, 0, 0, 0]))


def test_cells_of_a_map_wider_than_high():
    # 32 x 64 pixels: 4 x 8 cells, 2 x 4, 1 x 2; columns 4, 2, 1 and rows 2, 1, 0 of the first point; the second is outside
    shapes = ((4, 8, 8), (2, 4, 16), (1, 2, 32))
    points = torch.tensor([[[36.0, 20.0], [36.0, 40.0]]])
    assert cells_around(shapes, points).tolist() == [[[[20], [38], [41]], [[42]] * 3]]
    corner = cells_around(shapes, torch.tensor([[[60.0, 4.0]]]), reach=1)
    assert corner[0, 0, 0].tolist() == [42, 42, 42, 6, 7, 42, 14, 15, 42]


def test_centre_cell_on_the_level_of_the_size():
    # half the longer side: 64, a bit more, 128, more
    expected = {0: [-60, 4, 68, 6], 64 + 10: [-33, 20, 97, 60], 64 + 6: [-96, -16, 160, 64], 80 + 3: [-97, 0, 161, 90]}
    for prior, box in expected.items():
        assert positives(CenterAssigner()(*plain_scene([box]))) == {prior: 0}
    assert positives(CenterAssigner(ranges=(2, 4))(*plain_scene([[30, 30, 36, 34], [10, 10, 20, 20]]))) == {
        74: 0,
        80: 1,
    }


def test_three_by_three_cells_within_the_map():
    # centres in cells 36, 0 and 23, and outside
    scene = plain_scene([[28, 28, 44, 44], [1, 1, 4, 12], [60, 20, 63, 24], [100, 100, 120, 120]])
    cells = [27, 28, 29, 35, 36, 37, 43, 44, 45], [0, 1, 8, 9], [14, 15, 22, 23, 30, 31]
    assert positives(CenterAssigner(radius=1)(*scene)) == {i: box for box, taken in enumerate(cells) for i in taken}


def test_a_claimed_cell_goes_to_the_smallest_box_then_to_the_first():
    scene = plain_scene([[20, 20, 52, 52], [28, 28, 44, 44], [28, 28, 44, 44]], {36: [28, 28, 44, 36]})
    ours = CenterAssigner()(*scene)
    assert positives(ours) == {36: 1}
    assert ours.ious[0, 36] == 0.5 and ours.ious.sum() == 0.5
    scene.gt_valid[0, 1:] = False  # what is padding claims nothing, though it is smaller
    assert positives(CenterAssigner()(*scene)) == {36: 0}
    longer = plain_scene([[30, 30, 42, 42], [21, 34, 51, 38]])  # but of less area
    assert positives(CenterAssigner()(*longer)) == {36: 1}
    far = plain_scene([[20, 20, 52, 52], [44, 28, 60, 44]])  # cells 36 and 38: they share the column between
    assert [positives(CenterAssigner(radius=1)(*far))[i] for i in (35, 36, 37, 38, 39)] == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("assigner", [SimOTA(), CenterAssigner()])
def test_assigners_of_cells_refuse_several_anchors_a_cell(assigner):
    message = f"{type(assigner).__name__} is for one prediction a cell, not for 2 anchors; use AnchorAssigner"
    with pytest.raises(ValueError, match=message):
        assigner(*anchor_scene([[28, 28, 44, 44]]))
    with pytest.raises(ValueError, match=message):
        tiny_yolox(head=tiny_head(num_anchors=2), anchor_sizes=ANCHORS, assigner=assigner)


def test_a_radius_that_is_none_is_an_error():
    for radius in (-1, 1.5):
        with pytest.raises(ValueError, match=f"radius is {radius}; give a whole number of cells"):
            CenterAssigner(radius=radius)
    with pytest.raises(ValueError, match="radius is 0; it must be above 0"):
        OneToOneAssigner(radius=0)


def test_ranges_that_do_not_fit_the_levels_are_an_error():
    with pytest.raises(ValueError, match="3 ranges for 3 levels"):
        CenterAssigner(ranges=(1, 2, 3))(*plain_scene([[0, 0, 9, 9]]))


def test_the_anchor_of_most_similar_shape_in_the_cell_of_the_centre():
    # 7 x 15 in cell 36 of stride 8, second anchor; 30 x 18 in cell 10 of stride 16, first; 60 x 60 in cell 3 of stride 32, first
    boxes = [[33, 29, 40, 44], [25, 31, 55, 49], [10, 10, 70, 70]]
    scene = anchor_scene(boxes, {73: [33, 29, 40, 44]})
    ours = AnchorAssigner()(*scene)
    assert positives(ours) == {73: 0, 2 * (64 + 10): 1, 2 * (80 + 3): 2}
    assert ours.ious[0, 73] == 1
    assert (ours.matched_idxs[0] < 0).sum() == 165 and (ours.matched_idxs >= -1).all()


def test_other_anchors_with_a_good_prediction_are_ignored():
    box = [32, 28, 40, 44]
    # IoU 1 on the box's own anchor and elsewhere; 3/4; 11/16
    scene = anchor_scene([box], {73: box, 0: box, 5: [32, 28, 40, 40], 6: [32, 28, 40, 39]})
    matched_idxs = AnchorAssigner()(*scene).matched_idxs[0]
    assert matched_idxs[[73, 0, 5, 6]].tolist() == [0, -2, -2, -1] and (matched_idxs == -2).sum() == 2
    assert (AnchorAssigner(ignore_iou=0.5)(*scene).matched_idxs == -2).sum() == 3
    assert (AnchorAssigner(ignore_iou=0.75)(*scene).matched_idxs == -2).sum() == 1
    scene.gt_valid[:] = False
    assert (AnchorAssigner()(*scene).matched_idxs == -1).all()


def test_the_last_box_keeps_an_anchor_and_a_centre_outside_gets_none():
    boxes = [[32, 28, 40, 44], [33, 28, 39, 44], [100, 28, 108, 44]]
    assert positives(AnchorAssigner()(*anchor_scene(boxes))) == {73: 1}


def test_chunks_of_the_anchor_assigner_change_nothing():
    scene = random_scene(3, 7, seed=1)
    scene.gt_valid[1, 3:] = False
    expected = AnchorAssigner(ignore_iou=0.3)(*scene)
    assert (expected.matched_idxs == -2).any()
    for chunk in (1, 2000):
        ours = AnchorAssigner(ignore_iou=0.3, chunk=chunk)(*scene)
        assert torch.equal(ours.matched_idxs, expected.matched_idxs) and torch.equal(ours.ious, expected.ious)


@pytest.mark.parametrize("assigner", [CenterAssigner(radius=1), AnchorAssigner(), OneToOneAssigner(), SimOTA()])
def test_without_boxes_all_is_background(assigner):
    for num_gt in (0, 2):
        scene = random_scene(2, num_gt)
        scene.gt_valid[:] = False
        scene.gt_boxes *= 0
        ours = assigner(*scene.change(torch.Tensor.half))
        assert (ours.matched_idxs == -1).all() and (ours.ious == 0).all()
        assert ours.matched_idxs.dtype == torch.int64 and ours.ious.dtype == torch.float32


@pytest.mark.parametrize("assigner", [CenterAssigner(), AnchorAssigner(), OneToOneAssigner()])
def test_no_gradient_flows_through_an_assignment(assigner):
    scene = random_scene(1, 9)
    scene.pred_boxes.requires_grad_()
    ours = assigner(*scene)
    assert ours.ious.max() > 0 and not ours.ious.requires_grad


def qualities(scene, image, alpha=0.8, radius=1.5):
    """[{cell: quality} of each valid box], pair by pair."""
    priors, (preds, cls_logits, obj_logits), (gt_boxes, gt_classes, gt_valid) = scene
    rows = []
    for m in gt_valid[image].nonzero()[:, 0].tolist():
        rows.append({})
        center = (gt_boxes[image, m, :2] + gt_boxes[image, m, 2:]) / 2
        distance = ((priors.grid + 0.5) * priors.strides[:, None] - center).abs().amax(dim=1) / priors.strides
        for r in (distance < radius).nonzero()[:, 0].tolist():
            score = cls_logits[image, r, gt_classes[image, m]].sigmoid() * obj_logits[image, r].sigmoid()
            iou = box_iou(box_planes(preds[image, r]), box_planes(gt_boxes[image, m]))
            rows[-1][r] = (score ** (1 - alpha) * iou**alpha).item()
    return rows


def best_total(rows, taken=frozenset()):
    """(most boxes that can have a cell of their own, the largest sum of qualities of so many), by trying all ways."""
    if not rows:
        return 0, 0.0
    ways = [best_total(rows[1:], taken)]
    for cell, quality in rows[0].items():
        if cell not in taken:
            count, total = best_total(rows[1:], taken | {cell})
            ways.append((count + 1, total + quality))
    return max(ways)


def test_the_matching_is_the_best_of_all_one_to_one_matchings():
    for seed in range(4):
        scene = random_scene(2, 3, height=64, width=64, seed=seed)
        scene.gt_boxes = scene.gt_boxes * 0.1 + 28  # all three want the same cells
        scene.gt_valid[1, 2] = False
        ours = OneToOneAssigner()(*scene)
        for n in range(2):
            rows, matches = qualities(scene, n), positives(ours, n)
            assert len(set(matches.values())) == len(matches) == len(rows) == 3 - n
            total = sum(rows[box][cell] for cell, box in matches.items())
            assert total == pytest.approx(best_total(rows)[1], abs=3e-3)


def test_quality_is_mostly_iou_and_a_little_score():
    box = [28, 28, 44, 44]
    scene = plain_scene([box], {27: [28, 28, 44, 41], 36: [28, 28, 44, 40]})
    assert positives(OneToOneAssigner()(*scene)) == {27: 0}
    scene.cls_logits[0, 36, 0] = 1.0  # (0.73 / 0.5)^0.2 = 1.08 outweighs (13 / 12)^0.8 = 1.066
    assert positives(OneToOneAssigner()(*scene)) == {36: 0}
    scene.cls_logits[0, 36] = torch.tensor([0.0, 1.0])  # the other class
    assert positives(OneToOneAssigner()(*scene)) == {27: 0}
    ours = OneToOneAssigner(alpha=1.0)(*scene)
    assert ours.ious[0, 27] == 13 / 16 and ours.ious.sum() == 13 / 16
    assert positives(OneToOneAssigner()(*anchor_scene([box], {55: box}))) == {55: 0}  # the second anchor of cell 27


def test_a_box_with_one_cell_gets_it_from_a_box_with_many():
    # near the corner (0, 0) there is one cell a level: three boxes for three cells, of which the fourth box is near all
    corner = [-1, -1, 1, 1]
    scene = plain_scene([[-3, -3, 11, 11], corner, corner, corner], {i: [-3, -3, 11, 11] for i in (0, 64, 80)})
    matches = positives(OneToOneAssigner()(*scene))
    assert set(matches.values()) == {0, 1, 2, 3} and {matches[i] for i in (0, 64, 80)} == {1, 2, 3}


def test_a_chain_of_boxes_gives_way():
    # the first box has one cell, which the second must leave for the cell that the third must leave: both lose all
    cells = torch.tensor([[[0, 3], [0, 1], [1, 2]]])
    quality = torch.tensor([[[0.0, -torch.inf], [1.0, 0.0], [1.0, 0.0]]])
    assert OneToOneAssigner()._auction(cells, quality, 3).tolist() == [[0, 1, 2]]


def test_more_boxes_than_cells_end_with_every_cell_taken():
    scene = plain_scene([[30, 30, 34, 34]] * 30)
    matches = positives(OneToOneAssigner()(*scene))
    assert sorted(matches) == [27, 28, 35, 36, 69, 70, 73, 74, 80, 81, 82, 83]
    assert len(set(matches.values())) == 12


def test_one_to_one_with_predictions_that_are_not_finite():
    scene = random_scene(2, 10, seed=4)
    expected = OneToOneAssigner()(*scene)
    ours = OneToOneAssigner()(*scene.change(lambda x: torch.stack([x[0] * float("nan"), x[1]])))
    assert torch.equal(ours.matched_idxs[1], expected.matched_idxs[1])
    assert len(set(positives(ours).values())) == 10 and ours.ious.isfinite().all()
