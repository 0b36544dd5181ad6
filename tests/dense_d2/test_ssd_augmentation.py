"""The steps of ASFF's pipeline: weighted mixup, photometric distortion, expansion, crop, affine map, stretch."""

import itertools

from dense_d2.config import load_config
from dense_d2.data import (
    BetaMixUp,
    DenseMapper,
    Expand,
    MinIoUCrop,
    PhotometricDistortion,
    RandomAffine,
    Stretch,
    StretchResize,
)
from dense_d2.data.ssd_crop import cut, has_centre, patch_ious
from dense_d2.datasets import register_coco
from tests.dense_d2.painted import check_box_follows, painted

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from PIL import Image


def is_painted(x):
    return x > 180


def test_images_and_boxes_of_a_mixup_have_weights():
    picture = painted(20, 40, (2, 2, 8, 8), background=101)
    partner = painted(30, 10, (1, 20, 5, 29), background=50, number=1)
    mixed = BetaMixUp().blend(picture, partner, 0.75)
    assert mixed.image.shape == (30, 40, 3)
    # both, the first, the second, neither: 0.75 * 101 + 0.25 * 50 = 88.25; 75.75; 12.5
    assert [mixed.image[y, x, 0] for y, x in ((10, 2), (10, 30), (25, 8), (25, 30))] == [88, 75, 12, 0]
    assert mixed.boxes.tolist() == [[2, 2, 8, 8], [1, 20, 5, 29]]
    assert mixed.weights.tolist() == [0.75, 0.25]
    assert mixed.record == picture.record
    whole = BetaMixUp().blend(picture, partner, 1.0)
    assert np.array_equal(whole.image[:20], picture.image)


def test_the_weight_is_beta_distributed():
    np.random.seed(0)
    weights = np.array([BetaMixUp()(painted(), painted, None).weights[0] for _ in range(600)])
    assert weights.mean() == pytest.approx(0.5, abs=0.03)
    assert weights.var() == pytest.approx(1 / 16, abs=0.008)  # of Beta(1.5, 1.5)


def test_distortion():
    np.random.seed(0)
    step, picture = PhotometricDistortion(), painted()
    before, shifts = picture.image.copy(), []
    for _ in range(300):
        levels, tables = step.draw_tables()
        shifts.append((int(tables[0, 90]) - 90, tables[1, 100] / 100))
        assert (np.diff(levels.astype(int)) >= 0).all()
        assert tables[0].max() < 180
        assert tables[2].tolist() == list(range(256))
    low, high = np.min(shifts, axis=0), np.max(shifts, axis=0)
    assert (low[0], high[0]) == (-18, 18)
    assert low[1] < 0.52
    assert high[1] > 1.45
    assert np.mean(np.array(shifts)[:, 1] == 1) == pytest.approx(0.5, abs=0.1)
    off = PhotometricDistortion(prob=0.0)
    assert np.array_equal(off(picture, None, None).image, before)
    step(picture, None, None)
    assert np.array_equal(picture.image, before)


def test_expansion():
    np.random.seed(0)
    areas = []
    for _ in range(60):
        picture = Expand(prob=1.0)(painted(), None, None)
        check_box_follows(picture.image, picture.boxes[0], is_painted, 0, 0)
        height, width = picture.image.shape[:2]
        assert height >= 60 and width >= 80
        assert 0.45 < (width / height) / (80 / 60) < 2.2
        areas.append(height * width / 4800)
    assert max(areas) > 10
    placed = Expand().place(painted(), (100, 100), 7, 9)
    assert placed.image[0, 0].tolist() == [104, 116, 124]
    assert placed.boxes.tolist() == [[27, 25, 57, 49]]


def test_patch_ious_and_centres():
    boxes = np.float32([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]])
    np.testing.assert_allclose(patch_ious(boxes, (0, 0, 10, 10)), [1, 1 / 3, 0])
    assert has_centre(boxes, (0, 0, 10, 10)).tolist() == [True, False, False]  # (10, 5) is on the border


def test_crop():
    np.random.seed(0)
    kept = 0
    for _ in range(60):
        picture = MinIoUCrop(min_ious=[None, 0.3, 0.0])(painted(), None, None)
        kept += picture.image.shape == (60, 80, 3)
        height, width = picture.image.shape[:2]
        assert len(picture.boxes) == 1
        assert (picture.boxes[0] <= [width, height, width, height]).all()
        check_box_follows(picture.image, picture.boxes[0], is_painted, 0, 0)
    assert 5 < kept < 45
    part = cut(painted(), (25, 10, 70, 30))
    assert part.boxes.tolist() == [[0, 6, 25, 20]]
    with pytest.raises(ValueError, match="needs a None"):
        MinIoUCrop(min_ious=[0.5])
    empty = painted(box=None)
    assert MinIoUCrop()(empty, None, None) is empty


def test_the_lowest_iou_counts():
    """A large box that many patches fit, and a small one that none does: the picture stays."""
    np.random.seed(0)
    picture = painted()
    picture.boxes = np.float32([[0, 0, 70, 50], [74, 54, 80, 60]])
    picture.classes = np.array([0, 0])
    for _ in range(5):
        assert MinIoUCrop(min_ious=[None, 0.5])(picture, None, None) is picture


def test_affine():
    step = RandomAffine(prob=1.0)
    moved = step.warp(painted(), 0, 1, (5, -3), (0, 0))
    np.testing.assert_allclose(moved.boxes, [[25, 13, 55, 37]], atol=1e-4)
    check_box_follows(moved.image, moved.boxes[0], is_painted, 0.1, 0.1)
    assert moved.image[-1, 0].tolist() == [104, 116, 124]
    doubled = step.warp(painted(box=(30, 20, 40, 30)), 0, 2, (0, 0), (0, 0))
    np.testing.assert_allclose(doubled.boxes, [[20, 10, 40, 30]], atol=1e-4)
    check_box_follows(doubled.image, doubled.boxes[0], is_painted, 1.5, 1.5)
    sheared = step.warp(painted(), 0, 1, (0, 0), (45, 0))  # x + y: to 90 of 80 pixels
    np.testing.assert_allclose(sheared.boxes, [[36, 16, 80, 40]], atol=1e-4)
    check_box_follows(sheared.image, sheared.boxes[0], is_painted, 1, 1)
    turned = step.warp(painted(), 10, 1, (0, 0), (0, 0)).boxes[0]
    hull = 30 * np.cos(np.pi / 18) + 24 * np.sin(np.pi / 18)
    assert turned[2] - turned[0] == pytest.approx(hull * np.sqrt(np.cos(np.pi / 18)), abs=1e-3)
    np.random.seed(0)
    for _ in range(20):
        picture = step(painted(100, 100, (40, 40, 60, 60)), None, None)
        check_box_follows(picture.image, picture.boxes[0], is_painted, outside=2, inside=5)


def test_affine_draws():
    """The shift along x is a part of the height, and the other way round."""
    np.random.seed(0)
    step, picture = RandomAffine(prob=0.3), painted()
    step.warp = lambda picture, angle, scale, shift, shears: [angle, scale, *shift, *shears]
    found = [draws for draws in (step(picture, None, None) for _ in range(3000)) if draws is not picture]
    assert 800 < len(found) < 1000
    np.testing.assert_allclose(np.min(found, axis=0), [-10, 0.9, -6, -8, -2, -2], rtol=0.02)
    np.testing.assert_allclose(np.max(found, axis=0), [10, 1.1, 6, 8, 2, 2], rtol=0.02)


def test_training_stretches_with_each_interpolation():
    np.random.seed(0)
    for _ in range(40):
        picture = Stretch()(painted(), None, (30, 40))
        assert picture.image.shape == (30, 40, 3)
        np.testing.assert_allclose(picture.boxes, [[10, 8, 25, 20]])
        check_box_follows(picture.image, picture.boxes[0], is_painted, 1, 2)
    noise = painted()
    noise.image = np.random.randint(0, 256, noise.image.shape).astype(np.uint8)
    images = {Stretch()(noise, None, (21, 37)).image.tobytes() for _ in range(40)}
    assert len(images) == 5


def test_testing_is_opencv_bilinear(tmp_path):
    pixels = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (50, 75, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    mapper = DenseMapper(False, augmentations=[StretchResize(40)], image_format="RGB")
    image = mapper({"file_name": str(tmp_path / "a.png")})["image"]
    expected = cv2.resize(pixels, (40, 40), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(image.numpy(), expected.transpose(2, 0, 1))


def test_the_pipeline_of_the_config(toy_coco):
    """Weights in the main phase only; the drawn size, fixed at the end; all images; the same with workers."""

    def batches(num_workers):
        dataloader = load_config("configs/common/data/asff.py", []).dataloader
        dataloader.train.update(
            dataset=register_coco(*toy_coco),
            seed=1,
            max_iter=16,
            close_iters=4,
            total_batch_size=3,
            num_workers=num_workers,
        )
        dataloader.train.composition.update(input_size=96, image_format="RGB")
        dataloader.train.multi_scale.update(sizes=[64, 128], period=2, max_iter=16, fixed_iters=2)
        return list(itertools.islice(instantiate(dataloader.train), 16))

    found = batches(0)
    sides = [batch[0]["image"].shape[-1] for batch in found]
    assert sides[:2] == sides[-2:] == [96, 96]
    assert set(sides[2:14]) == {64, 128}
    for iteration, batch in enumerate(found):
        for sample in batch:
            assert sample["image"].shape == (3, sides[iteration], sides[iteration])
            assert sample["instances"].has("gt_weights") == (iteration < 12)
            if iteration < 12:
                assert len(sample["instances"].gt_weights) == len(sample["instances"])
    assert len({s["file_name"] for batch in found for s in batch}) == 12
    for one, other in zip(found, batches(2)):
        assert all(torch.equal(a["image"], b["image"]) for a, b in zip(one, other))
