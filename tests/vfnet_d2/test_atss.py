"""ATSS against a plain loop over boxes, and by hand."""

from tests.vfnet_d2.tiny import STRIDES, make_grid
from vfnet_d2.atss import BACKGROUND, IGNORED, ATSSAssigner
from vfnet_d2.points import PointGrid

import pytest
import torch
from torchvision.ops import box_iou

NONE = torch.zeros(0, 4)


def plain_atss(grid, image, boxes, topk=9, scale=8):
    """The paper's Alg. 1 for one image and all its locations: an index into `boxes`, or BACKGROUND, each."""
    valid = grid.is_valid()[image]
    anchors, levels = [], []
    for level, (count, stride) in enumerate(zip(grid.num_points, grid.strides)):
        half = torch.full((count, 1), scale * stride / 2)
        points = grid.points[len(levels) :][:count]
        anchors.append(torch.cat([points - half, points + half], dim=1))
        levels += [level] * count
    iou, levels = box_iou(torch.cat(anchors), boxes), torch.tensor(levels)
    result, best = [BACKGROUND] * len(levels), [-1.0] * len(levels)
    for b, box in enumerate(boxes):
        distance = (grid.points - (box[:2] + box[2:]) / 2).square().sum(dim=1)
        candidates = []
        for level in range(len(grid.sizes)):
            members = ((levels == level) & valid).nonzero().squeeze(1)
            candidates += members[distance[members].topk(min(topk, len(members)), largest=False).indices].tolist()
        overlaps = iou[candidates, b]
        threshold = overlaps.mean() + (overlaps.std() if len(candidates) > 1 else 0)
        for point in candidates:
            x, y = grid.points[point].tolist()
            inside = min(x - box[0], y - box[1], box[2] - x, box[3] - y) > 0.01
            if inside and iou[point, b] >= threshold and iou[point, b] > best[point]:
                result[point], best[point] = b, iou[point, b].item()
    return torch.tensor(result)


def random_boxes(count, size, seed):
    """Sides log-uniform from 3 pixels to the image's; positions that make no ties."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor(size[::-1], dtype=torch.float32)
    sides = 3 * (size / 3) ** torch.rand(count, 2, generator=generator)
    corners = torch.rand(count, 2, generator=generator) * (size - sides)
    return torch.cat([corners, corners + sides], dim=1)


def squares(*boxes):
    """Args: (x, y, side) of squares by their centres."""
    return torch.tensor([[x - s / 2, y - s / 2, x + s / 2, y + s / 2] for x, y, s in boxes])


@pytest.mark.parametrize("topk", [9, 2, 1])
def test_same_as_the_plain_loop(topk):
    sizes = [(150, 260), (224, 130), (60, 70), (224, 260)]
    grid = make_grid(sizes)
    boxes = [random_boxes(n, size, seed) for seed, (n, size) in enumerate(zip((20, 0, 7, 40), sizes))]
    matched = ATSSAssigner(topk=topk)(grid, boxes)
    first = 0
    for i, own in enumerate(boxes):
        expected = plain_atss(grid, i, own, topk)
        assert torch.equal(matched[i], torch.where(expected >= 0, expected + first, BACKGROUND))
        assert (matched[i] >= 0).any() == (len(own) > 0)
        first += len(own)


def test_how_many_locations_a_square_gets():
    """The specification's numbers for isolated squares: one location of side 8, four of 16, nine from 32 on, on one level."""
    grid = make_grid([(800, 1344)])
    starts = torch.tensor(grid.num_points).cumsum(0)
    # away from ties: 1 / 3 of a cell beside a location of every level
    for side, count, level in ((8, 1, 0), (16, 4, 0), (32, 9, 0), (64, 9, 0), (128, 9, 1), (256, 9, 2), (512, 9, 3)):
        x, y = (640 + STRIDES[level] / 3, 384 + STRIDES[level] / 3)
        found = (ATSSAssigner()(grid, [squares((x, y, side))])[0] == 0).nonzero().squeeze(1)
        assert len(found) == count, side
        assert (torch.bucketize(found, starts, right=True) == level).all()
        distance = (grid.points[found] - torch.tensor([x, y])).norm(dim=1)
        assert distance.max() < 2.2 * STRIDES[level]


def test_locations_of_one_box_by_hand():
    # one level of 4 x 4 locations 8 pixels apart, anchors of 16; the box is the anchor at (8, 8), the candidates nearest it
    grid = make_grid([(32, 32)], strides=(8,))
    matched = ATSSAssigner(topk=5, anchor_scale=2)(grid, [torch.tensor([[0.0, 0, 16, 16]])])
    # IoU 1 at (8, 8) and 1/3 at its four neighbours: mean 0.467, deviation 0.298
    assert matched.view(4, 4).tolist() == [[-1] * 4, [-1, 0, -1, -1], [-1] * 4, [-1] * 4]


def test_a_box_no_location_lies_in_gets_none():
    grid = make_grid([(64, 64)])
    assert (ATSSAssigner()(grid, [torch.tensor([[9.0, 9, 14, 14]])]) == BACKGROUND).all()
    # on a location, but without area; and with a side on it, which does not count as inside
    for box in ([16.0, 16, 16, 16], [16.0, 9, 23, 23], [15.995, 9, 23, 23]):
        assert (ATSSAssigner()(grid, [torch.tensor([box])]) == BACKGROUND).all()
    assert (ATSSAssigner()(grid, [torch.tensor([[15.98, 9.0, 23, 23]])]) == 0).any()


def test_fewer_locations_than_candidates():
    grid = make_grid([(32, 32)])
    assert grid.num_points == [16, 4, 1, 1, 1]
    boxes = squares((17, 18, 20), (6, 5, 9))
    for scale, found in ((8, False), (2, True)):
        matched = ATSSAssigner(anchor_scale=scale)(grid, [boxes])
        assert torch.equal(matched[0], plain_atss(grid, 0, boxes, scale=scale))
        assert (matched == 0).any() == (matched == 1).any() == found


def test_a_map_of_one_location():
    grid = make_grid([(8, 8)], strides=(32,))
    assert grid.sizes == ((1, 1),)
    assert ATSSAssigner()(grid, [torch.tensor([[-1.0, -1, 7, 7]]), NONE][:1]).tolist() == [[0]]
    assert ATSSAssigner()(grid, [torch.tensor([[1.0, 1, 7, 7]])]).tolist() == [[BACKGROUND]]


def test_no_box_in_one_image_and_in_all():
    grid = make_grid([(64, 64), (64, 64)])
    assert (ATSSAssigner()(grid, [NONE, NONE]) == BACKGROUND).all()
    matched = ATSSAssigner()(grid, [NONE, squares((33, 30, 40))])
    assert (matched[0] == BACKGROUND).all() and (matched[1] == 0).sum() > 1


def test_of_equal_boxes_the_first_has_all_locations():
    grid = make_grid([(64, 64)])
    one = ATSSAssigner()(grid, [squares((33, 30, 40))])
    assert torch.equal(ATSSAssigner()(grid, [squares((33, 30, 40), (33, 30, 40))]), one)


def test_a_location_goes_to_the_box_that_fits_best():
    grid = make_grid([(128, 128)], strides=(8,))
    # both keep the location (64, 64); the anchor there is 64 pixels wide, as the second box
    boxes = squares((65, 65, 40), (65, 66, 64))
    matched = ATSSAssigner()(grid, [boxes]).view(16, 16)
    assert matched[8, 8] == 1
    assert torch.equal(ATSSAssigner()(grid, [boxes.flip(0)]).view(16, 16)[8, 8], torch.tensor(0))


def test_permuting_boxes_permutes_matches():
    grid = make_grid([(200, 200)])
    boxes = random_boxes(25, (200, 200), seed=5)
    order = torch.randperm(25, generator=torch.Generator().manual_seed(0))
    matched, permuted = ATSSAssigner()(grid, [boxes])[0], ATSSAssigner()(grid, [boxes[order]])[0]
    fg = matched >= 0
    assert torch.equal(order[permuted[fg]], matched[fg]) and torch.equal(permuted >= 0, fg)


def test_padding_of_the_batch_is_left_alone():
    # an image of 40 x 70 is 64 x 96 by itself, in a batch of 128 x 128
    grid = make_grid([(40, 70), (128, 128)])
    assert grid.valid_sizes[0].tolist() == [[8, 12], [4, 6], [2, 3], [1, 2], [1, 1]]
    valid = grid.is_valid()
    assert valid[1].all() and valid[0].sum() == 8 * 12 + 4 * 6 + 2 * 3 + 2 + 1
    box = torch.tensor([[2.0, 3, 70, 40]])
    alone = make_grid([(40, 70)])
    matched, by_itself = ATSSAssigner()(grid, [box, NONE])[0], ATSSAssigner()(alone, [box])[0]
    assert torch.equal(matched[valid[0]], by_itself) and (matched[~valid[0]] == BACKGROUND).all()


def test_ignored_regions():
    grid = make_grid([(128, 128)], strides=(8,))
    assigner = ATSSAssigner(anchor_scale=2, ignore_iof_thresh=0.5)
    box, region = squares((30, 30, 16)), torch.tensor([[62.0, 62, 128, 128]])
    matched = assigner(grid, [box], [region]).view(16, 16)
    # anchors of 16 pixels with more than half of their area in the region: at its edge five eighths, at its corner fewer
    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[8:, 8:] = True
    expected[8, 8] = False
    assert torch.equal(matched == IGNORED, expected)
    assert torch.equal(matched == 0, ATSSAssigner(anchor_scale=2)(grid, [box]).view(16, 16) == 0)
    # not exactly half
    matched = assigner(grid, [box], [torch.tensor([[64.0, 64, 128, 128]])])
    assert (matched == IGNORED).sum() == 7 * 7
    # where the nearest locations are ignored, the nearest of the others
    assigner = ATSSAssigner(topk=1, anchor_scale=2, ignore_iof_thresh=0.5)
    matched = assigner(grid, [squares((65, 64, 80))], [squares((64, 64, 40))]).view(16, 16)
    assert (matched == 0).nonzero().tolist() == [[8, 11]] and (matched == IGNORED).sum() == 5 * 5
    # the box's own locations stay foreground where it has no others
    everything = torch.tensor([[-100.0, -100, 300, 300]])
    tiny = make_grid([(32, 32)], strides=(16,))
    matched = ATSSAssigner(ignore_iof_thresh=0.5)(tiny, [squares((17, 17, 20))], [everything])
    assert (matched == 0).any() and ((matched == 0) | (matched == IGNORED)).all()


def test_points_have_no_half_cell_and_go_row_by_row():
    grid = PointGrid.of([torch.zeros(1, 1, 2, 3)], (8,), [(16, 24)])
    assert grid.points.tolist() == [[0, 0], [8, 0], [16, 0], [0, 8], [8, 8], [16, 8]]
    half = PointGrid.of([torch.zeros(1, 1, 1, 2)], (8,), [(16, 24)], offset=0.5)
    assert half.points.tolist() == [[4, 4], [12, 4]]
    with pytest.raises(ValueError, match="1 feature maps but 2 strides"):
        PointGrid.of([torch.zeros(1, 1, 2, 3)], (8, 16), [(16, 24)])
