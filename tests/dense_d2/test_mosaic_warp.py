from dense_d2.data.affine import is_candidate, linear_part, map_about, warp_boxes
from dense_d2.data.mosaic_warp import MosaicWarp, _meets
from tests.dense_d2.painted import check_box_follows, painted

import numpy as np
import pytest

IDENTITY = np.eye(2, 3)
KEEP_ALL = dict(min_side=0, min_area_ratio=0, max_aspect=1e9)


def tiles(values=(10, 20, 30, 40), height=8, width=10):
    return [painted(height, width, (5, 2, 9, 6), paint=v + 5, background=v, number=n) for n, v in enumerate(values)]


def blend(pictures, centre, matrix, size=(10, 10), scale=1.0, **options):
    partners = iter(pictures[1:])
    step = MosaicWarp(**{**KEEP_ALL, **options})
    return step.blend(pictures[0], lambda: next(partners), size, centre, np.float64(matrix), scale)


def test_corners_of_the_tiles_meet_at_the_centre():
    """Canvas 20 x 20, tiles 8 x 10 around (9, 11); the output is its middle."""
    mixed = blend(tiles(), (9, 11), [[1, 0, -5], [0, 1, -5]])
    image = mixed.image[..., 0]
    assert image.shape == (10, 10)
    # the output shows canvas 5..15; the cut lies at x = 4, y = 6
    assert [image[5, 3], image[5, 4], image[6, 3], image[6, 4]] == [10, 20, 30, 40]
    assert image[0, 0] == 15  # canvas (5, 5) is (6, 2) of the first tile, which lies at (-1, 3)
    between = blend(tiles(), (9, 11), [[1, 0, -4.5], [0, 1, -5]]).image[5, :, 0]  # canvas 8.5 at 4
    assert between[3:6].tolist() == [10, 15, 20]


def test_boxes_move_with_their_tiles():
    boxes = blend(tiles(), (9, 11), [[1, 0, -5], [0, 1, -5]]).boxes.tolist()
    # tile 0 at (-1, 3), 1 at (9, 3), 2 at (-1, 11), 3 at (9, 11) of the canvas
    assert boxes == [[0, 0, 3, 4], [9, 0, 10, 4], [0, 8, 3, 10], [9, 8, 10, 10]]


def test_a_rectangle():
    """Canvas 20 x 28; images of 8 x 10 grow to 10 x 12 and touch (18, 11), the last with its box beyond the canvas."""
    mixed = blend(tiles(), (18, 11), [[1, 0, -14], [0, 1, -5]], size=(10, 14))
    assert mixed.image.shape == (10, 14, 3)
    assert mixed.boxes.tolist() == [[0, 0, 3.25, 3.5], [10.25, 0, 14, 3.5], [0, 8.5, 3.25, 10], [10.25, 8.5, 14, 10]]


def test_boxes_are_cut_to_the_canvas_and_compared_with_that_at_the_scale_of_the_output():
    """Tile 0 at (-5, -3), its box (0, -1, 4, 3) of the canvas, which is shown at half size from (2, 2) on."""
    settings = dict(centre=(5, 5), matrix=[[0.5, 0, 2], [0, 0.5, 2]], scale=0.5)
    assert blend(tiles(), **settings, min_area_ratio=0.9).boxes[0].tolist() == [2, 2, 4, 3.5]


def test_images_are_fitted_and_the_rest_is_padding():
    pictures = [painted(4, 5, None, background=np.uint8([7, 8, 9])) for _ in range(4)]
    mixed = blend(pictures, (10, 10), [[1, 0, -5], [0, 1, -5]])
    assert (mixed.image == [7, 8, 9]).all()  # 4 x 5 grows to 8 x 10
    mixed = blend(pictures, (10, 10), [[0.5, 0, 0], [0, 0.5, 0]])
    assert mixed.image[0, 0].tolist() == [114] * 3
    assert mixed.image[1, 1].tolist() == [7, 8, 9]


def test_what_is_not_shown_is_not_read():
    def draw():
        raise AssertionError("read")

    step = MosaicWarp(**KEEP_ALL)
    picture = step.blend(
        painted(10, 10, (2, 2, 6, 6)), draw, (10, 10), (14, 14), np.float64([[1, 0, 0], [0, 1, 0]]), 1.0
    )
    assert picture.boxes.tolist() == [[6, 6, 10, 10]]
    outside = step.blend(painted(10, 10), draw, (10, 10), (14, 14), np.float64([[1, 0, 90], [0, 1, 90]]), 1.0)
    assert (outside.image == 114).all()
    assert outside.boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("box", "meets"),
    [
        ((0, 0, 5, 9), False),
        ((0, 0, 6, 9), True),
        ((8, 0, 9, 9), False),
        ((7, 0, 9, 9), True),
        ((0, 0, 9, 2), False),
        ((0, 0, 9, 3), True),
        ((0, 4, 9, 9), False),
        ((0, 3, 9, 9), True),
    ],
)
def test_rectangles_meet_where_they_share_a_pixel(box, meets):
    assert _meets(box, (5, 2, 8, 4)) is _meets((5, 2, 8, 4), box) is meets


class Draws(MosaicWarp):
    def blend(self, picture, draw, size, centre, matrix, scale):
        """The centre; where the canvas centre goes; angle and factor without shears; shears without angle; `scale`."""
        (a, b), (c, d) = matrix[:, :2]
        shears = np.rad2deg(np.arctan([b / a, c / d]))
        moved = matrix @ (size[1], size[0], 1)
        return [*centre, *moved, np.rad2deg(np.arctan2(b, a)), np.hypot(a, b), *shears, scale]


def test_every_draw_has_its_range():
    """Input 60 x 80: the centre in the middle half of the canvas, the shift a tenth of each side."""
    np.random.seed(0)
    settings = dict(degrees=10, translate=0.1, scale=(0.1, 2))
    turned = np.array([Draws(**settings, shear=0)(None, None, (60, 80)) for _ in range(2000)])
    np.testing.assert_allclose(turned[:, 5], turned[:, 8])
    ranges = ((40, 119), (30, 89), (32, 48), (24, 36), (-10, 10), (0.1, 2))
    for found, (low, high) in zip(turned.T, ranges):
        assert low <= found.min() < low + 0.02 * (high - low)
        assert high >= found.max() > high - 0.02 * (high - low)
        assert found.mean() == pytest.approx((low + high) / 2, abs=0.03 * (high - low))
    sheared = np.array([Draws(degrees=0, scale=(1, 1), shear=2)(None, None, (60, 80))[6:8] for _ in range(1000)])
    np.testing.assert_allclose(sheared.min(axis=0), -2, atol=0.05)
    np.testing.assert_allclose(sheared.max(axis=0), 2, atol=0.05)
    assert abs(np.corrcoef(sheared.T)[0, 1]) < 0.1


@pytest.mark.parametrize("centred", [True, False])
def test_every_box_surrounds_its_paint(centred):
    """Each of the four in turn is painted; the box of that class surrounds what is seen of it."""
    np.random.seed(1)
    seen = 0
    for number in [0, 1, 2, 3] * 25:
        pictures = [painted(number=n, box=(20, 16, 50, 40) if n == number else None) for n in range(4)]
        partners = iter(pictures[1:])
        step = MosaicWarp(scale=(0.4, 1.6), centred=centred)
        mixed = step(pictures[0], lambda partners=partners: next(partners), (80, 80))
        if len(mixed.boxes):
            seen += 1
            assert mixed.classes.tolist() == [number]
            check_box_follows(mixed.image, mixed.boxes[0], lambda x: x > 182, outside=1.5, inside=12)
    assert seen > 30


def test_the_centred_warp_takes_the_canvas_centre_to_the_output_centre():
    step = MosaicWarp(translate=0.0)
    for centred, source, target in ((True, (80, 60, 1), (40, 30)), (False, (0, 0, 1), (0, 0))):
        step.centred = centred
        matrix, _ = step._draw_warp(60, 80)
        np.testing.assert_allclose(matrix @ source, target, atol=1e-9)


def test_the_linear_part():
    np.testing.assert_allclose(linear_part(90, 2, 0, 0), [[0, 2], [-2, 0]], atol=1e-12)
    np.testing.assert_allclose(linear_part(0, 3, 45, 0), [[3, 3], [0, 3]], atol=1e-12)
    np.testing.assert_allclose(linear_part(0, 3, 0, 45), [[3, 0], [3, 3]], atol=1e-12)
    np.testing.assert_allclose(linear_part(90, 1, 45, 0), [[-1, 1], [-1, 0]], atol=1e-12)  # turned, then sheared
    np.testing.assert_allclose(map_about(np.eye(2) * 2, (1, 2), (5, 5)), [[2, 0, 3], [0, 2, 1]])


def test_boxes_are_wrapped_around_turned_boxes():
    quarter = map_about(linear_part(90, 1, 0, 0), (0, 0), (0, 10))  # (x, y) -> (y, 10 - x)
    np.testing.assert_allclose(warp_boxes(np.float32([[1, 2, 4, 8]]), quarter), [[2, 6, 8, 9]], atol=1e-6)
    assert warp_boxes(np.zeros((0, 4), np.float32), quarter).shape == (0, 4)


@pytest.mark.parametrize(
    ("full", "left", "kept"),
    [
        ((10, 10), (5, 4), False),  # 0.2 of the area
        ((10, 10), (5, 4.1), True),
        ((2, 10), (2, 10), False),
        ((10, 2), (10, 2), False),
        ((99, 5), (99, 5), True),
        ((100, 5), (100, 5), False),
        ((5, 99), (5, 99), True),
        ((5, 100), (5, 100), False),
        ((0, 6), (0, 6), False),
    ],
)
def test_spoilt_boxes_are_dropped(full, left, kept):
    before, after = np.float32([[3, 3, 3 + side[0], 3 + side[1]] for side in (full, left)])[:, None]
    assert is_candidate(before, after, min_side=2, min_area_ratio=0.2, max_aspect=20).tolist() == [kept]


def test_a_mosaic_without_boxes():
    mixed = MosaicWarp()(painted(box=None), lambda: painted(box=None), (64, 64))
    assert mixed.boxes.shape == (0, 4)
    assert mixed.image.shape == (64, 64, 3)
