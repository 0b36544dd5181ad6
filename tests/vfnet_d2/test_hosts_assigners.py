from tests.vfnet_d2.tiny import make_grid
from vfnet_d2.atss import BACKGROUND, IGNORED
from vfnet_d2.hosts.max_iou_assigner import MaxIoUAssigner
from vfnet_d2.hosts.point_assigner import PointAssigner

import pytest
import torch


@pytest.mark.parametrize(
    "width, height, level",
    [(8, 8, 0), (63, 63, 0), (64, 64, 1), (32, 128, 1), (127, 127, 1), (128, 128, 2), (256, 256, 3), (900, 1200, 4)],
)
def test_level_of_a_box(width, height, level):
    grid = make_grid([(1280, 1280)])
    box = torch.tensor([[640.0 - width / 2, 640 - height / 2, 640 + width / 2, 640 + height / 2]])
    (matched,) = PointAssigner()(grid, [box])
    (location,) = (matched == 0).nonzero().flatten()
    assert sum(grid.num_points[:level]) <= location < sum(grid.num_points[: level + 1])
    assert grid.points[location].tolist() == [640, 640] and (matched != 0).sum() == len(matched) - 1


def test_the_nearest_location_is_one_that_the_image_covers():
    # images of 4 x 8 and 8 x 8 cells of the finest map
    grid = make_grid([(32, 64), (64, 64)])
    boxes = [torch.tensor([[58.0, 28, 66, 36]]), torch.tensor([[58.0, 27, 66, 35], [20.0, 9, 36, 19]])]
    matched = PointAssigner()(grid, boxes)
    found = [grid.points[(matched[image] == box).nonzero()[:, 0]].tolist() for image, box in ((0, 0), (1, 1), (1, 2))]
    # centres (62, 32), (62, 31) and (28, 14), between two: column 8 and, in the first image, row 4 are outside
    assert found == [[[56, 24]], [[56, 32]], [[24, 16]]]


def test_of_two_boxes_at_a_location_the_nearer_stays():
    grid = make_grid([(64, 64)])
    near = [16.0, 16, 34, 34]  # centre (25, 25), a pixel off in each direction: 1/18 of its sides
    far = [17.0, 17, 35, 35]  # 2/18
    large = [2.0, 2, 50, 50]  # centre (26, 26): 2/48 of its sides
    location = 3 * 8 + 3
    for boxes, winner in (([near, far], 0), ([far, near], 1), ([near, large], 1), ([large, near], 0), ([near] * 2, 0)):
        (matched,) = PointAssigner()(grid, [torch.tensor(boxes)])
        assert matched[location] == winner and (matched != BACKGROUND).sum() == 1


def test_point_assigner_without_boxes_and_with_odd_strides():
    grid = make_grid([(64, 64), (64, 64)])
    assert (PointAssigner()(grid, [torch.zeros(0, 4)] * 2) == BACKGROUND).all()
    (first, second) = PointAssigner()(grid, [torch.zeros(0, 4), torch.tensor([[0.0, 0, 0, 0]])])
    assert (first == BACKGROUND).all() and second[0] == 0  # a box without area is a small one
    with pytest.raises(ValueError, match="twice"):
        PointAssigner()(make_grid([(64, 64)], strides=(8, 24)), [torch.zeros(0, 4)])


def test_candidates_by_their_overlap():
    gt = torch.tensor([[0.0, 0, 10, 10], [20.0, 0, 30, 10], [20.0, 0, 30, 10.5]])
    candidates = torch.tensor(
        [
            [0.0, 0, 10, 9],  # 0.9
            [0.0, 0, 10, 5],  # 0.5
            [0.0, 0, 10, 4.5],  # 0.45: neither
            [0.0, 0, 10, 4],  # 0.4
            [0.0, 0, 10, 3.9],
            [20.0, 0, 30, 10.1],  # best of the second box and of the third, which comes later
            [0.0, 0, 10, 10],  # outside of the image
        ]
    )[None]
    valid = torch.tensor([[True] * 6 + [False]])
    (matched,) = MaxIoUAssigner()(candidates, valid, [gt])
    assert matched.tolist() == [0, 0, IGNORED, IGNORED, BACKGROUND, 2, IGNORED]
    # the best of a box are its own however bad
    (matched,) = MaxIoUAssigner()(candidates[:, 3:5], valid[:, 3:5], [gt[:1]])
    assert matched.tolist() == [0, BACKGROUND]
    # and those outside of the image do not compete
    (matched,) = MaxIoUAssigner()(candidates[:, [3, 4, 6]], valid[:, [3, 4, 6]], [gt[:1]])
    assert matched.tolist() == [0, BACKGROUND, IGNORED]
    (matched,) = MaxIoUAssigner(min_best_iou=0.45)(candidates[:, 3:5], valid[:, 3:5], [gt[:1]])
    assert matched.tolist() == [IGNORED, BACKGROUND]


def test_a_box_that_nothing_touches_takes_all_that_is_as_far():
    gt = torch.tensor([[0.0, 0, 10, 10], [50.0, 50, 60, 60]])
    candidates = torch.tensor([[0.0, 0, 10, 9], [80.0, 80, 90, 90]]).expand(1, 2, 4)
    assert MaxIoUAssigner()(candidates, torch.ones(1, 2, dtype=torch.bool), [gt]).tolist() == [[1, 1]]
    assert MaxIoUAssigner(min_best_iou=0.1)(candidates, torch.ones(1, 2, dtype=torch.bool), [gt]).tolist() == [[0, -1]]


def test_candidates_of_a_batch():
    candidates = torch.tensor([[0.0, 0, 10, 10], [20.0, 0, 30, 10]]).expand(3, 2, 4)
    valid = torch.tensor([[True, True], [True, False], [True, False]])
    gt = [torch.tensor([[0.0, 0, 10, 10]]), torch.zeros(0, 4), torch.tensor([[20.0, 0, 30, 10], [0.0, 0, 10, 10]])]
    matched = MaxIoUAssigner()(candidates, valid, gt)
    assert matched.tolist() == [[0, BACKGROUND], [BACKGROUND, IGNORED], [2, IGNORED]]
