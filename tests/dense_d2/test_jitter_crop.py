from dense_d2.data.jitter_crop import JitterCropTransform, RandomJitterCrop
from dense_d2.data.resize import SquareResize

import numpy as np
import pytest


def test_positive_numbers_crop_and_negative_ones_pad_with_the_mean():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    crop = JitterCropTransform(left=1, top=-1, right=-2, bottom=1, width=4, height=2)
    assert crop.output_size == (5, 2)
    result = crop.apply_image(image)
    mean = [10, 11, 12]  # of 0, 3, .. 21 = 10.5, 11.5, 12.5, cut down
    np.testing.assert_array_equal(result[0], [mean] * 5)
    np.testing.assert_array_equal(result[1], [*image[0, 1:].tolist(), mean, mean])


def test_boxes_move_with_the_crop_and_end_one_pixel_before_the_border():
    crop = JitterCropTransform(left=10, top=-5, right=0, bottom=0, width=100, height=50)
    boxes = np.array([[0.0, 0, 30, 20], [50, 10, 100, 50]])
    np.testing.assert_array_equal(crop.apply_box(boxes), [[0, 5, 20, 25], [40, 15, 89, 54]])


def test_a_pixel_and_its_coordinates_move_together():
    np.random.seed(1)
    image = np.zeros((60, 80, 1), dtype=np.uint8)
    image[30, 40] = 255
    for _ in range(50):
        crop = RandomJitterCrop(0.3).get_transform(image)
        ys, xs = np.nonzero(crop.apply_image(image)[..., 0] == 255)
        assert crop.apply_coords(np.array([[40.0, 30.0]])).tolist() == [[xs[0], ys[0]]]


def test_range_of_the_draws():
    np.random.seed(0)
    image = np.zeros((30, 40, 3), dtype=np.uint8)
    drawn = [RandomJitterCrop().get_transform(image) for _ in range(3000)]
    for side, reach in (("left", 12), ("right", 12), ("top", 9), ("bottom", 9)):
        values = [getattr(t, side) for t in drawn]
        assert (min(values), max(values)) == (-reach, reach - 1)


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 2, 3)])
def test_tiny_images_stay_as_they_are(shape):
    image = np.full(shape, 7, dtype=np.uint8)
    np.testing.assert_array_equal(RandomJitterCrop(0.3).get_transform(image).apply_image(image), image)


def test_a_ratio_that_could_remove_the_image_is_refused():
    with pytest.raises(ValueError, match=r"ratio is 0\.5"):
        RandomJitterCrop(0.5)


def test_square_resize_draws_one_factor_for_both_sides():
    np.random.seed(0)
    image = np.zeros((48, 64, 3), dtype=np.uint8)
    sizes = {SquareResize(640, (0.8, 1.2)).get_transform(image).apply_image(image).shape[:2] for _ in range(40)}
    assert all(h == w and 512 <= h <= 767 for h, w in sizes)
    assert len(sizes) > 20 and min(sizes)[0] < 550 and max(sizes)[0] > 730
    assert SquareResize(3, (0.9, 0.9)).get_transform(image).new_h == 2  # 2.7
    fixed = SquareResize(608).get_transform(image)
    assert (fixed.new_h, fixed.new_w) == (608, 608)
    np.testing.assert_allclose(fixed.apply_box(np.array([[16.0, 12, 32, 24]])), [[152, 152, 304, 304]])
