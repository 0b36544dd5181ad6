"""The input size of every iteration, drawn alike on every rank: a function of (seed, iteration).

Source: YOLOX, released code: redrawn every 10 iterations, the first 10 at the input size, the closing phase included.
ASFF, released code: the same, and a fixed size in the last epochs.
"""

from dense_d2.errors import UserError

import numpy as np

from .letterbox import as_size

__all__ = ["MultiScale"]

_STREAM = 0x5CA1E  # keeps these draws apart from those of the permutations, (seed, epoch)
STRIDE = 32  # the largest of the models, in pixels


class MultiScale:
    """
    Sides are multiples of STRIDE: maps of other sizes do not fit each other.

    Args:
        sizes: heights of the input, in pixels, each as likely. It is a square, unless `first` is a rectangle: then the
            width is the multiple of STRIDE that comes nearest to its shape.
        period: iterations between two draws.
        first: side or (height, width) in the first period, and in the fixed last iterations; None draws these as well.
        in_pipeline: the data pipeline makes images of this size (ASFF). Otherwise every sample gets `input_size`, the
            square around this size: the model resizes the whole batch, padded to a square, on its device (YOLOX).
        max_iter, fixed_iters: the last `fixed_iters` iterations of `max_iter` have the size `first`.
    """

    def __init__(self, sizes, period=10, first=None, *, in_pipeline=False, max_iter=None, fixed_iters=0):
        self.sizes, self.period = [int(size) for size in sizes], period
        self.first = None if first is None else as_size(first)
        self.in_pipeline = in_pipeline
        if not self.sizes:
            raise ValueError("sizes is empty; list at least one side in pixels")
        if period < 1:
            raise ValueError(f"period is {period}; give the iterations between two draws, at least 1")
        if fixed_iters and (max_iter is None or first is None):
            raise ValueError(
                f"fixed_iters is {fixed_iters}; it needs max_iter (now {max_iter}) and first (now {first})"
            )
        odd = sorted({side for side in (*self.sizes, *(self.first or ())) if side < 1 or side % STRIDE})
        if odd:
            raise UserError(
                f"Training inputs cannot have sides of {odd} pixels, but multiples of {STRIDE}, the largest stride: see "
                "dataloader.train.multi_scale.sizes and composition.input_size."
            )
        self.fixed_from = max_iter - fixed_iters if fixed_iters else None

    def size_at(self, iteration, seed):
        """The (height, width) at an iteration, the same whoever asks."""
        is_fixed = self.fixed_from is not None and iteration >= self.fixed_from
        block = iteration // self.period
        if self.first is not None and (block == 0 or is_fixed):
            return self.first
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, _STREAM, block))))
        height = self.sizes[int(rng.integers(len(self.sizes)))]
        if self.first is None or self.first[0] == self.first[1]:
            return height, height
        return height, max(round(height * self.first[1] / self.first[0] / STRIDE), 1) * STRIDE
