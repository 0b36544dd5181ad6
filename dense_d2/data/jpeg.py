"""Fast decoding of ordinary JPEG files, by OpenCV; the pixels are those that Pillow gives, in three quarters of the time;
what Pillow refuses, this leaves to it.

Only for training: both decode with libjpeg-turbo, but nobody promises that for every build of the two.
"""

import re
import struct

import cv2
import numpy as np

__all__ = ["decode_jpeg"]

_START, _END = b"\xff\xd8\xff", b"\xff\xd9"
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
_PROGRESSIVE, _SCAN = 0xC2, 0xDA
_MARK = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # not a stuffed 0xFF, nor a restart mark


def decode_jpeg(data):
    """(H, W, 3) uint8, BGR, turned by its EXIF orientation; None if the slow way has to decide: for another format, a file
    that is cut off (OpenCV would fill it with grey) or damaged so that Pillow may refuse it, and rare colour spaces.

    Args: data: bytes of the file.
    """
    if not data.startswith(_START) or not data.endswith(_END) or not _is_ordinary(data):
        return None
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def _is_ordinary(data):
    """Whether 8-bit grey or three colours, and, where the rows are decoded as they are read, in one scan up to the end.

    A mark amid such a scan comes of damage: OpenCV returns the rows it has, whatever follows. Progressive files it reads
    to the end before the first row, and fails.
    """
    position, frame = 2, None
    while position + 10 <= len(data) and data[position] == 0xFF:
        marker, length = struct.unpack_from(">BH", data, position + 1)
        if marker in _FRAMES:
            frame = marker
            if data[position + 4] != 8 or data[position + 9] not in (1, 3):
                return False
        elif marker == _SCAN:
            one_scan = _MARK.search(data, position + 2).end() == len(data)
            return frame == _PROGRESSIVE or (frame is not None and one_scan)
        position += 2 + length
    return False
