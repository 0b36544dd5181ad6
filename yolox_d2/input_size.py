"""Sizes of a batch: which ones training may resize it to, and what inference takes an image's to be."""

from dense_d2.errors import UserError

__all__ = ["check_input_size", "unrounded_size"]


def check_input_size(size, divisor):
    """Maps of other sizes do not fit each other, or their cells not the pixels they are taken for.

    Args:
        size: (height, width) in pixels.
        divisor: largest stride of the maps.
    Raises:
        UserError: a side is no multiple of it.
    """
    nearest = tuple(max(round(side / divisor), 1) * divisor for side in size)
    if nearest != tuple(size):
        raise UserError(
            f"A batch is to be resized to {tuple(size)} pixels, but sides must be multiples of {divisor}, the largest "
            f"stride; the nearest are {nearest}: see dataloader.train.multi_scale.sizes and composition.input_size."
        )


def unrounded_size(sample):
    """(height, width) of the original image times the factor by which `image` was resized: the longer side is exact."""
    sizes = sample["image"].shape[1:]
    original = sample.get("height", sizes[0]), sample.get("width", sizes[1])
    factor = max(size / side for size, side in zip(sizes, original))
    return original[0] * factor, original[1] * factor
