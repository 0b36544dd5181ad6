"""Batches for training and testing. Every training sample is a function of (seed, epoch, index), every batch one of
(seed, i).

The order of a run is fixed before any image is read: the permutations of all epochs form one stream, rank r of W
takes every W-th element, and images of like aspect ratio are put together by the sizes in the records. So neither
the number of workers nor a broken image changes what iteration i sees, and a resumed run starts at any iteration
exactly.
"""

import contextlib
import itertools
import logging
import random
from typing import List, NamedTuple, Optional, Tuple

import numpy as np
import torch
from detectron2.data import build_detection_test_loader
from detectron2.data.common import AspectRatioGroupedDataset, DatasetFromList
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from ..datasets import DatasetError, drop_bad_boxes, load_records
from .mapper import UnreadableImage

__all__ = ["StreamSampler", "TrainDataset", "TrainLoader", "build_test_loader", "build_train_loader", "sample_rng"]

logger = logging.getLogger(__name__)

BATCHES_AHEAD = 2


class StreamSampler(Sampler):
    """The endless stream of (epoch, index) keys of one rank; `batch_size` consecutive keys belong together.

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
        return itertools.islice(keys, self.start_iter * self.batch_size, None)

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
    """Maps a key (epoch, index) to `Loaded`.

    An image that cannot be read is replaced by another one, of the same aspect ratio if there is one, drawn from the
    sample's own generator.

    Args:
        records: Detectron2 dataset dicts; kept serialised, so that workers share them.
        mapper: record -> sample, may raise UnreadableImage.
        seed: of the samples.
        mosaic: None, or a callable (sample, draw, *, epoch, index) -> sample; draw() maps a random record.
        is_wide: see StreamSampler.
        max_attempts: give up after this many unreadable images in one sample.
    """

    def __init__(self, records, mapper, seed, mosaic=None, is_wide=None, max_attempts=11):
        self.records = DatasetFromList(records, copy=False)
        self.mapper, self.seed, self.mosaic, self.max_attempts = mapper, seed, mosaic, max_attempts
        self.is_wide = np.zeros(len(records), dtype=bool) if is_wide is None else is_wide

    def __len__(self):
        return len(self.records)

    def __getitem__(self, key):
        epoch, index = key
        failures = []
        with sample_rng(self.seed, epoch, index):
            try:
                sample = self._read(index, failures)
                if self.mosaic is not None:
                    sample = self.mosaic(sample, lambda: self._draw(failures), epoch=epoch, index=index)
            except UnreadableImage:
                sample = None
        return Loaded(sample, tuple(failures))

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


class TrainLoader:
    """Endless iterable of batches, each a list of samples.

    Attributes:
        start_iter: the iteration whose batch comes first when iterated; set it before iterating to resume.
        batch_size: of this rank.
        unreadable: path -> reason of the image files that could not be read so far.
    """

    def __init__(self, dataset, sampler, num_workers, max_unreadable_images):
        self.dataset, self.sampler = dataset, sampler
        self.num_workers, self.max_unreadable_images = num_workers, max_unreadable_images
        self.batch_size = sampler.batch_size
        self.unreadable = {}

    @property
    def start_iter(self):
        return self.sampler.start_iter

    @start_iter.setter
    def start_iter(self, iteration):
        self.sampler.start_iter = iteration

    def __iter__(self):
        samples = (self._accept(loaded) for loaded in self._loader())
        while True:
            yield list(itertools.islice(samples, self.batch_size))

    def _loader(self):
        workers = {}
        if self.num_workers:
            ahead = -(-BATCHES_AHEAD * self.batch_size // self.num_workers)
            workers = {"prefetch_factor": max(2, ahead), "worker_init_fn": _use_one_thread}
        return DataLoader(
            self.dataset,
            sampler=self.sampler,
            batch_size=None,
            collate_fn=_as_is,
            num_workers=self.num_workers,
            generator=torch.Generator().manual_seed(self.sampler.seed),  # else the loader draws from the global one
            **workers,
        )

    def _accept(self, loaded):
        for path, reason in loaded.failures:
            if path not in self.unreadable:
                logger.warning(f"Unreadable image, replaced by another one: {path}: {reason}")
                self.unreadable[path] = reason
        if len(self.unreadable) > self.max_unreadable_images or loaded.sample is None:
            listing = "\n".join(f"  {path}: {reason}" for path, reason in self.unreadable.items())
            raise DatasetError(
                f"{len(self.unreadable)} image files could not be read (max_unreadable_images is "
                f"{self.max_unreadable_images}). Repair them, take them out of the annotations, or raise "
                f"dataloader.train.max_unreadable_images:\n{listing}"
            )
        return loaded.sample


def _as_is(sample):
    return sample


def _use_one_thread(worker_id):
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def build_train_loader(
    *,
    dataset,
    mapper,
    total_batch_size,
    num_workers,
    seed,
    aspect_ratio_grouping=True,
    mosaic=None,
    filter_empty=True,
    max_unreadable_images=10,
) -> TrainLoader:
    """Builds the training loader of this rank.

    Args:
        dataset: name of a registered dataset, a list of names, or a list of Detectron2 dataset dicts.
        mapper: record -> sample.
        total_batch_size: images per iteration, over all ranks.
        num_workers: loading processes per rank; 0 loads in the main process.
        seed: integer >= 0, the same on every rank.
        aspect_ratio_grouping: fill a batch with wide images only, or with others only.
        mosaic: see TrainDataset.
        filter_empty: leave out images without a box to train on.
        max_unreadable_images: image files that may fail before the run stops.
    """
    world_size = comm.get_world_size()
    if seed is None or seed < 0:
        raise ValueError(f"seed is {seed}; samples are drawn from (seed, epoch, index): give an integer >= 0")
    if total_batch_size < 1 or total_batch_size % world_size:
        raise ValueError(f"total_batch_size is {total_batch_size}; it must be a multiple of the {world_size} processes")
    records = _load(dataset)
    if filter_empty:
        num_all = len(records)
        records = [r for r in records if any(not a.get("iscrowd", 0) for a in r.get("annotations", ()))]
        logger.info(f"Training on {len(records)} images; {num_all - len(records)} without boxes are left out")
    if not records:
        raise DatasetError(f"{dataset}: no image is left to train on; check the annotations, or set filter_empty=false")
    is_wide = np.array([r.get("width", 0) > r.get("height", 0) for r in records]) if aspect_ratio_grouping else None
    train_dataset = TrainDataset(records, mapper, seed, mosaic, is_wide, max_attempts=max_unreadable_images + 1)
    sampler = StreamSampler(
        len(records),
        seed,
        total_batch_size // world_size,
        is_wide,
        rank=comm.get_rank(),
        world_size=world_size,
    )
    return TrainLoader(train_dataset, sampler, num_workers, max_unreadable_images)


def build_test_loader(*, dataset, mapper, num_workers=0):
    """Batches of one image, in order, shared out over the ranks. Args: as `build_train_loader`."""
    return build_detection_test_loader(_load(dataset), mapper=mapper, num_workers=num_workers)


def _load(dataset) -> List[dict]:
    if isinstance(dataset, str):
        return load_records(dataset)
    parts = list(dataset)
    if parts and isinstance(parts[0], str):
        return list(itertools.chain.from_iterable(load_records(name) for name in parts))
    return drop_bad_boxes(parts)
