"""Images on disk as they are after reading and shrinking: one file each, used again by later runs.

An entry holds the stamp of the record it was made from, and its own format: if any of them has changed, or the entry is
damaged, the image is read anew. Entries are written beside their place and renamed into it, so that a reader sees
a whole entry or none, however many processes write.
"""

import hashlib
import os
import struct
import tempfile

import numpy as np

from ..errors import UserError

__all__ = ["DiskCache", "stamp"]

SUBFOLDER = "dense_d2_images"
FORMAT = b"dd2-img2"  # raise the digit with any change to how images are read, shrunk or stored
HEADER = struct.Struct("<8s4qII")  # format, stamp, height, width


def stamp(record):
    """What an image depends on: bytes and mtime (ns) of its file, and the height and width that the annotations state, for
    an image of another size is refused. Raises: OSError.
    """
    facts = os.stat(record["file_name"])
    return facts.st_size, facts.st_mtime_ns, record["height"], record["width"]


class DiskCache:
    """
    Args:
        folder: everything is written below its subfolder `dense_d2_images`, nothing beside it.
        max_size: of the PictureReader; other values have entries of their own.
    """

    def __init__(self, folder, max_size):
        self.folder = os.path.join(os.path.abspath(os.path.expanduser(folder)), SUBFOLDER)
        self.max_size = max_size
        try:
            for number in range(256):
                os.makedirs(os.path.join(self.folder, f"{number:02x}"), exist_ok=True)
        except OSError as error:
            raise UserError(f"cache_dir={folder}: {error}; choose a folder that can be written") from error

    def num_bytes(self, records):
        """Bytes of the entries that these records have."""
        paths = [self.path(record["file_name"]) for record in records]
        return sum(os.path.getsize(path) for path in paths if os.path.exists(path))

    def get(self, record, read):
        """The image of a record; `read(record)` makes it if there is no valid entry."""
        try:
            current = stamp(record)
        except OSError:
            return read(record)  # which says what is wrong
        path = self.path(record["file_name"])
        image = _load(path, current)
        if image is None:
            image = read(record)
            _store(path, current, image)
        return image

    def path(self, file_name):
        name = hashlib.sha1(
            f"{self.max_size}\n{os.path.realpath(file_name)}".encode(errors="surrogatepass")
        ).hexdigest()
        return os.path.join(self.folder, name[:2], name)


def _load(path, current):
    """The image, or None if the entry is missing, damaged or has another stamp."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEADER.size)
            if len(head) < HEADER.size:
                return None
            found_format, *found_stamp, height, width = HEADER.unpack(head)
            if found_format != FORMAT or tuple(found_stamp) != current:
                return None
            pixels = np.fromfile(file, np.uint8)
    except FileNotFoundError:
        return None
    return pixels.reshape(height, width, 3) if pixels.size == 3 * height * width else None


def _store(path, current, image):
    descriptor, beside = tempfile.mkstemp(dir=os.path.dirname(path))
    try:
        with open(descriptor, "wb") as file:
            file.write(HEADER.pack(FORMAT, *current, *image.shape[:2]))
            file.write(np.ascontiguousarray(image).data)
        os.replace(beside, path)
    except OSError as error:
        os.unlink(beside)
        raise UserError(f"The image cache cannot write {path}: {error}; free some space or set cache=none") from error
