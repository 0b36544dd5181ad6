"""ATSS against the plain algorithm box by box, and its corner cases; FCOS's rule against its definition."""

from vfnet_d2.atss import BACKGROUND, IGNORED, ATSSAssigner
from vfnet_d2.fcos_assigner import FCOSAssigner
from vfnet_d2.points import PointGrid

import pytest
import torch
from torchvision.ops import box_iou

STRIDES = (8, 16, 32, 64, 128)
NONE = torch.zeros(0, 4)


def grid_of(*image_sizes, strides=STRIDES, offset=0.0):
    """The grid of a batch padded to the largest image and multiples of 32."""
    height, width = (max(-(-size[i] // 32) * 32 for size in image_sizes) for i in range(2))
    maps = [torch.zeros(len(image_sizes), 1, -(-height // s), -(-width // s)) for s in strides]
    return PointGrid.of(maps, strides, image_sizes, offset)


def random_boxes(count, height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    size = torch.exp(torch.rand(count, 2, generator=generator) * 4.5 + 0.5).clamp(max=min(height, width) - 1)
    corner = torch.rand(count, 2, generator=generator) * (torch.tensor([width, height]) - size)
    return torch.cat([corner, corner + size], dim=1)


def plain_atss(grid, image, boxes, topk=9, ignored=None):
    """ATSS as its paper and the released code say it, box by box."""
    valid = grid.is_valid()[image]
    half = torch.cat([torch.full((n,), 4.0 * s) for n, s in zip(grid.num_points, grid.strides)])[:, None]
    anchors = torch.cat([grid.points - half, grid.points + half], dim=1)
    best, matched = torch.full((len(anchors),), -1.0), [BACKGROUND] * len(anchors)
    for k, box in enumerate(boxes):
        distance = (grid.points - (box[:2] + box[2:]) / 2).norm(dim=1)
        if ignored is not None:
            distance[ignored] = 1e8
        candidates, first = [], 0
        for count in grid.num_points:
            level = torch.arange(first, first + count)[valid[first : first + count]]
            nearest = distance[level].topk(min(topk, len(level)), largest=False).indices
            candidates += level[nearest].tolist()
            first += count
        iou = box_iou(anchors[candidates], box[None])[:, 0]
        threshold = iou.mean() + iou.std()
        for i, value in zip(candidates, iou):
            x, y = grid.points[i]
            inside = min(x - box[0], y - box[1], box[2] - x, box[3] - y) > 0.01
            if value >= threshold and inside and value > best[i]:
                best[i], matched[i] = value, k
    return matched


@pytest.mark.parametrize("topk", [9, 4])
def test_atss_equals_the_plain_algorithm(topk):
    sizes = [(200, 330), (64, 90), (250, 170)]
    grid = grid_of(*sizes)
    boxes = [random_boxes(count, *size, seed=count) for count, size in zip((20, 7, 1), sizes)]
    matched = ATSSAssigner(topk=topk)(grid, boxes)
    first = 0
    for image, boxes_i in enumerate(boxes):
        expected = [k if k < 0 else k + first for k in plain_atss(grid, image, boxes_i, topk)]
        assert matched[image].tolist() == expected and max(expected) >= first
        first += len(boxes_i)


def test_levels_with_fewer_locations_than_k_and_a_map_of_one():
    grid = grid_of((64, 64))
    assert grid.num_points == [64, 16, 4, 1, 1]
    boxes = torch.tensor([[10.0, 9.0, 55.0, 58.0], [0.5, 0.5, 6.0, 13.0]])
    matched = ATSSAssigner()(grid, [boxes])
    assert matched[0].tolist() == plain_atss(grid, 0, boxes) and (matched == 0).any()
    single = grid_of((32, 32), strides=(32,))
    assert single.num_points == [1]
    # the spread of one value is none
    assert ATSSAssigner()(single, [torch.tensor([[-4.0, -4.0, 9.0, 9.0]])]).tolist() == [[0]]


def test_no_box():
    grid = grid_of((64, 64), (64, 64))
    assigner = ATSSAssigner()
    assert (assigner(grid, [NONE, NONE]) == BACKGROUND).all()
    matched = assigner(grid, [NONE, torch.tensor([[10.0, 10.0, 50.0, 50.0]])])
    assert (matched[0] == BACKGROUND).all() and (matched[1] == 0).any()


def test_a_box_between_the_locations_gets_none():
    grid = grid_of((128, 128))
    boxes = torch.tensor([[33.0, 33.0, 38.0, 38.0], [20.0, 20.0, 20.0, 20.0]])  # locations are multiples of 8
    assert (ATSSAssigner()(grid, [boxes]) == BACKGROUND).all()


def test_equal_boxes_go_to_the_first():
    grid = grid_of((128, 128))
    box = [21.0, 22.0, 85.0, 90.0]
    matched = ATSSAssigner()(grid, [torch.tensor([box, box, [0.0, 0.0, 9.0, 9.0]])])
    alone = ATSSAssigner()(grid, [torch.tensor([box])])
    assert (alone == 0).any() and torch.equal(matched == 0, alone == 0) and not (matched == 1).any()


def test_a_shared_location_goes_to_the_higher_iou():
    grid = grid_of((128, 128))
    large, good = (
        [10.0, 10.0, 120.0, 120.0],
        [32.5, 32.5, 96.5, 96.5],
    )  # the second fits the anchor of 64 around (64, 64)
    for order in ((0, 1), (1, 0)):
        matched = ATSSAssigner()(grid, [torch.tensor([large, good])[list(order)]])
        assert matched[0, 8 * 16 + 8] == order.index(1)


def test_padding_is_background():
    """Locations of the batch that a smaller image does not cover get no box, though a box reaches there."""
    boxes = torch.tensor([[30.0, 30.0, 200.0, 200.0]])
    grid = grid_of((70, 100), (256, 256))
    valid = grid.is_valid()
    assert valid[0, : 32 * 32].view(32, 32).nonzero().amax(dim=0).tolist() == [11, 15]  # 96 / 8 rows, 128 / 8 columns
    assert valid[1].all()
    matched = ATSSAssigner()(grid, [boxes, boxes])
    assert (matched[0][~valid[0]] == BACKGROUND).all() and (matched[1][~valid[0]] >= 0).any()
    assert matched[0].tolist() == plain_atss(grid, 0, boxes)


@pytest.mark.parametrize("side, positives, level", [(16, 4, 0), (32, 9, 0), (64, 9, 0), (128, 9, 1), (256, 9, 2)])
def test_positives_of_an_isolated_square(side, positives, level):
    grid = grid_of((800, 1344))
    corner = torch.tensor([450.3, 390.7])  # no ties
    matched = ATSSAssigner()(grid, [torch.cat([corner, corner + side])[None]])
    counts = [(part == 0).sum().item() for part in matched[0].split(grid.num_points)]
    assert counts == [positives if i == level else 0 for i in range(5)]


def test_ignored_regions_push_candidates_away():
    grid = grid_of((128, 128))
    boxes = random_boxes(6, 128, 128, seed=2)
    region = torch.tensor([[0.0, 0.0, 70.0, 128.0]])
    matched = ATSSAssigner(ignore_iof_thresh=0.5)(grid, [boxes], [region])
    half = torch.cat([torch.full((n,), 4.0 * s) for n, s in zip(grid.num_points, grid.strides)])[:, None]
    anchors = torch.cat([grid.points - half, grid.points + half], dim=1)
    overlap = (torch.min(anchors[:, 2:], region[:, 2:]) - torch.max(anchors[:, :2], region[:, :2])).clamp(min=0)
    ignored = overlap.prod(dim=1) / (4 * half[:, 0] ** 2) > 0.5
    expected = plain_atss(grid, 0, boxes, ignored=ignored)
    expected = [IGNORED if k == BACKGROUND and drop else k for k, drop in zip(expected, ignored.tolist())]
    assert matched[0].tolist() == expected and IGNORED in expected
    assert torch.equal(ATSSAssigner()(grid, [boxes], [region]), ATSSAssigner()(grid, [boxes]))


def plain_fcos(grid, boxes, ranges, radius=None):
    matched = []
    strides = [s for n, s in zip(grid.num_points, grid.strides) for _ in range(n)]
    levels = [i for i, n in enumerate(grid.num_points) for _ in range(n)]
    for (x, y), stride, level in zip(grid.points.tolist(), strides, levels):
        choices = []
        for k, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
            farthest = max(x - x1, y - y1, x2 - x, y2 - y)
            left, top, right, bottom = x1, y1, x2, y2
            if radius:
                cx, cy, reach = (x1 + x2) / 2, (y1 + y2) / 2, radius * stride
                left, top, right, bottom = (
                    max(x1, cx - reach),
                    max(y1, cy - reach),
                    min(x2, cx + reach),
                    min(y2, cy + reach),
                )
            inside = min(x - left, y - top, right - x, bottom - y) > 0
            if inside and ranges[level][0] <= farthest <= ranges[level][1]:
                choices.append(((x2 - x1) * (y2 - y1), k))
        matched.append(min(choices)[1] if choices else BACKGROUND)
    return matched


@pytest.mark.parametrize("sampling", [False, True])
def test_fcos_equals_its_definition(sampling):
    assigner = FCOSAssigner(center_sampling=sampling)
    grid = grid_of((192, 256), (192, 256), offset=assigner.offset)
    assert grid.points[:2].tolist() == [[4, 4], [12, 4]] and grid.points[grid.num_points[0]].tolist() == [8, 8]
    boxes = random_boxes(9, 192, 256, seed=5)
    matched = assigner(grid, [NONE, boxes])
    expected = plain_fcos(grid, boxes, assigner.regress_ranges, 1.5 if sampling else None)
    assert (matched[0] == BACKGROUND).all()
    assert matched[1].tolist() == expected and len(set(expected)) > 5


def test_fcos_ranges_are_closed():
    assigner = FCOSAssigner(regress_ranges=((-1, 64), (64, 128)))
    grid = grid_of((128, 128), strides=(8, 16), offset=0.5)
    # seen from the location (8, 8) of level 1 and from (4, 4) of level 0, the farthest side is 64 pixels away
    for box, level, index in (([0.0, 0.0, 72.0, 60.0], 1, 0), ([0.0, 0.0, 68.0, 60.0], 0, 0)):
        matched = assigner(grid, [torch.tensor([box])])
        assert matched[0].split(grid.num_points)[level][index] == 0


def test_fcos_wants_a_range_for_each_level():
    with pytest.raises(ValueError, match="5 entries for 2 levels"):
        FCOSAssigner()(grid_of((64, 64), strides=(8, 16)), [NONE])
