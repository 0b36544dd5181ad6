"""What can be said of an image file without decoding it: its size as training will see it, and whether it is whole.

Detectron2 rotates an image by its EXIF orientation when it reads it, so width and height here are those after
rotation.
"""

import os
import struct
from typing import NamedTuple

from PIL import Image

__all__ = ["ImageFacts", "probe_image"]

_EXIF_ORIENTATION = 274
_QUARTER_TURNS = (5, 6, 7, 8)
_TAIL_BYTES = 64


class ImageFacts(NamedTuple):
    """`error` is "" for a good file, "missing" for none, else what is wrong. Sides are 0 where unknown."""

    width: int = 0
    height: int = 0
    mode: str = ""
    rotated: bool = False
    error: str = ""


def probe_image(path, decode=False) -> ImageFacts:
    """Reads the header and the end of an image file; decodes it only where the end looks cut off, or if asked to.

    Args:
        path: file name.
        decode: decode every file: finds damage in the middle too, at the price of a full read.
    """
    if not os.path.exists(path):
        return ImageFacts(error="missing")
    try:
        with open(path, "rb") as file:
            image = Image.open(file)
            (width, height), mode = image.size, image.mode
            rotated = _orientation(image) in _QUARTER_TURNS
            if decode or not _ends_well(file, image.format):
                file.seek(0)
                Image.open(file).load()
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file
        size = os.path.getsize(path)
        return ImageFacts(error="0 bytes" if size == 0 else f"{type(error).__name__}: {error}")
    if rotated:
        width, height = height, width
    return ImageFacts(width, height, mode, rotated)


def _orientation(image):
    if image.format == "PNG" and "exif" not in image.info:
        return None  # getexif() would decode the whole picture to look for a chunk after it
    try:
        return image.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # Detectron2 takes a damaged EXIF block for none
        return None


def _ends_well(file, image_format):
    """Whether the file ends as its format says. Formats without an end marker do not: they are decoded."""
    size = file.seek(0, os.SEEK_END)
    file.seek(-min(size, _TAIL_BYTES), os.SEEK_END)
    tail = file.read()
    if image_format in ("JPEG", "MPO"):
        return tail.rstrip(b"\0\r\n").endswith(b"\xff\xd9")
    if image_format == "PNG":
        return tail[-8:-4] == b"IEND"
    if image_format == "WEBP":
        file.seek(4)
        return struct.unpack("<I", file.read(4))[0] + 8 <= size
    return False
