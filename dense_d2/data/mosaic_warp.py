"""Mosaic of four images and a random affine warp, YOLOX's: four tiles around a random centre on a canvas of twice the input
size, of which the warp shows a part.

Source: YOLOX, section 2.1 ("Strong data augmentation") and released code of August 2021, which trained the published
weights: the warp takes the canvas centre near the centre of the output, and boxes that the warp spoils are dropped. Later
code turns and scales about the canvas' top left corner instead (`centred=False`) and keeps every box.
Shapes: the canvas is (2H, 2W), the output (H, W). Boxes XYXY in pixels, float32.
"""

import dataclasses

import cv2
import numpy as np

from .affine import clip_boxes, is_candidate, linear_part, map_about, warp_boxes
from .letterbox import PAD_VALUE, fit_image
from .picture import gather_boxes

__all__ = ["MosaicWarp"]

NUM_TILES = 4


class MosaicWarp:
    """The picture, top left, and three others, each fitted into H x W and laid with a corner at the centre; then the warp.

    All geometry is drawn first: only images that reach the output are read.

    Args:
        degrees: the angle is drawn from U(-degrees, degrees).
        translate: the shift, from U(-translate, translate) of the input's width and height.
        scale: (low, high) of the factor.
        shear: degrees, drawn for each axis.
        centred: see above.
        min_side, min_area_ratio, max_aspect: what a box has to be after the warp; see `affine.is_candidate`.
    """

    def __init__(
        self,
        *,
        degrees=10.0,
        translate=0.1,
        scale=(0.1, 2.0),
        shear=2.0,
        centred=True,
        min_side=2.0,
        min_area_ratio=0.2,
        max_aspect=20.0,
    ):
        if min(scale) <= 0:
            raise ValueError(f"scale is {tuple(scale)}; give a low and a high factor above 0")
        self.degrees, self.translate, self.scale, self.shear = degrees, translate, tuple(scale), shear
        self.centred = centred
        self.candidates = dict(min_side=min_side, min_area_ratio=min_area_ratio, max_aspect=max_aspect)

    def __call__(self, picture, draw, size):
        height, width = size
        centre = int(np.random.uniform(0.5 * width, 1.5 * width)), int(np.random.uniform(0.5 * height, 1.5 * height))
        matrix, scale = self._draw_warp(height, width)
        return self.blend(picture, draw, size, centre, matrix, scale)

    def _draw_warp(self, height, width):
        """The map from canvas to output, and its scale."""
        angle, scale = np.random.uniform(-self.degrees, self.degrees), np.random.uniform(*self.scale)
        shear_x, shear_y = np.random.uniform(-self.shear, self.shear, size=2)
        shift = np.random.uniform(-self.translate, self.translate, size=2) * (width, height)
        linear = linear_part(angle, scale, shear_x, shear_y)
        if self.centred:
            return map_about(linear, (width, height), shift + (width / 2, height / 2)), scale
        return map_about(linear, (0, 0), shift), scale

    def blend(self, picture, draw, size, centre, matrix, scale):
        """Lays the tiles around `centre` (x, y) and shows the canvas through `matrix`."""
        window = _window(matrix, size)
        # with a fourth channel the warp takes half the time
        canvas = np.full((window[3] - window[1], window[2] - window[0], 4), PAD_VALUE, dtype=np.uint8)
        tiles = []
        for position in range(NUM_TILES):
            if not _meets(_quadrant(position, centre, size), window):
                continue
            tiles.append(_lay(picture if position == 0 else draw(), position, centre, size, window, canvas))
        to_output = np.column_stack([matrix[:, :2], matrix @ (window[0], window[1], 1)])
        image = cv2.warpAffine(canvas, to_output, size[::-1], flags=cv2.INTER_LINEAR, borderValue=(PAD_VALUE,) * 4)
        picture = picture.moved(cv2.cvtColor(image, cv2.COLOR_BGRA2BGR), picture.boxes)
        return self._with_boxes(picture, tiles, matrix, scale, size)

    def _with_boxes(self, picture, tiles, matrix, scale, size):
        if not tiles:
            return picture.select(slice(0))
        boxes, classes, weights = gather_boxes(tiles)
        on_canvas = clip_boxes(boxes, (2 * size[0], 2 * size[1]))
        warped = clip_boxes(warp_boxes(on_canvas, matrix), size)
        keep = is_candidate(on_canvas * np.float32(scale), warped, **self.candidates)
        return dataclasses.replace(picture, boxes=warped, classes=classes, weights=weights).select(keep)


def _window(matrix, size):
    """The part x1, y1, x2, y2 of the canvas that the output shows, with a margin for interpolation; never empty."""
    height, width = size
    output = np.array([[0, 0, width, height]], dtype=np.float32)
    x1, y1, x2, y2 = warp_boxes(output, cv2.invertAffineTransform(matrix))[0].tolist()
    x1, y1 = (int(min(max(np.floor(low) - 2, 0), 2 * side - 1)) for low, side in ((x1, width), (y1, height)))
    x2, y2 = (
        int(np.clip(np.ceil(high) + 2, low + 1, 2 * side)) for low, high, side in ((x1, x2, width), (y1, y2, height))
    )
    return x1, y1, x2, y2


def _quadrant(position, centre, size):
    """Where a tile of H x W pixels lies: x1, y1, x2, y2 on the canvas. Positions: the rows, from the left."""
    (x, y), (height, width) = centre, size
    x1, y1 = x - width * (position % 2 == 0), y - height * (position < 2)
    return x1, y1, x1 + width, y1 + height


def _meets(first, second):
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def _lay(picture, position, centre, size, window, canvas):
    """Copies the part of a tile inside the window to the canvas; returns the picture with its boxes on the canvas."""
    image, ratio = fit_image(picture.image, size)
    height, width = image.shape[:2]
    left = centre[0] - width if position % 2 == 0 else centre[0]
    top = centre[1] - height if position < 2 else centre[1]
    x1, y1 = max(left, window[0]), max(top, window[1])
    x2, y2 = min(left + width, window[2]), min(top + height, window[3])
    if x1 < x2 and y1 < y2:
        target = canvas[y1 - window[1] : y2 - window[1], x1 - window[0] : x2 - window[0]]
        cv2.cvtColor(image[y1 - top : y2 - top, x1 - left : x2 - left], cv2.COLOR_BGR2BGRA, dst=target)
    shift = np.array([left, top, left, top], dtype=np.float32)
    return picture.moved(image, picture.boxes * np.float32(ratio) + shift)
