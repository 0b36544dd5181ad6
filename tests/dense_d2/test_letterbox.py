from dense_d2.data.flip import RandomFlip
from dense_d2.data.letterbox import Letterbox, LetterboxResize, fit_image, fit_size
from dense_d2.data.mapper import DenseMapper
from tests.dense_d2.painted import check_box_follows, painted

import cv2
import numpy as np
import pytest
from PIL import Image


@pytest.mark.parametrize(
    ("height", "width", "size", "expected"),
    [
        (480, 640, (640, 640), (480, 640)),
        (640, 427, (640, 640), (640, 427)),
        (375, 500, (416, 416), (312, 416)),
        (333, 500, (416, 416), (277, 416)),  # 277.06
        (500, 333, (416, 416), (416, 277)),
        (2, 2000, (64, 64), (1, 64)),  # never empty
        (2000, 2, (64, 64), (64, 1)),
        (10, 10, (64, 32), (32, 32)),
    ],
)
def test_sides_are_cut_down_and_the_limiting_one_is_exact(height, width, size, expected):
    *sides, ratio = fit_size(height, width, size)
    assert tuple(sides) == expected
    assert ratio == pytest.approx(min(size[0] / height, size[1] / width))


def test_the_limiting_side_is_exact_for_every_size():
    for side in range(1, 1500):
        assert fit_size(side, 1, (416, 416))[0] == 416
        assert fit_size(1, side, (416, 640))[1] <= 640
        assert fit_size(side, side, (416, 416))[:2] == (416, 416)


def test_the_letterbox_pads_below_and_right_and_boxes_follow():
    picture = Letterbox()(painted(30, 40, (10, 8, 30, 20)), None, (64, 64))
    assert picture.image.shape == (64, 64, 3)
    assert (picture.image[48:] == 114).all()
    assert picture.image[47, 63, 0] == 40
    np.testing.assert_allclose(picture.boxes, [[16, 12.8, 48, 32]])
    check_box_follows(picture.image, picture.boxes[0], lambda x: x > 145)


def test_an_image_of_the_input_size_stays():
    picture = painted(64, 64)
    assert Letterbox()(picture, None, (64, 64)).image is picture.image


def test_mirroring():
    picture = painted(20, 30, (2, 3, 12, 9))
    mirrored = RandomFlip(1.0)(picture, None, None)
    assert mirrored.boxes.tolist() == [[18, 3, 28, 9]]
    check_box_follows(mirrored.image, mirrored.boxes[0], lambda x: x > 145, 0, 0)
    assert picture.boxes.tolist() == [[2, 3, 12, 9]]
    assert RandomFlip(0.0)(picture, None, None) is picture
    np.random.seed(0)
    assert 60 < sum(RandomFlip(0.2)(picture, None, None) is not picture for _ in range(400)) < 100


def test_testing_resizes_like_opencv_and_leaves_padding_to_the_model(tmp_path):
    pixels = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (50, 75, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    sample = DenseMapper(False, augmentations=[LetterboxResize(40)])({"file_name": str(tmp_path / "a.png")})
    expected = cv2.resize(pixels[..., ::-1].copy(), (40, 26), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(sample["image"].numpy(), expected.transpose(2, 0, 1))
    assert (sample["height"], sample["width"]) == (50, 75)
    assert np.array_equal(fit_image(pixels[..., ::-1], (40, 40))[0], expected)


def test_the_transform_moves_boxes_and_has_an_inverse():
    transform = LetterboxResize((40, 60)).get_transform(np.zeros((20, 40, 3), np.uint8))
    assert transform.apply_box(np.float64([[2, 4, 6, 8]])).tolist() == [[3, 6, 9, 12]]
    assert set(transform.apply_segmentation(np.uint8([[0, 9] * 20] * 20)).flat) == {0, 9}
    inverse = transform.inverse()
    assert inverse.apply_box(np.float64([[3, 6, 9, 12]])).tolist() == [[2, 4, 6, 8]]
    assert inverse.apply_image(np.zeros((30, 60, 3), np.uint8)).shape == (20, 40, 3)
