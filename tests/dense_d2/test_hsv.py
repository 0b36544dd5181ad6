import colorsys

from dense_d2.data.hsv import RandomHSV, apply_hsv_tables
from tests.dense_d2.painted import painted

import numpy as np
import pytest

SAME = np.tile(np.arange(256, dtype=np.uint8), (3, 1))


def bgr(hue, saturation, value):
    """One pixel; hue in OpenCV's 0..179, the others in 0..255."""
    colour = colorsys.hsv_to_rgb(hue / 180, saturation / 255, value / 255)[::-1]
    return np.rint(np.array(colour) * 255).astype(np.uint8).reshape(1, 1, 3)


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_each_table_changes_its_channel(channel):
    old, new = [20, 200, 120], [20, 200, 120]
    new[channel] = 90
    tables = SAME.copy()
    tables[channel, old[channel]] = 90
    image = bgr(*old)
    changed = apply_hsv_tables(image, tables)
    assert np.abs(changed.astype(int) - bgr(*new)).max() <= 2
    assert np.array_equal(image, bgr(*old))


def test_multiplicative_gains():
    np.random.seed(0)
    step, seen = RandomHSV((0.5, 0.7, 0.4)), []
    for _ in range(300):
        tables = step.draw_tables()
        assert tables[0].max() < 180
        factors = [tables[0, 60] / 60, tables[1, 100] / 100, tables[2, 100] / 100]
        seen.append(factors)
        assert tables[1, 255] == pytest.approx(min(255, 255 * factors[1]), abs=3)
    low, high = np.min(seen, axis=0), np.max(seen, axis=0)
    np.testing.assert_allclose(low, [0.5, 0.3, 0.6], atol=0.04)
    np.testing.assert_allclose(high, [1.5, 1.7, 1.4], atol=0.04)
    assert np.abs(np.corrcoef(np.transpose(seen)) - np.eye(3)).max() < 0.2


def test_additive_gains_are_switched_channel_by_channel():
    np.random.seed(0)
    step = RandomHSV((5, 30, 30), additive=True)
    shifts = np.array(
        [
            (t[0, 90] - 90, t[1, 100] - 100, t[2, 100] - 100)
            for t in (step.draw_tables().astype(int) for _ in range(2000))
        ]
    )
    assert np.abs(shifts).max(axis=0).tolist() == [4, 29, 29]
    unchanged = shifts[:, 1:] == 0
    assert (np.abs(unchanged.mean(axis=0) - 0.52) < 0.07).all()
    assert 0.2 < unchanged.all(axis=1).mean() < 0.35


def test_hue_wraps_and_the_others_are_cut():
    step = RandomHSV((5, 30, 30), additive=True)
    np.random.seed(3)
    for _ in range(50):
        tables = step.draw_tables().astype(int)
        shift = (tables[0, 90] - 90, tables[1, 100] - 100)
        assert tables[0, 1] == (1 + shift[0]) % 180
        assert tables[1, 250] == min(250 + shift[1], 255)


def test_boxes_stay_and_the_given_image_too():
    picture = painted()
    before = picture.image.copy()
    changed = RandomHSV((0.1, 0.7, 0.4))(picture, None, None)
    assert np.array_equal(picture.image, before)
    assert changed.boxes is picture.boxes
    assert RandomHSV(prob=0.0)(picture, None, None) is picture
