"""Mosaic: one training image from four, each already augmented.

Source: YOLOF's CSPDarkNet recipe (released code), after YOLOv4. Two departures:
- Partners are drawn from the whole data set, not from a pool of what this worker saw last: a sample stays a
  function of (seed, epoch, index).
- Padding at the outer border of a tile is skipped by the amount that is really there after every augmentation. The
  released code loses that amount whenever the random shift comes after the jitter crop, half of the time; it does
  not count the shift's black band either.

Shapes: images (C, H, W); tiles in the order top left, top right, bottom left, bottom right. Boxes XYXY in pixels.
"""

import numpy as np
import torch

from .mapper import to_instances

__all__ = ["Mosaic"]

NUM_TILES = 4


class Mosaic:
    """Puts a sample and three random others around a random cut, with probability `prob`.

    A tile on the left shows the left part of its image, a tile on the right the right part, and so on: the outer
    corners meet. The sample itself is top left. An image smaller than its tile leaves zeros at the bottom and
    right.

    Args:
        size: of the square result, in pixels.
        prob: probability of a mosaic; otherwise the sample stays as it is.
        cut_range: the cut lies at an integer in [int(size * low), int(size * high) - 1] on each axis.
    """

    def __init__(self, size=640, prob=0.5, cut_range=(0.2, 0.8)):
        self.size, self.prob = size, prob
        self.cut_range = int(size * cut_range[0]), int(size * cut_range[1])

    def __call__(self, sample, draw, *, strong=True, size=None):
        """
        Args:
            sample: of a training mapper.
            draw: () -> another one, of the whole data set.
            strong: False leaves the sample as it is: the closing phase.
            size: not supported; the mosaic has its own.
        """
        if size is not None:
            raise ValueError(f"a multi-scale size of {size} cannot be composed here: let the model resize its batch")
        if not strong or np.random.uniform() >= self.prob:
            return sample
        cut_x, cut_y = np.random.randint(*self.cut_range, size=2).tolist()
        return self.blend([sample] + [draw() for _ in range(NUM_TILES - 1)], cut_x, cut_y)

    def blend(self, samples, cut_x, cut_y):
        """Puts four samples around the cut; the result keeps the other keys of the first."""
        image = samples[0]["image"].new_zeros((samples[0]["image"].shape[0], self.size, self.size))
        columns, rows = ((0, cut_x), (cut_x, self.size)), ((0, cut_y), (cut_y, self.size))
        boxes, classes = [], []
        for position, sample in enumerate(samples):
            right, bottom = position % 2, position // 2
            tile, (x1, y1, x2, y2) = sample["image"], sample["content"]
            height, width = tile.shape[1:]
            to_x, from_x = _place(columns[right], width, width - x2 if right else x1, right)
            to_y, from_y = _place(rows[bottom], height, height - y2 if bottom else y1, bottom)
            image[:, to_y, to_x] = tile[:, from_y, from_x]
            low = torch.tensor([to_x.start, to_y.start] * 2, dtype=torch.float32)
            high = torch.tensor([to_x.stop, to_y.stop] * 2, dtype=torch.float32)
            origin = torch.tensor([from_x.start, from_y.start] * 2, dtype=torch.float32)
            moved = sample["instances"].gt_boxes.tensor - origin + low
            boxes.append(torch.minimum(torch.maximum(moved, low), high))
            classes.append(sample["instances"].gt_classes)
        mixed = dict(samples[0], image=image, content=(0.0, 0.0, float(self.size), float(self.size)))
        mixed["instances"] = to_instances(torch.cat(boxes), torch.cat(classes), (self.size, self.size))
        return mixed


def _place(span, side, padding, at_end):
    """Chooses which part of an image fills a tile, along one axis.

    Args:
        span: (start, stop) of the tile in the mosaic.
        side: of the image.
        padding: pixels at the outer end of the image to skip; cut to the tile's length and to what the image can
            spare.
        at_end: whether the outer end is the right or bottom one.
    Returns:
        slices of the mosaic and of the image, equally long.
    """
    start, stop = span
    spare = max(side - (stop - start), 0)
    skipped = min(int(padding), stop - start, spare)
    source = spare - skipped if at_end else skipped
    length = min(stop - start, side)
    return slice(start, start + length), slice(source, source + length)
