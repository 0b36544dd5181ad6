from dense_d2.data.cutout import HOLE_SIZES, CutOut, CutOutTransform

import numpy as np
import pytest
from detectron2.data.transforms import AugInput, NoOpTransform

WHITE = np.full((60, 80, 3), 255, np.uint8)


def test_holes_are_black_and_end_at_the_border():
    image = CutOutTransform([(2, 3, 6, 11), (78, 50, 94, 66)]).apply_image(WHITE)
    expected = WHITE.copy()
    expected[3:11, 2:6] = 0
    expected[50:60, 78:80] = 0
    assert np.array_equal(image, expected) and WHITE.all()  # in a copy


def test_draws():
    np.random.seed(0)
    transforms = [CutOut().get_transform(WHITE) for _ in range(400)]
    cut = [t.holes for t in transforms if not isinstance(t, NoOpTransform)]
    assert len(cut) / 400 == pytest.approx(0.5, abs=0.08)
    assert {len(holes) for holes in cut} == {5, 6, 7, 8, 9, 10}
    holes = np.concatenate([np.array(h) for h in cut])
    assert {tuple(size) for size in (holes[:, 2:] - holes[:, :2]).tolist()} == set(HOLE_SIZES) and len(HOLE_SIZES) == 13
    assert (holes[:, :2].min(axis=0) == 0).all() and (holes[:, :2].max(axis=0) == (79, 59)).all()


def test_boxes_stay():
    np.random.seed(1)
    aug_input = AugInput(WHITE, boxes=np.array([[1.0, 2.0, 3.0, 4.0]]))
    CutOut(num_holes=(1, 1), hole_sizes=[(4, 8)], prob=1.0)(aug_input)
    assert aug_input.boxes.tolist() == [[1, 2, 3, 4]]
    rows, columns = np.nonzero(aug_input.image[:, :, 0] == 0)
    assert (np.ptp(columns) + 1, np.ptp(rows) + 1, len(rows)) == (4, 8, 32)
