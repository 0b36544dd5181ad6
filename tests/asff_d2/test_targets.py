"""Assignment, against plain loops over boxes in the order of the facts and against numbers by hand."""

from asff_d2.anchors import Anchors, decode, wh_iou
from asff_d2.targets import adjacent_cells, assign, gather_ground_truth
from tests.asff_d2.tiny import PRIORS, instances

import pytest
import torch
from torchvision.ops import box_iou

STRIDES = (8, 16, 32)
SIZE = (96, 160)  # height, width
K = 4


def make_anchors(free_slot=True):
    anchors = Anchors(priors=PRIORS, strides=STRIDES, free_slot=free_slot)
    return anchors, anchors([(SIZE[0] // s, SIZE[1] // s) for s in STRIDES])


def random_scene(grid, seed):
    """Predictions near boxes, boxes of all sizes, many of them in the same cells; one image has none."""
    num_images, generator = 3, torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(*shape, generator=generator)

    num_rows = len(grid.cells)
    anchor_wh = grid.sizes * (rand(num_images, num_rows, 2) - 0.5).exp()
    deltas = rand(num_images, num_rows, 4) - 0.5
    boxes = decode(deltas, anchor_wh, grid.cells, grid.strides)
    gts = []
    for count in (70, 0, 9):
        centers = (rand(count, 2) * torch.tensor([9.0, 5.0])).floor() * 16 + 8 + rand(count, 2)
        wh = (rand(count, 2) * 3 + 2).exp()
        xyxy = torch.cat([centers - wh / 2, centers + wh / 2], dim=1)
        classes = torch.randint(0, K, (count,), generator=generator).tolist()
        gts.append(instances(xyxy.tolist(), classes, SIZE, rand(count).tolist()))
    return anchor_wh, boxes, gts


def by_loops(anchors, grid, anchor_wh, pred_boxes, gts, smoothing):
    """Dense targets of each row, written box by box: later boxes over earlier ones."""
    num_images, num_rows = pred_boxes.shape[:2]
    dense = {
        "obj": torch.zeros(num_images, num_rows),
        "weight": torch.ones(num_images, num_rows),
        "shape": torch.zeros(num_images, num_rows, dtype=torch.bool),
        "box": torch.zeros(num_images, num_rows, 4),
        "gt": torch.full((num_images, num_rows), -1),
        "cls": torch.zeros(num_images, num_rows, K),
    }
    priors = anchors.priors.flatten(0, 1)
    offset = 0
    for i, gt in enumerate(gts):
        boxes = gt.gt_boxes.tensor
        if len(boxes):
            dense["weight"][i, (box_iou(pred_boxes[i], boxes) > 0.7).any(dim=1)] = 0
        for number, box in enumerate(boxes):
            wh, center = box[2:] - box[:2], (box[:2] + box[2:]) / 2
            ious = [wh_iou(wh, prior).item() for prior in priors]
            best = max(range(9), key=lambda k: ious[k])
            level, a = best // 3, best % 3
            height, width = grid.shapes[level]
            x, y = min(int(center[0] / STRIDES[level]), width - 1), min(int(center[1] / STRIDES[level]), height - 1)
            cell = int(grid.level_starts[level]) + (y * width + x) * 4
            q = 3 if wh_iou(wh, anchor_wh[i, cell + 3]) > ious[best] else a
            for slot in (a, 3):
                dense["shape"][i, cell + slot] = True
                dense["box"][i, cell + slot] = box
            dense["obj"][i, cell + q] = 1
            dense["weight"][i, cell + q] = gt.gt_weights[number]
            dense["gt"][i, cell + q] = offset + number
            if smoothing:
                dense["cls"][i, cell + q] = 1 / K
            dense["cls"][i, cell + q, gt.gt_classes[number]] = 1 - 1 / K if smoothing else 1
        offset += len(boxes)
    return {name: value.flatten(0, 1) for name, value in dense.items()}


@pytest.mark.parametrize("smoothing", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_same_as_loops_over_boxes(smoothing, seed):
    anchors, grid = make_anchors()
    anchor_wh, boxes, gts = random_scene(grid, seed)
    gt = gather_ground_truth(gts)
    found = assign(anchors, grid, anchor_wh, boxes, gt, num_classes=K, label_smoothing=smoothing)
    expected = by_loops(anchors, grid, anchor_wh, boxes, gts, smoothing)
    assert torch.equal(found.obj_targets, expected["obj"])
    assert torch.equal(found.obj_weights, expected["weight"])
    assert (found.obj_weights == 0).any() and not found.mask.all()  # some are ignored, some overwritten
    rows = found.rows[found.mask]
    assert torch.equal(rows.sort().values, (expected["gt"] >= 0).nonzero().squeeze(1))
    assert torch.equal(expected["gt"][rows], found.mask.nonzero().squeeze(1))
    assert torch.equal(found.boxes[found.mask], expected["box"][rows])
    assert (found.boxes[found.mask] != gt.boxes[found.mask]).any()  # the box of a later claim on the cell's other slot
    assert torch.equal(found.class_targets[found.mask], expected["cls"][rows])
    shape_rows = found.shape_rows[found.shape_mask]
    assert torch.equal(shape_rows.sort().values, expected["shape"].nonzero().squeeze(1))
    assert torch.equal(gt.boxes[found.shape_idxs[found.shape_mask]], expected["box"][shape_rows])


def row_of(grid, level, x, y, slot, num_slots=4):
    return int(grid.level_starts[level]) + (y * grid.shapes[level][1] + x) * num_slots + slot


def test_free_slot_by_hand():
    """A box of 60 x 60 at (40, 56): prior (62, 45), IoU 2700/3690; the free square of level 1 has a side of 64."""
    anchors, grid = make_anchors()
    gt = gather_ground_truth([instances([[10, 26, 70, 86]], [2], SIZE)])
    far = torch.zeros(1, len(grid.cells), 4)
    found = assign(anchors, grid, grid.sizes[None], far, gt, num_classes=K)
    assert found.rows.tolist() == [row_of(grid, 1, 2, 3, 3)]
    assert found.shape_rows.tolist() == [row_of(grid, 1, 2, 3, 1), row_of(grid, 1, 2, 3, 3)]
    assert found.class_targets.tolist() == [[0.25, 0.25, 0.75, 0.25]]
    assert found.obj_weights.sum() == len(grid.cells)
    # guided to 10 times the size, the free anchor loses against the prior as it is
    guided = grid.sizes[None] * 10
    assert assign(anchors, grid, guided, far, gt, num_classes=K).rows.tolist() == [row_of(grid, 1, 2, 3, 1)]
    guided[0, row_of(grid, 1, 2, 3, 3)] = grid.sizes[row_of(grid, 1, 2, 3, 1)]  # as good as the prior
    assert assign(anchors, grid, guided, far, gt, num_classes=K).rows.tolist() == [row_of(grid, 1, 2, 3, 1)]
    # without a free slot
    anchors, grid = make_anchors(free_slot=False)
    found = assign(anchors, grid, grid.sizes[None], torch.zeros(1, len(grid.cells), 4), gt, num_classes=K)
    assert found.rows.tolist() == found.shape_rows.tolist() == [row_of(grid, 1, 2, 3, 1, num_slots=3)]


def test_a_centre_on_the_far_edge_or_outside_belongs_to_the_nearest_cell():
    anchors, grid = make_anchors()
    gt = gather_ground_truth([instances([[155, 90, 165, 102], [-15, 4, -5, 16]], [0, 0], SIZE)])
    found = assign(anchors, grid, grid.sizes[None], torch.zeros(1, len(grid.cells), 4), gt, num_classes=K)
    assert [row // 4 for row in found.rows.tolist()] == [row_of(grid, 0, *cell, 0) // 4 for cell in ((19, 11), (0, 1))]


def test_ignored_rows_are_no_negatives_unless_positive():
    anchors, grid = make_anchors()
    gt = gather_ground_truth([instances([[10, 26, 70, 86]], [2], SIZE, [0.25])])
    pred = torch.zeros(1, len(grid.cells), 4)
    pred[0, [5, 6, row_of(grid, 1, 2, 3, 3)]] = torch.tensor([[10.0, 26, 70, 70], [10, 26, 70, 67], [10, 26, 70, 86]])
    found = assign(anchors, grid, grid.sizes[None], pred, gt, num_classes=K)
    assert found.obj_weights[5] == 0 and found.obj_weights[6] == 1  # IoU 44/60 and 41/60
    pred[0, 6, 3] = 71
    found = assign(anchors, grid, grid.sizes[None], pred, gt, num_classes=K, ignore_thresh=0.75)
    assert found.obj_weights[5] == found.obj_weights[6] == 1  # at the threshold
    assert found.obj_weights[found.rows] == 0.25


def test_adjacent_cells_by_hand():
    """The box of level 1 has its centre at (40, 56): cell (5, 7) of level 0 and (1, 1) of level 2."""
    anchors, grid = make_anchors()
    gt = gather_ground_truth([instances([], [], SIZE), instances([[10, 26, 70, 86]], [2], SIZE)])
    counts = []
    for eps in (0, 0.15, 0.2, 0.5):
        cells = adjacent_cells(grid, STRIDES, torch.tensor([1]), gt, 2, eps)
        assert not cells[0].any()
        fine, own, coarse = cells[1].split([12 * 20, 6 * 10, 3 * 5])
        fine, coarse = fine.view(12, 20), coarse.view(3, 5)
        assert not own.any() and fine[7, 5] and coarse[1, 1]
        counts.append((int(fine.sum()), int(coarse.sum())))
    # eps 0.15: within 4.5 pixels of the centre; 0.2: within 6; 0.5: within 15
    assert counts == [(1, 1), (4, 1), (4, 1), (16, 1)]
    cells = adjacent_cells(grid, STRIDES, torch.tensor([0]), gt, 2, 0.5)[1]  # two levels away is not adjacent
    assert [bool(part.any()) for part in cells.split([12 * 20, 6 * 10, 3 * 5])] == [False, True, False]
    corner = gather_ground_truth([instances([[155, 90, 165, 102]], [2], SIZE)])  # the centre is the image's last corner
    cells = adjacent_cells(grid, STRIDES, torch.tensor([0]), corner, 1, 0)[0]
    assert cells.nonzero().flatten().tolist() == [12 * 20 + 6 * 10 - 1]


def test_adjacent_rows_are_ignored_but_not_other_positives():
    anchors, grid = make_anchors()
    small = [38.0, 54, 47, 63]  # level 0, cell (5, 7)
    gt = gather_ground_truth([instances([[10, 26, 70, 86], small], [2, 1], SIZE)])
    pred = torch.zeros(1, len(grid.cells), 4)
    pred[0, 0] = torch.tensor([10, 26, 70, 86])
    found = assign(anchors, grid, grid.sizes[None], pred, gt, num_classes=K, adjacent_ignore=0)
    assert found.obj_weights[:2].tolist() == [0, 1]  # a good prediction stays ignored, too
    first = row_of(grid, 0, 5, 7, 0)
    positive = found.rows[1].item() - first
    assert 0 <= positive < 4
    weights = found.obj_weights[first : first + 4]
    assert weights.tolist() == [float(slot == positive) for slot in range(4)]
    # and of the small box on level 1, whose positive stays
    first = row_of(grid, 1, 2, 3, 0)
    assert found.obj_weights[first : first + 4].tolist() == [0, 0, 0, 1]


def test_decode_by_hand():
    box = decode(torch.tensor([0.0, 0, 0, 1]), torch.tensor([10.0, 20]), torch.tensor([3.0, 4]), torch.tensor([8.0]))
    half = 10 * torch.tensor(1.0).exp().item()
    assert box.tolist() == pytest.approx([23, 36 - half, 33, 36 + half])


def test_wrong_anchors():
    with pytest.raises(ValueError, match="equally many"):
        Anchors(priors=PRIORS, strides=(8, 16))
    with pytest.raises(ValueError, match="equally many"):
        Anchors(priors=[*PRIORS[:2], PRIORS[2][:2]], strides=STRIDES)


def test_the_grid_is_where_the_model_is():
    anchors, grid = make_anchors()
    moved = anchors.to("meta")(grid.shapes)
    assert (grid.cells.device.type, moved.cells.device.type) == ("cpu", "meta")
