from dense_d2.data.mosaic import Mosaic

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances


def make_sample(height, width, value, boxes=(), content=None):
    """An image whose pixels are `value` + column, 100 * row apart, so that every pixel says where it came from."""
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.full((len(boxes),), value, dtype=torch.int64)
    image = value * 10000 + 100 * torch.arange(height)[:, None] + torch.arange(width)[None]
    content = content or (0.0, 0.0, float(width), float(height))
    return {"image": image[None].int(), "instances": instances, "content": content, "file_name": f"{value}.png"}


def test_outer_corners_of_the_tiles_meet_the_corners_of_the_mosaic():
    samples = [make_sample(12, 14, value) for value in (1, 2, 3, 4)]
    mixed = Mosaic(size=10).blend(samples, cut_x=4, cut_y=3)
    image = mixed["image"][0]
    assert image.shape == (10, 10)
    assert image[0, 0] == 10000  # top left of image 1
    assert image[2, 3] == 10203
    assert image[0, 9] == 20013  # top right of image 2
    assert image[0, 4] == 20008
    assert image[9, 0] == 31100  # bottom left of image 3
    assert image[9, 9] == 41113
    assert image[3, 4] == 40508
    assert (mixed["file_name"], mixed["content"]) == ("1.png", (0, 0, 10, 10))


def test_boxes_move_with_their_tile_are_cut_to_it_and_dropped_when_empty():
    samples = [make_sample(12, 14, value, [[1, 1, 6, 2], [9, 9, 13, 12], [12, 0, 14, 1]]) for value in (1, 2, 3, 4)]
    instances = Mosaic(size=10).blend(samples, cut_x=4, cut_y=3)["instances"]
    rows = sorted(zip(instances.gt_classes.tolist(), instances.gt_boxes.tensor.int().tolist()))
    assert rows == [
        (1, [1, 1, 4, 2]),
        (2, [8, 0, 10, 1]),  # the first box lies left of the part shown, the second below it
        (4, [5, 7, 9, 10]),
    ]
    assert instances.image_size == (10, 10)


@pytest.mark.parametrize(
    ("content", "corner", "expected"),
    [
        ((2.7, 1.2, 14.0, 12.0), (0, 0), 10102),  # two whole columns and one row of padding are skipped
        ((9.0, 0.0, 14.0, 12.0), (0, 0), 10004),  # at most the tile's four columns
    ],
)
def test_padding_at_the_outer_border_is_skipped(content, corner, expected):
    samples = [make_sample(12, 14, 1, content=content)] + [make_sample(12, 14, value) for value in (2, 3, 4)]
    assert Mosaic(size=10).blend(samples, 4, 3)["image"][0][corner] == expected


def test_padding_at_the_far_end_is_skipped_and_boxes_follow():
    last = make_sample(12, 14, 4, [[4, 4, 8, 8]], content=(0.0, 0.0, 11.5, 11.0))
    mixed = Mosaic(size=10).blend([make_sample(12, 14, v) for v in (1, 2, 3)] + [last], 4, 3)
    assert mixed["image"][0, 9, 9] == 41011  # columns 12, 13 and row 11 are padding
    assert mixed["instances"].gt_boxes.tensor.tolist() == [[4, 3, 6, 7]]


def test_only_what_the_image_can_spare_is_skipped():
    first = make_sample(12, 5, 1, content=(3.0, 0.0, 5.0, 12.0))
    mixed = Mosaic(size=10).blend([first] + [make_sample(12, 14, v) for v in (2, 3, 4)], 4, 3)
    assert mixed["image"][0, 0, 0] == 10001


def test_an_image_smaller_than_its_tile_leaves_zeros():
    mixed = Mosaic(size=10).blend([make_sample(2, 2, v, [[0, 0, 2, 2]]) for v in (1, 2, 3, 4)], 4, 3)
    assert mixed["image"][0, 0, :6].tolist() == [10000, 10001, 0, 0, 20000, 20001]
    assert mixed["image"][0].count_nonzero() == 16
    boxes = mixed["instances"].gt_boxes.tensor.tolist()
    assert boxes == [[0, 0, 2, 2], [4, 0, 6, 2], [0, 3, 2, 5], [4, 3, 6, 5]]


def test_every_pixel_and_box_corner_agree():
    """A box drawn around a marked pixel still surrounds it in the mosaic."""
    np.random.seed(0)
    mosaic = Mosaic(size=64, prob=1.0)
    for _ in range(20):
        samples = []
        for value in range(1, 5):
            sample = make_sample(64, 64, 0, [[20, 20, 24, 24]], content=(3.0, 5.0, 60.0, 59.0))
            sample["image"] = torch.zeros(1, 64, 64)
            sample["image"][:, 20:24, 20:24] = value
            samples.append(sample)
        partners = iter(samples[1:])
        mixed = mosaic(samples[0], lambda partners=partners: next(partners))
        inside = torch.zeros(64, 64)
        for x1, y1, x2, y2 in mixed["instances"].gt_boxes.tensor.int().tolist():
            inside[y1:y2, x1:x2] = 1
        assert torch.equal(inside > 0, mixed["image"][0] > 0)


def test_cut_range_and_probability():
    np.random.seed(0)
    mosaic, cuts = Mosaic(prob=0.3), []
    mosaic.blend = lambda samples, x, y: cuts.append((x, y))
    for _ in range(6000):
        mosaic({}, dict)
    assert len(cuts) == pytest.approx(1800, abs=150)
    for axis in zip(*cuts):
        assert (min(axis), max(axis)) == (128, 511)
    sample = {}
    assert Mosaic(prob=1.0)(sample, dict, strong=False) is sample
    with pytest.raises(ValueError, match="size of 320"):
        mosaic(sample, dict, size=320)


def test_tiles_without_boxes():
    mixed = Mosaic(size=10).blend([make_sample(12, 14, v) for v in (1, 2, 3, 4)], 4, 3)
    assert len(mixed["instances"]) == 0
    assert mixed["instances"].gt_boxes.tensor.shape == (0, 4)
