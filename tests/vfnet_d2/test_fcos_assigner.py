from tests.vfnet_d2.tiny import make_grid
from vfnet_d2.atss import BACKGROUND
from vfnet_d2.fcos_assigner import FCOSAssigner

import pytest
import torch

NONE = torch.zeros(0, 4)
ONE_LEVEL = dict(regress_ranges=((-1, 1e8),))


def grid_of(height, width, strides=(8,)):
    return make_grid([(height, width)], strides=strides, offset=FCOSAssigner.offset)


def test_every_location_inside_a_box():
    grid = grid_of(32, 32)  # locations at 4, 12, 20, 28
    matched = FCOSAssigner(**ONE_LEVEL)(grid, [torch.tensor([[4.0, 3.9, 20.1, 28.1]])]).view(4, 4)
    # the column at 4 lies on the box's side, which is not inside
    assert matched.tolist() == [[-1, 0, 0, -1]] * 4


def test_of_several_boxes_the_smallest():
    boxes = torch.tensor([[0.0, 0, 32, 32], [8.0, 8, 24, 24]])
    matched = FCOSAssigner(**ONE_LEVEL)(grid_of(32, 32), [boxes]).view(4, 4)
    assert matched.tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    flipped = FCOSAssigner(**ONE_LEVEL)(grid_of(32, 32), [boxes.flip(0)]).view(4, 4)
    assert torch.equal(flipped, 1 - matched)
    # by area: the long one has 32 * 10 square pixels, the other 20 * 20
    boxes = torch.tensor([[0.0, 0, 32, 10], [0.0, 0, 20, 20]])
    matched = FCOSAssigner(**ONE_LEVEL)(grid_of(32, 32), [boxes]).view(4, 4)
    assert matched.tolist() == [[0, 0, 0, 0], [1, 1, -1, -1], [-1] * 4, [-1] * 4]


def test_ranges_include_both_ends():
    grid = grid_of(64, 64, strides=(8, 16, 32, 64, 128))

    def match_at_center(farthest, ranges):
        # the only location of stride 64 is (32, 32)
        box = torch.tensor([[20.0, 20, 32 + farthest, 44]])
        matched = FCOSAssigner(regress_ranges=ranges)(grid, [box])[0]
        return matched[64 + 16 + 4].item()

    ranges = [(0, 0)] * 3 + [(64, 128), (0, 0)]
    assert [match_at_center(x, ranges) for x in (63.5, 64, 100, 128, 128.5)] == [BACKGROUND, 0, 0, 0, BACKGROUND]


def test_default_ranges_put_sizes_on_levels():
    grid = grid_of(1024, 1024, strides=(8, 16, 32, 64, 128))
    first = torch.tensor([0, *grid.num_points]).cumsum(0)
    for half, level in ((40, 0), (100, 1), (200, 2), (400, 3), (512, 4), (2000, 4)):
        box = torch.tensor([[512.0 - half, 512 - half, 512 + half, 512 + half]])
        matched = FCOSAssigner()(grid, [box])[0]
        inner = (grid.points - 512).abs().amax(dim=1) < 0.2 * half
        on_level = torch.zeros_like(inner)
        on_level[first[level] : first[level + 1]] = True
        assert (matched[inner & on_level] == 0).all() and (inner & on_level).any()
        assert (matched[inner & ~on_level] == BACKGROUND).all()


def test_centre_sampling_is_cut_to_the_box():
    grid = grid_of(64, 64)
    boxes = torch.tensor([[0.0, 0, 68, 68]])
    near = FCOSAssigner(center_sampling=True, **ONE_LEVEL)(grid, [boxes]).view(8, 8)
    expected = torch.full((8, 8), -1)
    expected[3:6, 3:6] = 0  # within 12 pixels of (34, 34): 28, 36 and 44
    assert torch.equal(near, expected)
    thin = torch.tensor([[0.0, 29, 64, 35]])  # no location of rows 28 and 36 lies in it
    assert (FCOSAssigner(center_sampling=True, **ONE_LEVEL)(grid, [thin]) == BACKGROUND).all()


def test_images_without_boxes_and_indices_over_the_batch():
    grid = make_grid([(32, 32)] * 3, strides=(8,), offset=0.5)
    whole = torch.tensor([[0.0, 0, 32, 32]])
    matched = FCOSAssigner(**ONE_LEVEL)(grid, [whole, NONE, whole])
    assert matched.view(3, 16).unique_consecutive(dim=1).tolist() == [[0], [BACKGROUND], [1]]
    assert (FCOSAssigner(**ONE_LEVEL)(grid, [NONE] * 3) == BACKGROUND).all()


def test_a_box_without_area_gets_none():
    assert (FCOSAssigner(**ONE_LEVEL)(grid_of(32, 32), [torch.tensor([[12.0, 12, 12, 12]])]) == BACKGROUND).all()


def test_ranges_and_levels_must_agree():
    with pytest.raises(ValueError, match="5 entries for 1 levels"):
        FCOSAssigner()(grid_of(32, 32), [NONE])
