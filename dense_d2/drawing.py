"""Boxes and their labels on an image: plain on any background, readable in a crowd."""

import colorsys
import os
from typing import List, Optional, Tuple

import matplotlib
import numpy as np
from detectron2.structures import Boxes
from PIL import Image, ImageDraw, ImageFont

__all__ = ["FONT_SIZE", "PALETTE", "PANEL", "colour_of", "draw_boxes", "load_font"]

PANEL = 640  # longer side of an image in the picture, pixels
FONT_SIZE = 15
# told apart by people with colour-blindness too; further classes get hues in between
PALETTE = ("#ffd92f", "#4fb3ff", "#ff6f61", "#66e0a3", "#e38bff", "#ffa64d", "#9be7ff", "#c6f24e", "#ff9ecb", "#c9b79c")


def draw_boxes(image_rgb, boxes: Boxes, colour_idxs, labels, panel_side=PANEL) -> Image.Image:
    """Boxes with their labels, on a resized copy; the first box ends up on top.

    Args:
        image_rgb: (H, W, 3) uint8.
        boxes: n boxes in pixels of the image.
        colour_idxs: (n,) which of the colours each box has, usually its class.
        labels: n strings; those that find no free place are left out.
        panel_side: longer side of the copy, pixels.
    """
    height, width = image_rgb.shape[:2]
    scale = panel_side / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    panel = Image.fromarray(np.ascontiguousarray(image_rgb)).resize(size, Image.BICUBIC)
    draw, font = ImageDraw.Draw(panel), load_font(FONT_SIZE)
    visible = []
    for box, c, label in zip((boxes.tensor * scale).tolist(), colour_idxs.tolist(), labels):
        box = max(box[0], 0), max(box[1], 0), min(box[2], size[0] - 1), min(box[3], size[1] - 1)
        if box[0] <= box[2] and box[1] <= box[3]:  # a NaN is left out, too: PIL would draw it for minutes
            visible.append((box, colour_of(c), label))
    for box, colour, _ in reversed(visible):
        _outline(draw, box, colour)
    taken: List[Tuple[float, float, float, float]] = []
    for box, colour, label in visible:
        place = _place_label(box, draw.textbbox((0, 0), label, font=font, anchor="lt"), size, taken)
        if place is None:  # no free place: in a crowd, boxes without words are clearer
            continue
        taken.append(place)
        draw.rectangle(place, fill=colour)
        draw.text((place[0] + 3, (place[1] + place[3]) / 2), label, font=font, fill="black", anchor="lm")
    return panel


def _outline(draw, box, colour):
    x1, y1, x2, y2 = box
    draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline="black", width=5)  # a dark rim shows on any background
    draw.rectangle(box, outline=colour, width=3)


def _place_label(box, text_box, size, taken) -> Optional[Tuple[float, float, float, float]]:
    """The first free rectangle for a label: above the box, below it, or inside; None if all are taken."""
    width, height = text_box[2] + 6, FONT_SIZE + 4
    x1, y1, x2, y2 = box
    candidates = [(x1, y1 - height), (x2 - width, y1 - height), (x1, y2), (x2 - width, y2), (x1, y1), (x1, y2 - height)]
    for x, y in candidates:
        if -0.5 <= y <= size[1] - height:
            x = min(max(x, 0), max(size[0] - width - 1, 0))
            place = (x, max(y, 0), x + width, max(y, 0) + height)
            if not any(_overlap(place, other) for other in taken):
                return place
    return None


def _overlap(a, b) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def load_font(size, max_width=None, text="") -> ImageFont.FreeTypeFont:
    """Args: size in pixels; it is reduced until `text` is no wider than `max_width`, down to 7."""
    path = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")  # matplotlib brings it along
    font = ImageFont.truetype(path, size)
    while max_width and size > 7 and font.getlength(text) > max_width:
        size -= 1
        font = ImageFont.truetype(path, size)
    return font


def colour_of(class_index) -> str:
    """The colour of a class, for PIL."""
    if class_index < len(PALETTE):
        return PALETTE[class_index]
    rgb = colorsys.hls_to_rgb(class_index * 0.618034 % 1, 0.68, 0.85)
    return "#" + "".join(f"{round(255 * v):02x}" for v in rgb)
