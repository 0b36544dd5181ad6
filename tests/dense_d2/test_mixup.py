from dense_d2.data.copy_paste import CopyPaste, _covered
from dense_d2.data.mixup import MixUp, Placement, draw_placement, place
from tests.dense_d2.painted import check_box_follows, painted

import numpy as np
import pytest
from pycocotools import mask as rle

SIZE = (64, 64)


def square(box=(4, 4, 30, 30), **options):
    return painted(*SIZE, box=box, **options)


def test_the_average_is_cut_down():
    picture = square(background=41, paint=101)
    mixed = MixUp().blend(picture, square(background=10, paint=20, number=1), SIZE, Placement(SIZE, False, (0, 0)))
    assert mixed.image[0, 0, 0] == 25  # 25.5
    assert mixed.image[5, 5, 0] == 60  # 60.5
    assert mixed.boxes.tolist() == [[4, 4, 30, 30]] * 2
    assert mixed.classes.tolist() == [0, 1]
    assert mixed.weights is None
    assert picture.image[0, 0, 0] == 41


def test_padding_is_grey_and_what_lies_beyond_is_black():
    partner = painted(32, 64, (4, 4, 20, 20), background=200)  # letterboxed to 16 x 32 of 32 x 32
    mixed = MixUp(min_side=0).blend(square(background=0), partner, SIZE, Placement((32, 32), False, (0, 0)))
    assert [mixed.image[y, x, 0] for y, x in ((0, 0), (20, 0), (40, 0), (0, 40))] == [100, 57, 0, 0]


def test_the_partners_box_follows_its_paint():
    np.random.seed(0)
    seen, size = 0, (64, 80)
    for partner in [painted(48, 64, (30, 10, 52, 30), number=1), painted(64, 32, (4, 10, 26, 30), number=1)] * 30:
        placement = draw_placement((0.5, 1.5), 0.5, size)
        mixed = MixUp(min_side=3).blend(painted(*size, background=0, paint=0), partner, size, placement)
        if len(mixed.boxes) == 2:
            seen += 1
            check_box_follows(mixed.image, mixed.boxes[1], lambda x: x > 72)
    assert seen > 40


def test_grey_ends_with_the_letterbox_and_a_window_beside_the_image_is_all_grey():
    partner = painted(16, 64, (4, 4, 20, 12))
    window, boxes = place(partner, (64, 80), Placement((48, 96), False, (20, 8)))  # 24 x 96 of 48 x 96
    assert [window[y, x, 0] for y, x in ((15, 75), (16, 0), (39, 75), (40, 0), (39, 76))] == [40, 114, 114, 0, 0]
    assert boxes.tolist() == [[-14, -2, 10, 10]]
    window, boxes = place(partner, SIZE, Placement((96, 96), False, (0, 30)))
    assert (window == 114).all()
    assert boxes.tolist() == [[6, -24, 30, -12]]


def test_partners_without_boxes_are_passed_over_but_not_for_ever():
    np.random.seed(0)
    partners = iter([painted(box=None), painted(box=None), square(number=1)])
    mixed = MixUp(scale=(1, 1))(square(), lambda: next(partners), SIZE)
    assert mixed.classes.tolist() == [0, 1]
    picture, drawn = square(), []
    alone = MixUp()(picture, lambda: drawn.append(0) or painted(box=None), SIZE)
    assert alone is picture
    assert len(drawn) == 10
    empty = square(box=None)
    assert MixUp()(empty, None, SIZE) is empty


def test_a_partner_that_adds_no_box_is_not_blended():
    picture = square()
    far = Placement((96, 96), False, (32, 32))
    assert MixUp().blend(picture, square(box=(0, 0, 20, 20)), SIZE, far) is picture
    large = square(box=(0, 0, 40, 40))  # 80 x 80, of which the window shows 20 x 20 or 40 x 40
    assert MixUp().blend(picture, large, SIZE, Placement((128, 128), False, (60, 60))) is picture
    assert len(MixUp().blend(picture, large, SIZE, Placement((128, 128), False, (40, 40))).boxes) == 2


@pytest.mark.parametrize("step", [MixUp(), CopyPaste(max_covered=1)])
def test_a_picture_of_another_size_is_fitted_first(step):
    picture = painted(32, 16, box=(4, 4, 12, 12), background=10, paint=100)  # 64 x 32 of 64 x 64
    blend = step.blend if isinstance(step, MixUp) else step.paste
    mixed = blend(picture, with_mask("polygon"), SIZE, Placement(SIZE, False, (0, 0)))
    assert mixed.image.shape == (*SIZE, 3)
    assert mixed.boxes.tolist() == [[8, 8, 24, 24], [30, 10, 52, 30]]
    assert mixed.image[16, 16, 0] > mixed.image[2, 2, 0]


def test_the_window_is_drawn_from_all_places():
    np.random.seed(0)
    corners = [draw_placement((1.5, 1.5), 0.5, (20, 40)) for _ in range(800)]
    assert {p.jittered for p in corners} == {(30, 60)}
    assert {p.corner[0] for p in corners} == set(range(20))
    assert {p.corner[1] for p in corners} == set(range(10))
    assert 300 < sum(p.flip for p in corners) < 500
    assert draw_placement((0.5, 0.5), 0, (20, 40)) == ((10, 20), False, (0, 0))
    assert draw_placement((0.99, 0.99), 1, (20, 40)) == ((19, 39), True, (0, 0))  # 19.8, 39.6


def with_mask(kind, box=(30, 10, 52, 30)):
    partner = painted(48, 64, box, number=1, masked=True)
    if kind != "polygon":
        bitmap = np.zeros((48, 64), dtype=np.uint8, order="F")
        bitmap[box[1] : box[3], box[0] : box[2]] = 1
        partner.masks = [rle.encode(bitmap)]
    if kind == "counts":
        flat, counts, value = bitmap.flatten(order="F"), [0], 0
        for pixel in flat.tolist():
            if pixel != value:
                counts.append(0)
                value = pixel
            counts[-1] += 1
        partner.masks = [{"size": [48, 64], "counts": counts}]
    return partner


@pytest.mark.parametrize("kind", ["polygon", "rle", "counts"])
def test_pasted_pixels_and_box_agree(kind):
    np.random.seed(2)
    seen, step = 0, CopyPaste(instance_prob=1.0)
    for _ in range(40):
        pasted = step(square(background=9, paint=9), lambda: with_mask(kind), (64, 80))
        if pasted.classes.tolist()[-1:] == [1]:
            seen += 1
            check_box_follows(pasted.image, pasted.boxes[-1], lambda x: x > 120)
            assert ((pasted.image[..., 0] == 9).sum()) > 1000  # only the object is pasted
    assert seen > 20


def test_masks_of_shrunk_images_are_in_pixels_of_the_file():
    partner = with_mask("polygon")
    partner.masks = [[[2 * x for x in part] for part in mask] for mask in partner.masks]
    partner.mask_scale = (0.5, 0.5)
    pasted = CopyPaste().paste(square(background=9, paint=9), partner, SIZE, Placement(SIZE, True, (0, 0)))
    check_box_follows(pasted.image, pasted.boxes[-1], lambda x: x > 120)


def test_objects_that_are_pasted_over_are_dropped():
    """The partner covers (30, 10, 52, 30)."""
    whole = Placement(SIZE, False, (0, 0))
    for box, classes in (((31, 11, 50, 29), [1]), ((30, 10, 52, 37), [1]), ((30, 10, 52, 40), [0, 1])):
        picture = square(box)
        before = picture.image.copy()
        pasted = CopyPaste().paste(picture, with_mask("polygon"), SIZE, whole)
        assert pasted.classes.tolist() == classes
        assert np.array_equal(picture.image, before)
    behind = CopyPaste(max_covered=1).paste(square((31, 11, 50, 29)), with_mask("polygon"), SIZE, whole)
    assert behind.classes.tolist() == [0, 1]


def test_the_covered_part_of_a_box():
    pasted = np.zeros((4, 5), dtype=np.uint8)
    pasted[1:3, 1:4] = 1
    boxes = np.float32([[1, 0, 3, 4], [2, 1, 4, 3], [0, 0, 1, 1], [3, 2, 5, 4], [2, 2, 2, 4]])
    assert _covered(boxes, pasted).tolist() == [0.5, 1, 0, 0.25, 0]


def test_a_shrunk_mask_has_the_pixels_of_its_box():
    picture = square(background=9, paint=9)
    pasted = CopyPaste().paste(picture, with_mask("polygon"), SIZE, Placement((32, 32), False, (0, 0)))
    assert pasted.boxes[-1].tolist() == [15, 5, 26, 15]
    assert (pasted.image[5:15, 15:26] > 9).all() and (pasted.image[..., 0] > 9).sum() == 110


def test_half_of_the_objects_with_a_mask_are_pasted():
    np.random.seed(0)
    partner = with_mask("polygon")
    partner.boxes, partner.classes = np.repeat(partner.boxes, 3, axis=0), np.array([1, 2, 3])
    partner.masks = [*partner.masks * 2, None]
    step = CopyPaste(scale=(1, 1))
    found = [step(square(), lambda: partner, SIZE).classes.tolist() for _ in range(400)]
    assert not any(3 in classes for classes in found)
    for number in (1, 2):
        assert 160 < sum(number in classes for classes in found) < 240
    assert 60 < sum({1, 2} < set(classes) for classes in found) < 140


@pytest.mark.parametrize("step", [MixUp(), CopyPaste()])
def test_added_boxes_count_one_beside_weighted_ones(step):
    picture = square()
    picture.weights = np.float32([0.25])
    blend = step.blend if isinstance(step, MixUp) else step.paste
    assert blend(picture, with_mask("polygon"), SIZE, Placement(SIZE, False, (0, 0))).weights.tolist() == [0.25, 1]


def test_a_polygon_without_brackets_is_taken_and_a_bad_one_is_none():
    np.random.seed(0)
    step, partner = CopyPaste(scale=(1, 1), flip_prob=0, instance_prob=1), with_mask("polygon")
    good = partner.masks[0][0]
    expected = step(square(), lambda: partner, SIZE).image
    for mask in (good, [good, good], [good, good[:-1]], [good, [], good[:4]], [good, good[:6]]):
        partner.masks = [mask]
        assert (step(square(), lambda: partner, SIZE).image == expected).all()
    picture = square()
    for mask in (None, [], [[]], [good[:-1]], good[:-1], [good[:4]], [[31, 11], [50, 11], [50, 29]]):
        partner.masks = [mask]
        assert step(picture, lambda: partner, SIZE) is picture
    partner.masks = [good[:6]]
    assert step(picture, lambda: partner, SIZE) is not picture  # a triangle


@pytest.mark.parametrize("counts", ["abc", [3, 5000], [-3, 9], ["x"], None])
def test_damaged_run_lengths_are_no_mask(counts):
    np.random.seed(0)
    picture, partner = square(), with_mask("rle")
    partner.masks = [{"size": [48, 64], "counts": counts}]
    assert CopyPaste(instance_prob=1)(picture, lambda: partner, SIZE) is picture


def test_without_masks_nothing_is_pasted():
    picture, drawn = square(), []
    assert CopyPaste()(picture, lambda: drawn.append(0) or square(number=1), SIZE) is picture
    assert len(drawn) == 10
