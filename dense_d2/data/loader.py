"""Batches for training and testing. Every training sample is a function of (seed, epoch, index) and of what follows
from its iteration alone: the phase, main or closing, and the input size. So every batch is one of (seed, iteration).

The order of a run is fixed before any image is read: the permutations of all epochs form one stream, rank r of W
takes every W-th element, and images of like aspect ratio are put together by the sizes in the records. So neither
the number of workers nor a broken image changes what iteration i sees, and a resumed run starts at any iteration
exactly. Workers are told the iteration with every key: nothing that was fetched ahead can miss a change of phase.
"""

import contextlib
import itertools
import logging
import math
import random
from typing import List, NamedTuple, Optional, Tuple

import numpy as np
import torch
from detectron2.data import build_detection_test_loader
from detectron2.data.common import AspectRatioGroupedDataset, DatasetFromList
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from ..datasets import DatasetError, drop_bad_boxes, load_records
from .cache import open_cache
from .mapper import UnreadableImage

__all__ = ["StreamSampler", "TrainDataset", "TrainLoader", "build_test_loader", "build_train_loader", "sample_rng"]

logger = logging.getLogger(__name__)

BATCHES_AHEAD = 2


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
        side = None if self.multi_scale is None else self.multi_scale.size_at(iteration, self.seed)
        in_pipeline = side is not None and self.multi_scale.in_pipeline
        sample = self._read(index, failures)
        if self.composition is not None:
            strong = iteration < self.close_iter
            size = side if in_pipeline else None
            sample = self.composition(sample, lambda: self._draw(failures), strong=strong, size=size)
        if side is not None and not in_pipeline:
            sample["input_size"] = (side, side)
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
    composition=None,
    max_iter=None,
    close_iters=0,
    multi_scale=None,
    filter_empty=True,
    keep_masks=False,
    cache="none",
    cache_dir="",
    max_unreadable_images=10,
) -> TrainLoader:
    """Builds the training loader of this rank.

    Args:
        dataset: name of a registered dataset, a list of names, or a list of Detectron2 dataset dicts.
        mapper: record -> sample, or what `composition` makes a sample of.
        total_batch_size: images per iteration, over all ranks.
        num_workers: loading processes per rank; 0 loads in the main process.
        seed: integer >= 0, the same on every rank.
        aspect_ratio_grouping: fill a batch with wide images only, or with others only.
        composition: see TrainDataset.
        max_iter: of the run; needed for `close_iters` only.
        close_iters: how many iterations at the end of the run are composed without strong augmentation.
        multi_scale: None, or a MultiScale: the input size of every iteration.
        filter_empty: leave out images without a box to train on.
        keep_masks: keep `segmentation` in the records, which is most of the memory; for copy-paste.
        cache: "none", "memory" or "disk": keep images that a PictureReader has read; see `cache.open_cache`.
        cache_dir: folder of the disk cache.
        max_unreadable_images: image files that may fail before the run stops.
    """
    world_size = comm.get_world_size()
    if seed is None or seed < 0:
        raise ValueError(f"seed is {seed}; samples are drawn from (seed, epoch, index): give an integer >= 0")
    if total_batch_size < 1 or total_batch_size % world_size:
        raise ValueError(f"total_batch_size is {total_batch_size}; it must be a multiple of the {world_size} processes")
    records = _select(_load(dataset, keep_masks), dataset, filter_empty)
    if cache != "none":
        mapper.cache, records = open_cache(cache, cache_dir, records, mapper)
    is_wide = np.array([r.get("width", 0) > r.get("height", 0) for r in records]) if aspect_ratio_grouping else None
    train_dataset = TrainDataset(
        records,
        mapper,
        seed,
        composition,
        is_wide,
        max_attempts=max_unreadable_images + 1,
        close_iter=_close_iter(max_iter, close_iters),
        multi_scale=multi_scale,
    )
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


def _load(dataset, keep_masks=False) -> List[dict]:
    if isinstance(dataset, str):
        return load_records(dataset, keep_masks)
    parts = list(dataset)
    if parts and isinstance(parts[0], str):
        return list(itertools.chain.from_iterable(load_records(name, keep_masks) for name in parts))
    return drop_bad_boxes(parts, keep_masks=keep_masks)


def _select(records, dataset, filter_empty):
    if filter_empty:
        num_all = len(records)
        records = [r for r in records if any(not a.get("iscrowd", 0) for a in r.get("annotations", ()))]
        logger.info(f"Training on {len(records)} images; {num_all - len(records)} without boxes are left out")
    if not records:
        raise DatasetError(f"{dataset}: no image is left to train on; check the annotations, or set filter_empty=false")
    return records


def _close_iter(max_iter, close_iters):
    if not close_iters:
        return math.inf
    if max_iter is None:
        raise ValueError(f"close_iters is {close_iters} and max_iter is not given; set it to train.max_iter")
    if not 0 < close_iters <= max_iter:
        logger.warning(f"close_iters={close_iters} of max_iter={max_iter}: no iteration has strong augmentation")
    return max_iter - close_iters
