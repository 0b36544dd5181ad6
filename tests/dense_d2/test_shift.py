from dense_d2.data.shift import RandomShift, ShiftTransform

import numpy as np
import pytest
from detectron2.data import transforms as T


def test_content_moves_and_the_uncovered_band_is_zero():
    image = np.arange(1, 13, dtype=np.uint8).reshape(3, 4)
    moved = ShiftTransform(1, -1, 4, 3).apply_image(image)
    np.testing.assert_array_equal(moved, [[0, 5, 6, 7], [0, 9, 10, 11], [0, 0, 0, 0]])
    colour = ShiftTransform(-2, 2, 4, 3).apply_image(np.dstack([image, image + 20]))
    np.testing.assert_array_equal(colour[2], [[3, 23], [4, 24], [0, 0], [0, 0]])
    assert not colour[:2].any()


@pytest.mark.parametrize(("dx", "dy"), [(4, 0), (0, -3), (90, 90), (-90, 1)])
def test_a_shift_beyond_the_image_leaves_nothing(dx, dy):
    assert not ShiftTransform(dx, dy, 4, 3).apply_image(np.ones((3, 4), dtype=np.uint8)).any()


def test_boxes_move_and_are_cut_to_the_image():
    boxes = np.array([[10.0, 10, 20, 20], [0, 0, 5, 5], [90, 40, 100, 50]])
    moved = ShiftTransform(-8, 6, 100, 50).apply_box(boxes)
    np.testing.assert_array_equal(moved, [[2, 16, 12, 26], [0, 6, 0, 11], [82, 46, 92, 50]])
    np.testing.assert_array_equal(ShiftTransform(-8, 6, 100, 50).inverse().apply_box(moved[:1]), boxes[:1])


def test_draws_cover_minus_32_to_31_half_of_the_time():
    np.random.seed(0)
    image = np.zeros((50, 40, 3), dtype=np.uint8)
    drawn = [RandomShift().get_transform(image) for _ in range(8000)]
    shifts = [(t.dx, t.dy) for t in drawn if isinstance(t, ShiftTransform)]
    assert abs(len(shifts) - 4000) < 250
    assert {(t.width, t.height) for t in drawn if isinstance(t, ShiftTransform)} == {(40, 50)}
    for axis in zip(*shifts):
        assert (min(axis), max(axis)) == (-32, 31)
    assert np.corrcoef(*zip(*shifts))[0, 1] == pytest.approx(0, abs=0.05)


def test_zero_turns_it_off():
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    assert all(isinstance(RandomShift(0, prob=1.0).get_transform(image), T.NoOpTransform) for _ in range(20))
