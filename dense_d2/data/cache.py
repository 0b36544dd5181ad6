"""A cache of images as they are after reading and shrinking. It changes no number, only the time to get there.

- memory: one block of shared memory for all workers of all ranks of a machine, filled by whoever reads an image first.
- disk: one file an image, which later runs use again; see `disk_cache`.

Both are sized before the run starts: one that does not fit is an error, never a slow run or one that ends in the middle.
"""

import logging
import mmap
import os
import shutil
import socket
import struct

import numpy as np
from detectron2.utils import comm

from ..errors import UserError
from .disk_cache import DiskCache, stamp
from .image_file import probe_image

__all__ = ["MemoryCache", "free_memory", "open_cache"]

logger = logging.getLogger(__name__)

KINDS = ("none", "memory", "disk")
MOST_OF_FREE = 0.9
STAMP = struct.Struct("<4q")


def open_cache(kind, folder, records, reader):
    """Opens a cache for the images of all records. Every rank has to call it.

    Args:
        kind: "memory" or "disk".
        folder: of the disk cache; it is made if need be, and only files of this cache in it are ever written.
        records: Detectron2 dataset dicts; not changed.
        reader: a PictureReader.
    Returns:
        the cache, and new records with `cache_slot`, `width` and `height`.
    Raises:
        UserError: it does not fit into memory or onto the disk, or the request makes no sense.
    """
    if kind not in KINDS:
        raise UserError(f"cache is {kind!r}; use one of {', '.join(KINDS)}")
    if not hasattr(reader, "image_shape"):
        raise UserError(
            f"cache={kind} needs a PictureReader as the mapper; {type(reader).__name__} reads afresh: use none"
        )
    records = [_with_size(record, slot) for slot, record in enumerate(records)]
    shapes = [reader.image_shape(r["height"], r["width"]) if r.get("width") else (0, 0) for r in records]
    shapes = np.array(shapes, dtype=np.int64).reshape(-1, 2)
    num_bytes = int(3 * shapes.prod(axis=1).sum())
    if kind == "disk":
        cache = _open_disk(folder, reader.max_size, records, num_bytes)
    else:
        cache = _open_memory(shapes, num_bytes)
    logger.info(f"Image cache ({kind}): {len(records)} images, {num_bytes / 2**30:.2f} GB")
    return cache, records


def _with_size(record, slot):
    record = dict(record, cache_slot=slot)
    if not record.get("width") or not record.get("height"):
        facts = probe_image(record["file_name"])
        record.update(width=facts.width, height=facts.height)
    return record


def _open_disk(folder, max_size, records, num_bytes):
    if not folder:
        raise UserError("cache=disk needs a folder; set dataloader.train.cache_dir")
    cache = DiskCache(folder, max_size)
    missing, free = num_bytes, shutil.disk_usage(cache.folder).free
    if missing > MOST_OF_FREE * free:
        missing -= cache.num_bytes(records)
    if missing > MOST_OF_FREE * free:
        raise UserError(
            f"cache=disk needs {missing / 2**30:.1f} GB more in {cache.folder}, and {free / 2**30:.1f} GB are free; "
            "choose another dataloader.train.cache_dir, or set dataloader.train.cache=none"
        )
    return cache


def _open_memory(shapes, num_bytes):
    """One block a machine: the first rank there makes it, the others open it. The check comes first, on every rank."""
    free = free_memory()
    if num_bytes > MOST_OF_FREE * free:
        raise UserError(
            f"cache=memory needs {num_bytes / 2**30:.1f} GB, and {free / 2**30:.1f} GB are free; set "
            "dataloader.train.cache=disk with cache_dir, or cache=none"
        )
    if not hasattr(os, "memfd_create"):
        raise UserError("cache=memory needs Linux; set dataloader.train.cache=disk with cache_dir, or cache=none")
    machine, cache = socket.gethostname(), None
    if comm.get_local_rank() == 0:
        cache = MemoryCache(shapes)
    paths = dict(found for found in comm.all_gather((machine, cache.path) if cache else None) if found)
    return cache or MemoryCache(shapes, paths[machine])


def free_memory():
    """Bytes that this process may still take: of the machine, or of its control group if that has less."""
    with open("/proc/meminfo") as file:
        facts = dict(line.split(":") for line in file)
    free = int(facts["MemAvailable"].split()[0]) * 1024
    try:
        with open("/sys/fs/cgroup/memory.max") as limit, open("/sys/fs/cgroup/memory.current") as used:
            group_free = int(limit.read()) - int(used.read())
        with open("/sys/fs/cgroup/memory.stat") as file:
            facts = dict(line.split() for line in file)
        free = min(free, group_free + int(facts["inactive_file"]))  # file pages make room when asked to
    except (OSError, ValueError, KeyError):  # no control group, or one without a limit
        pass
    return free


class MemoryCache:
    """Images at fixed places in a block of shared memory, behind their stamps; zeros say that an image is not there yet.

    Two workers that read the same image at once write the same bytes. An image whose stamp has changed is read anew each
    time and does not take the place of the first, which others may be looking at.

    Args:
        shapes: (n, 2) int: height, width of every image; 0 for one that is not kept.
        path: of the block another process has made; None makes one.
    """

    def __init__(self, shapes, path=None):
        self.shapes = shapes
        self.ends = STAMP.size * len(shapes) + np.cumsum(3 * shapes.prod(axis=1))
        if path is None:
            descriptor = os.memfd_create("dense_d2_images")
            os.ftruncate(descriptor, max(int(self.ends[-1]) if len(shapes) else 0, 1))
            path = f"/proc/{os.getpid()}/fd/{descriptor}"
        else:
            descriptor = os.open(path, os.O_RDWR)
        self.path, self.descriptor = path, descriptor
        self.memory = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)

    def __getstate__(self):
        return self.shapes, self.path

    def __setstate__(self, state):
        self.__init__(*state)

    def get(self, record, read):
        """The image of a record, read only; `read(record)` makes it if it is not there yet."""
        slot = record["cache_slot"]
        height, width = self.shapes[slot].tolist()
        num_bytes = 3 * height * width
        start = int(self.ends[slot]) - num_bytes
        try:
            current = STAMP.pack(*stamp(record))
        except OSError:
            return read(record)  # which says what is wrong
        found = self.memory[STAMP.size * slot : STAMP.size * (slot + 1)]
        if found != current:
            image = read(record)
            if any(found) or image.shape[:2] != (height, width):  # has changed, or its size was unknown beforehand
                return image
            os.pwrite(self.descriptor, np.ascontiguousarray(image).data, start)
            os.pwrite(self.descriptor, current, STAMP.size * slot)  # after the pixels
        return np.frombuffer(self.memory, np.uint8, num_bytes, start).reshape(height, width, 3)
