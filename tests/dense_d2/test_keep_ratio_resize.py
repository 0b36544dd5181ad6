from dense_d2.data.keep_ratio_resize import KeepRatioResize, fit_edges

import cv2
import numpy as np
import pytest
from detectron2.data.transforms import AugInput


@pytest.mark.parametrize(
    "size, edges, expected",
    [
        ((480, 640), (800, 1333), (800, 1067)),  # 1066.67 rounds up
        ((427, 640), (800, 1333), (800, 1199)),  # 1199.06 rounds down
        ((640, 427), (800, 1333), (1199, 800)),
        ((300, 640), (800, 1333), (625, 1333)),  # 624.84: the long edge decides
        ((480, 640), (1400, 750), (750, 1000)),  # drawn the wrong way round: the limits change roles
        ((1, 4000), (800, 1333), (1, 1333)),
        ((1000, 1000), (500, 2100), (500, 500)),
    ],
)
def test_sizes(size, edges, expected):
    assert fit_edges(*size, *edges) == expected


def test_image_and_boxes():
    image = np.random.RandomState(0).randint(0, 256, (48, 64, 3), dtype=np.uint8)
    aug_input = AugInput(image, boxes=np.array([[8.0, 6.0, 64.0, 48.0]]))
    KeepRatioResize(short_edge=40, long_edge=100)(aug_input)
    assert np.array_equal(aug_input.image, cv2.resize(image, (53, 40), interpolation=cv2.INTER_LINEAR))
    np.testing.assert_allclose(aug_input.boxes, [[8 * 53 / 64, 5.0, 53.0, 40.0]])


def test_draws_cover_both_ranges_independently():
    np.random.seed(0)
    image = np.zeros((10, 10, 3), np.uint8)  # square: the lower limit decides
    resize = KeepRatioResize(short_edge=[3, 5], long_edge=[4, 6])
    draws = [resize.get_transform(image).new_height for _ in range(400)]
    share = {side: draws.count(side) / 400 for side in set(draws)}
    # lower of the two: 3 in 3 of 9 cases, 4 in 4 of 9 (4 with 4, 5, 6, and 5 with 4), 5 in 2 of 9
    assert share == pytest.approx({3: 3 / 9, 4: 4 / 9, 5: 2 / 9}, abs=0.08)
    with pytest.raises(ValueError, match="low <= high"):
        KeepRatioResize(short_edge=(960, 480))
