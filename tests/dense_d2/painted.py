"""Pictures with one painted box, to see that boxes follow pixels."""

from dense_d2.data.picture import Picture

import numpy as np

BACKGROUND, PAINT = 40, 250


def painted(height=60, width=80, box=(20, 16, 50, 40), paint=PAINT, background=BACKGROUND, number=0, masked=False):
    """A picture whose box is filled with `paint`, of class `number`; box None: nothing painted."""
    image = np.full((height, width, 3), background, dtype=np.uint8)
    boxes = np.float32([box]) if box else np.zeros((0, 4), np.float32)
    if box:
        image[box[1] : box[3], box[0] : box[2]] = paint
    classes = np.full(len(boxes), number, dtype=np.int64)
    masks = None
    if masked:
        x1, y1, x2, y2 = box
        masks = [[[x1, y1, x2 - 1, y1, x2 - 1, y2 - 1, x1, y2 - 1]]]
    return Picture(image, boxes, classes, {"file_name": f"{number}.png"}, masks=masks)


def check_box_follows(image, box, is_painted, outside=1.5, inside=2.5):
    """The painted pixels lie in the box, and reach its four sides (upright maps only: give a large `inside` otherwise)."""
    rows, columns = np.nonzero(is_painted(image[..., 0].astype(int)))
    assert len(rows)
    found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    grown = found - box
    assert (grown[:2] >= -outside).all() and (grown[2:] <= outside).all(), (found, box)
    assert (np.abs(grown) <= inside).all(), (found, box)
