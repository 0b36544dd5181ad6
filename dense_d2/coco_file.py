"""A COCO-format annotation file as columns: parsed once a process, tolerant of whatever is in it.

Only text that is no JSON raises. Everything else that is wrong is noted in `CocoFile.problems` under a fixed name,
and the rest of the file stays usable, so that the data check and the training read the file with the same eyes.

Source: https://cocodataset.org/#format-data.
Shapes: I images, M annotations, K classes. Boxes are XYWH in pixels of the image, float64.
"""

import functools
import gc
import json
import os
from reprlib import repr as short
from typing import Any, Dict, List, NamedTuple, Optional

import numpy as np

from .errors import UserError

__all__ = [
    "BOX_FAULTS",
    "MAX_EXAMPLES",
    "CocoFile",
    "CocoImage",
    "DatasetError",
    "Problem",
    "box_faults",
    "printable",
    "read_coco",
]

MAX_EXAMPLES = 5
_NUMBERS = frozenset((int, float))
BOX_FAULTS = ("non-finite-box", "negative-size-box", "zero-size-box", "box-outside-image")


class DatasetError(UserError):
    """Data that cannot be used; the message says what, which value, and what to do."""


class CocoImage(NamedTuple):
    """One usable entry of `images`. Sides are 0 where the file gives none."""

    id: Any
    file_name: str
    width: int
    height: int


class Problem:
    """How often one kind of problem occurs, and where first."""

    def __init__(self):
        self.count = 0
        self.examples: List[str] = []

    def add(self, example):
        self.count += 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(printable(example))


def printable(text):
    """Any value as one line that every terminal and log file accepts."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text)[:200])


def _as_id(value, allow_text=True):
    """The value as an id, or None where it cannot be one."""
    if type(value) is int or (allow_text and type(value) is str):
        return value
    return int(value) if type(value) is float and value.is_integer() else None


def _as_side(value):
    """The value as a side in pixels, 0 where it cannot be one."""
    value = _as_id(value, allow_text=False)
    return value if value is not None and 0 < value < 2**31 else 0


def _as_box(value):
    """The value as four floats (huge integers become infinite), or None where it is no list of four numbers."""
    if type(value) is not list or len(value) != 4 or not _NUMBERS.issuperset(map(type, value)):
        return None
    try:
        return list(map(float, value))
    except OverflowError:
        return [float("inf")] * 4


class CocoFile:
    """The usable content of one annotation file.

    Attributes:
        images: I entries, ordered by id as Detectron2 orders them.
        category_ids, class_names: K each, ordered by id; the position is the class index.
        annotation_ids: M ids, an array or, where some are missing or text, a list.
        image_index: (M,) int64, position in `images`, -1 where the image is unknown.
        classes: (M,) int64 class index, -1 where the category is unknown.
        boxes: (M, 4) float64 XYWH; NaN where `malformed`.
        malformed: (M,) bool, the entry has no list of four numbers as `bbox`.
        crowd: (M,) bool, `iscrowd` or `ignore` is set: not trained on.
        problems: name -> Problem.
    """

    def __init__(self, content, path=""):
        self.path = path
        self.problems: Dict[str, Problem] = {}
        if type(content) is not dict:
            self.note("not-coco-format", f"the top level is a {type(content).__name__}, not an object")
            content = {"categories": [], "images": [], "annotations": []}
        self._read_categories(self._section(content, "categories"))
        self._read_images(self._section(content, "images"))
        self._read_annotations(self._section(content, "annotations"))

    def note(self, name, example):
        self.problems.setdefault(name, Problem()).add(example)

    def _section(self, content, key):
        if type(content.get(key)) is not list:
            found = f"is a {type(content[key]).__name__}" if key in content else "is missing"
            self.note("not-coco-format", f"'{key}' {found}, a list is needed")
        section = content.get(key)
        return section if type(section) is list else []

    def _entry(self, entry, what, keys):
        """Whether the entry is an object that has all keys; notes what is missing."""
        if type(entry) is not dict:
            self.note("malformed-entry", f"{what} is a {type(entry).__name__}, not an object")
            return False
        missing = [key for key in keys if key not in entry]
        if missing:
            self.note("missing-key", f"{what} has no {', '.join(missing)}")
        return not missing

    def _read_categories(self, section):
        names = {}
        for position, entry in enumerate(section):
            what = f"categories[{position}]"
            if not self._entry(entry, what, ("id", "name")):
                continue
            key = _as_id(entry["id"], allow_text=False)
            if key is None:
                self.note("bad-value", f"{what}: id {short(entry['id'])} is not an integer")
            elif key in names:
                self.note("duplicate-category-id", f"id {key}: {names[key]}, {short(entry['name'])}")
            else:
                names[key] = entry["name"] if type(entry["name"]) is str else short(entry["name"])
        self.category_ids = sorted(names)
        self.class_names = [names[key] for key in self.category_ids]
        for name in {n for n in self.class_names if self.class_names.count(n) > 1}:
            self.note("duplicate-category-name", name)

    def _read_images(self, section):
        found = {}
        for position, entry in enumerate(section):
            what = f"images[{position}]"
            if not self._entry(entry, what, ("id", "file_name")):
                continue
            key, file_name = _as_id(entry["id"]), entry["file_name"]
            if key is None or type(file_name) is not str or not file_name:
                self.note("bad-value", f"{what}: id {short(entry['id'])}, file_name {short(file_name)}")
            elif key in found:
                self.note("duplicate-image-id", f"id {key}: {found[key].file_name}, {file_name}")
            else:
                width, height = _as_side(entry.get("width")), _as_side(entry.get("height"))
                if not (width and height):
                    given = short([entry.get("width"), entry.get("height")])
                    self.note("image-size-missing", f"{file_name}: width, height {given}")
                    width = height = 0
                if type(key) is str:
                    self.note("text-image-id", f"{file_name}: id {short(key)}")
                found[key] = CocoImage(key, file_name, width, height)
        self.images = sorted(found.values(), key=lambda image: (type(image.id) is str, image.id))
        self._image_index = {image.id: position for position, image in enumerate(self.images)}

    def _read_annotations(self, section):
        class_index = {key: position for position, key in enumerate(self.category_ids)}
        ids, image_index, classes, boxes, crowd = [], [], [], [], []
        seen = set()
        for position, entry in enumerate(section):
            if type(entry) is not dict:
                self._entry(entry, f"annotations[{position}]", ())
                continue
            key = _as_id(entry.get("id"))
            image = self._image_index.get(_as_id(entry.get("image_id")), -1)
            category = class_index.get(_as_id(entry.get("category_id"), allow_text=False), -1)
            ids.append(key)
            image_index.append(image)
            classes.append(category)
            boxes.append(_as_box(entry.get("bbox")))
            crowd.append(bool(entry.get("iscrowd") or entry.get("ignore")))
            if key is not None and key not in seen and image >= 0 and category >= 0:
                seen.add(key)
                continue
            what = f"annotations[{position}]" if key is None else f"annotation {key}"
            if image >= 0:
                what = f"{self.images[image].file_name}, {what}"
            self._entry(entry, what, ("id", "image_id", "category_id"))
            if key in seen:
                self.note("duplicate-annotation-id", what)
            if image < 0 and "image_id" in entry:
                self.note("unknown-image-id", f"{what}: image_id {short(entry['image_id'])}")
            if category < 0 and "category_id" in entry:
                self.note("unknown-category-id", f"{what}: category_id {short(entry['category_id'])}")
        small = all(type(key) is int and abs(key) < 2**62 for key in ids)
        self.annotation_ids = np.array(ids, dtype=np.int64) if small else ids  # an array lets go of the parsed file
        self.image_index = np.array(image_index, dtype=np.int64)
        self.classes = np.array(classes, dtype=np.int64)
        self.malformed = np.array([box is None for box in boxes], dtype=bool)
        self.boxes = np.array([box or [np.nan] * 4 for box in boxes], dtype=np.float64).reshape(-1, 4)
        self.crowd = np.array(crowd, dtype=bool)


def box_faults(boxes, sizes):
    """Says which boxes cannot be trained on. A box has at most one fault.

    Args:
        boxes: (M, 4) float64 XYWH.
        sizes: (M, 2) width and height of the image, NaN where unknown (no box is outside then).
    Returns:
        dict from each of BOX_FAULTS to an (M,) bool mask.
    """
    x, y, w, h = boxes.T
    with np.errstate(invalid="ignore", over="ignore"):
        finite = np.isfinite(boxes).all(axis=1) & np.isfinite(x + w) & np.isfinite(y + h)
        negative = finite & ((w < 0) | (h < 0))
        # x + w == x: a side too small for its coordinate is zero once the box is written as two corners
        zero = finite & ~negative & ((x + w <= x) | (y + h <= y))
        inside = (x + w > 0) & (y + h > 0) & ~(x >= sizes[:, 0]) & ~(y >= sizes[:, 1])
    masks = (~finite, negative, zero, finite & ~negative & ~zero & ~inside)
    return dict(zip(BOX_FAULTS, masks))


def read_coco(path) -> CocoFile:
    """Reads an annotation file; the same unchanged file is parsed once a process.

    Raises:
        DatasetError: the file is missing, unreadable, or no JSON.
    """
    try:
        stat = os.stat(path)
    except OSError as error:
        raise DatasetError(f"Annotation file {path} cannot be opened ({error.strerror}); check the path.") from None
    return _read_coco(os.path.realpath(path), stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=4)
def _read_coco(path, mtime_ns, size) -> CocoFile:
    return CocoFile(_parse_json(path), path)


def _parse_json(path) -> Optional[Any]:
    collecting = gc.isenabled()
    gc.disable()  # it would look through millions of new lists again and again, for nothing
    try:
        with open(path, "rb") as file:
            return json.loads(file.read())
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(
            f"{path} is not readable as JSON ({type(error).__name__}: {printable(error)}); a COCO-format file is one "
            "JSON object with the lists images, annotations and categories."
        ) from None
    finally:
        if collecting:
            gc.enable()
