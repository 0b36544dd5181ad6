from dense_d2.data.distortion import DistortionTransform, RandomDistortion

import cv2
import numpy as np
import pytest


@pytest.fixture(scope="module")
def image():
    return np.random.RandomState(0).randint(0, 256, (40, 50, 3), dtype=np.uint8)


def released_formula(image, hue, saturation, exposure):
    """The facts of the released code, in float per pixel: all channels over 255, hue wraps at 0 and 1."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.float32) / 255
    hsv *= np.array([1, saturation, exposure], dtype=np.float32)
    hsv[..., 0] += np.float32(hue * 179 / 255)
    over, under = hsv[..., 0] > 1, hsv[..., 0] < 0
    hsv[..., 0] += np.where(under & (hue <= 0), 1, 0) - np.where(over & (hue > 0), 1, 0)
    return cv2.cvtColor((hsv * 255).clip(0, 255).astype(np.uint8), cv2.COLOR_HSV2RGB)


@pytest.mark.parametrize("hue", [-0.1, -0.03, 0.0, 0.04, 0.1])
def test_with_the_bug_it_equals_the_released_code(image, hue):
    result = DistortionTransform(hue, 1.3, 0.8, reproduce_hue_bug=True).apply_image(image)
    np.testing.assert_array_equal(result, released_formula(image, hue, 1.3, 0.8))


def test_red_stays_reddish_unless_the_bug_is_asked_for():
    red = np.full((2, 2, 3), (255, 0, 0), dtype=np.uint8)
    fixed = DistortionTransform(-0.05, 1, 1).apply_image(red)[0, 0].tolist()
    buggy = DistortionTransform(-0.05, 1, 1, reproduce_hue_bug=True).apply_image(red)[0, 0].tolist()
    assert fixed[0] == 255
    assert fixed[1] == 0
    assert 0 < fixed[2] < 100  # nine hue units below red: towards the third channel
    assert buggy[1] > buggy[0]


def test_hue_shifts_by_a_fraction_of_179_and_wraps_at_180():
    hue = DistortionTransform(-0.1, 1, 1).tables()[:, 0]
    assert hue[[100, 18, 17, 0, 179]].tolist() == [82, 0, 179, 162, 161]
    assert DistortionTransform(0.1, 1, 1).tables()[[0, 161, 162, 179], 0].tolist() == [18, 179, 0, 17]


def test_factors_scale_and_saturate():
    _, saturation, exposure = DistortionTransform(0, 1.5, 0.5).tables().T
    assert saturation[[0, 100, 170, 171, 255]].tolist() == [0, 150, 255, 255, 255]
    assert exposure[[0, 100, 255]].tolist() == [0, 50, 128]  # 127.5 rounds to even


def test_no_change_is_the_identity_up_to_hsv_rounding(image):
    through_hsv = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), cv2.COLOR_HSV2RGB)
    np.testing.assert_array_equal(DistortionTransform(0, 1, 1).apply_image(image), through_hsv)


def test_draws(image):
    np.random.seed(0)
    drawn = [RandomDistortion(0.1, 1.5, 1.4).get_transform(image) for _ in range(4000)]
    hues = [t.hue for t in drawn]
    assert [RandomDistortion(reproduce_hue_bug=b).get_transform(image).reproduce_hue_bug for b in (False, True)] == [
        False,
        True,
    ]
    assert -0.1 <= min(hues) < -0.099
    assert 0.099 < max(hues) <= 0.1
    for most, factors in ((1.5, [t.saturation for t in drawn]), (1.4, [t.exposure for t in drawn])):
        assert 1 / most <= min(factors) < 1.01 / most
        assert 0.99 * most < max(factors) <= most
        assert np.mean(np.array(factors) > 1) == pytest.approx(0.5, abs=0.03)


def test_a_flipped_view_is_taken(image):
    assert DistortionTransform(0.05, 1.2, 1.1).apply_image(image[:, ::-1]).shape == image.shape
