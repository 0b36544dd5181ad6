"""Batches for training and testing. Every batch is a function of (seed, iteration), whatever the number of workers.

Below it: `sampler` says which image comes when, `train_dataset` makes samples of them.
"""

import itertools
import logging
import math
from typing import List

import numpy as np
import torch
from detectron2.data import build_detection_test_loader
from detectron2.utils import comm
from torch.utils.data import DataLoader

from ..datasets import DatasetError, drop_bad_boxes, load_records
from .cache import open_cache
from .copy_paste import usable_mask
from .sampler import StreamSampler
from .train_dataset import TrainDataset

__all__ = ["TrainLoader", "build_test_loader", "build_train_loader"]

logger = logging.getLogger(__name__)

BATCHES_AHEAD = 2


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
        raise ValueError(
            f"total_batch_size is {total_batch_size}; give a multiple of the number of processes, {world_size}, above 0"
        )
    if num_workers < 0:
        raise ValueError(f"num_workers is {num_workers}; give the loading processes, 0 to load in the main one")
    if getattr(composition, "needs_masks", False) and not keep_masks:
        raise ValueError("a step of the composition needs masks; set dataloader.train.keep_masks=true")
    records = _select(_load(dataset, keep_masks), dataset, filter_empty)
    if keep_masks and not any(usable_mask(a.get("segmentation")) for r in records for a in r.get("annotations", ())):
        raise DatasetError(
            f"{dataset}: keep_masks is set, and no box has a segmentation of three points or more; leave copy-paste out"
        )
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
    if close_iters < 0:
        raise ValueError(f"close_iters is {close_iters}; give the number of last iterations, 0 for none")
    if close_iters > max_iter:
        logger.warning(f"close_iters={close_iters} of max_iter={max_iter}: no iteration has strong augmentation")
    return max_iter - close_iters
