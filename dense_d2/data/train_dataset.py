"""From a key to a sample: reads, composes, and replaces what cannot be read.

A sample is a function of (seed, epoch, index) and of what follows from its iteration alone: the phase, main or closing,
and the input size. Workers are told the iteration with every key: nothing fetched ahead can miss a change of phase.
"""

import contextlib
import math
import random
from typing import NamedTuple, Optional, Tuple

import numpy as np
import torch
from detectron2.data.common import DatasetFromList
from torch.utils.data import Dataset

from .mapper import UnreadableImage

__all__ = ["Loaded", "TrainDataset", "sample_rng"]


@contextlib.contextmanager
def sample_rng(seed, epoch, index):
    """Seeds the global generators of numpy, random and torch for one sample, and restores them afterwards."""
    words = np.random.SeedSequence((seed, epoch, index)).generate_state(4)
    saved = np.random.get_state(), random.getstate(), torch.default_generator.get_state()
    np.random.seed(words)
    random.seed(words.tobytes())
    torch.default_generator.manual_seed((int(words[0]) << 31) ^ int(words[1]))
    try:
        yield
    finally:
        np.random.set_state(saved[0])
        random.setstate(saved[1])
        torch.default_generator.set_state(saved[2])


class Loaded(NamedTuple):
    """A mapped sample, None if no image could be read, and the images that failed on the way: (path, reason)."""

    sample: Optional[dict]
    failures: Tuple[Tuple[str, str], ...]


class TrainDataset(Dataset):
    """Maps a key (iteration, epoch, index) to `Loaded`.

    An image that cannot be read is replaced by another one, of the same aspect ratio if there is one, drawn from the
    sample's own generator.

    Args:
        records: Detectron2 dataset dicts; kept serialised, so that workers share them.
        mapper: record -> sample, or what `composition` makes a sample of; may raise UnreadableImage.
        seed: of the samples.
        composition: None, or a callable (mapped, draw, *, strong, size) -> sample; draw() maps a random record.
        close_iter: the iteration from which on samples are composed with strong=False.
        multi_scale: None or a MultiScale.
        is_wide: see StreamSampler.
        max_attempts: give up after this many unreadable images in one sample.
    """

    def __init__(
        self,
        records,
        mapper,
        seed,
        composition=None,
        is_wide=None,
        max_attempts=11,
        *,
        close_iter=math.inf,
        multi_scale=None,
    ):
        self.records = DatasetFromList(records, copy=False)
        self.mapper, self.seed, self.composition, self.max_attempts = mapper, seed, composition, max_attempts
        self.close_iter, self.multi_scale = close_iter, multi_scale
        self.is_wide = np.zeros(len(records), dtype=bool) if is_wide is None else is_wide

    def __len__(self):
        return len(self.records)

    def __getitem__(self, key):
        iteration, epoch, index = key
        failures = []
        with sample_rng(self.seed, epoch, index):
            try:
                sample = self._make(iteration, index, failures)
            except UnreadableImage:
                sample = None
        return Loaded(sample, tuple(failures))

    def _make(self, iteration, index, failures):
        size = None if self.multi_scale is None else self.multi_scale.size_at(iteration, self.seed)
        in_pipeline = size is not None and self.multi_scale.in_pipeline
        sample = self._read(index, failures)
        if self.composition is not None:
            strong = iteration < self.close_iter
            image_size = size if in_pipeline else None
            sample = self.composition(sample, lambda: self._draw(failures), strong=strong, size=image_size)
        if size is not None and not in_pipeline:
            sample["input_size"] = (max(size),) * 2  # the model pads to a square first
        return sample

    def _draw(self, failures):
        return self._read(np.random.randint(len(self)), failures)

    def _read(self, index, failures):
        others = None
        while True:
            try:
                return self.mapper(self.records[index])
            except UnreadableImage as error:
                failures.append((error.path, error.reason))
                others = self._substitutes(index) if others is None else others
                index = next(others, None)
                if index is None or len(failures) >= self.max_attempts:
                    raise

    def _substitutes(self, index):
        """All other indices in random order, those of the same aspect ratio first."""
        others = np.random.permutation(len(self))
        others = others[np.argsort(self.is_wide[others] != self.is_wide[index], kind="stable")]
        return iter(others[others != index].tolist())
