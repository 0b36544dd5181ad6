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
    assert (mixed.weights.tolist(), mixed.classes.tolist()) == ([0.75, 0.25], [0, 1])
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
    shift = np.array([PhotometricDistortion(contrast=(1, 1)).draw_tables()[0][128] for _ in range(600)]) - 128.0
    assert -32 <= shift.min() < -30 and 30 < shift.max() < 32 and np.mean(shift == 0) == pytest.approx(0.5, abs=0.1)
    factor = np.array([PhotometricDistortion(brightness=0).draw_tables()[0][100] for _ in range(600)]) / 100
    assert factor.min() < 0.52 and factor.max() > 1.45 and np.mean(factor == 1) == pytest.approx(0.5, abs=0.1)
    dark = PhotometricDistortion(contrast=(0.5, 0.5), prob=1.0)
    assert max(dark.draw_tables()[0].max() for _ in range(50)) == 127  # a shift is cut off at 255 first
    halved = PhotometricDistortion(brightness=0, contrast=(0.5, 0.5), hue=0, saturation=(0, 0), prob=1.0)
    red = painted(box=None)
    red.image[:] = 10, 20, 200
    assert (halved(red, None, None).image == 100).all()
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


def test_draws_of_the_expansion():
    """The side is U(1, 4) of the picture's, the square of the stretch U(0.5, 2), less where the canvas would not hold it."""
    np.random.seed(0)
    step, picture = Expand(), painted(600, 800)
    step.place = lambda picture, canvas, left, top: (*canvas, left, top)
    found = [draw for draw in (step(picture, None, None) for _ in range(6000)) if draw is not picture]
    assert len(found) / 6000 == pytest.approx(0.5, abs=0.03)
    heights, widths, lefts, tops = np.array(found).T
    scales, stretches = np.sqrt(heights * widths / (600 * 800)), widths / heights * 600 / 800
    assert scales.max() > 3.95 and np.mean(scales < 1.3) == pytest.approx(0.1, abs=0.02)
    assert (
        stretches.min() > 0.49
        and stretches.max() < 2.01
        and stretches[scales > 1.5].mean() == pytest.approx(1.25, abs=0.03)
    )
    for shifts, room in ((lefts, widths - 800), (tops, heights - 600)):
        assert room.min() >= 0 and shifts.min() >= 0 and (shifts <= room).all()
        assert (shifts / np.maximum(room, 1)).mean() == pytest.approx(0.5, abs=0.03)
    whole = Expand(most=1.0, prob=1.0)(picture, None, None)
    assert np.array_equal(whole.image, picture.image)


def test_draws_of_the_patch():
    """The side is U(0.3, 1) of the picture's, the square of the stretch U(0.5, 2), less where the picture would not hold it."""
    np.random.seed(0)
    x1, y1, x2, y2 = np.array([MinIoUCrop()._draw_patch(600, 800) for _ in range(4000)]).T
    widths, heights = x2 - x1, y2 - y1
    scales, stretches = np.sqrt(heights * widths / (600 * 800)), widths / heights * 600 / 800
    assert 0.29 < scales.min() < 0.31 and scales.max() > 0.98 and scales.mean() == pytest.approx(0.65, abs=0.01)
    assert (
        stretches.min() > 0.49
        and stretches.max() < 2.02
        and stretches[scales < 0.7].mean() == pytest.approx(1.25, abs=0.03)
    )
    assert (widths == 800).mean() < 0.01 and (heights == 600).mean() < 0.01  # none is cut off
    for start, room in ((x1, 800 - widths), (y1, 600 - heights)):
        assert start.min() >= 0 and (start <= room).all()
        assert (start / np.maximum(room, 1)).mean() == pytest.approx(0.5, abs=0.03)


def test_patch_ious_and_centres():
    boxes = np.float32([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]])
    np.testing.assert_allclose(patch_ious(boxes, (0, 0, 10, 10)), [1, 1 / 3, 0])
    assert has_centre(boxes, (0, 0, 10, 10)).tolist() == [True, False, False]  # (10, 5) is on the border
    assert has_centre(boxes, (5, 0, 15, 10)).tolist() == [False, True, False]  # and so is (5, 5)


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
    part = cut(painted(masked=True), (25, 10, 70, 30))
    assert part.boxes.tolist() == [[0, 6, 25, 20]] and part.masks is None
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


def test_a_crop_loses_the_boxes_whose_centre_is_outside():
    np.random.seed(0)
    picture, counts = painted(), []
    picture.boxes, picture.classes = np.float32([[0, 0, 1, 1], [78, 58, 79, 59]]), np.array([0, 1])
    for _ in range(60):
        part = MinIoUCrop(min_ious=[None, 0.0])(picture, None, None)
        assert (part.boxes[:, 2:] > part.boxes[:, :2]).all() and len(part.boxes) == len(part.classes)
        counts.append(len(part.boxes))
    assert min(counts.count(1), counts.count(2)) > 15


def test_a_crop_has_50_trials():
    """About every fourth patch fits, so that hardly any picture stays for want of one."""
    np.random.seed(0)
    step, picture = MinIoUCrop(min_ious=[None, 0.3]), painted()
    kept = [step(picture, None, None) is picture for _ in range(300)]
    assert np.mean(kept) == pytest.approx(0.5, abs=0.1)


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
    mapper = DenseMapper(False, augmentations=[StretchResize((40, 50))], image_format="RGB")
    image = mapper({"file_name": str(tmp_path / "a.png")})["image"]
    expected = cv2.resize(pixels, (50, 40), interpolation=cv2.INTER_LINEAR)
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
