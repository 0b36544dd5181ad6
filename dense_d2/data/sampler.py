"""Which image comes when: fixed before any image is read.

The permutations of all epochs form one stream, rank r of W takes every W-th element, and images of like aspect ratio are
put together by the sizes in the records. So neither the number of workers nor a broken image changes what iteration i sees,
and a resumed run starts at any iteration exactly.
"""

import itertools

import numpy as np
from detectron2.data.common import AspectRatioGroupedDataset
from torch.utils.data import Sampler

__all__ = ["StreamSampler"]


class StreamSampler(Sampler):
    """The endless stream of (iteration, epoch, index) keys of one rank; `batch_size` consecutive keys are a batch.

    Args:
        size: number of images.
        seed: of the permutations, the same on every rank.
        batch_size: keys in a batch of this rank.
        is_wide: (size,) bool: batches hold only wide or only other images; None for batches in the order of the
            stream.
        start_iter: number of batches to leave out.
        rank, world_size: this process and the number of processes.
    """

    def __init__(self, size, seed, batch_size, is_wide=None, start_iter=0, rank=0, world_size=1):
        self.size, self.seed, self.batch_size = size, seed, batch_size
        self.is_wide, self.start_iter = is_wide, start_iter
        self.rank, self.world_size = rank, world_size

    def __iter__(self):
        keys = self._stream() if self.is_wide is None else self._grouped()
        first = self.start_iter * self.batch_size
        for position, key in enumerate(itertools.islice(keys, first, None), first):
            yield (position // self.batch_size, *key)

    def _stream(self):
        for epoch in itertools.count():
            order = np.random.Generator(np.random.PCG64(np.random.SeedSequence((self.seed, epoch)))).permutation(
                self.size
            )
            first = (self.rank - epoch * self.size) % self.world_size
            for index in order[first :: self.world_size].tolist():
                yield epoch, index

    def _grouped(self):
        shaped = ({"width": int(self.is_wide[key[1]]), "height": 0, "key": key} for key in self._stream())
        for batch in AspectRatioGroupedDataset(shaped, self.batch_size):
            for entry in batch:
                yield entry["key"]
