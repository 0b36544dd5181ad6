"""Datasets by name or by file: COCO-format data given in the config is registered with Detectron2's catalogs.

    dataset.train.images=DIR dataset.train.annotations=FILE dataset.test.images=DIR dataset.test.annotations=FILE

The class names and `model.num_classes` then come from the file; with `dataloader.evaluator.coco_classes` a test file has other
classes than the model and leaves `num_classes` alone. Records are Detectron2 dataset dicts.
"""

import contextlib
import difflib
import hashlib
import json
import logging
import os
from typing import Dict, List

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from omegaconf import OmegaConf

from .coco_file import BOX_FAULTS, CocoFile, DatasetError, box_faults, printable, read_coco

__all__ = [
    "DatasetError",
    "check_name",
    "drop_bad_boxes",
    "load_records",
    "register_coco",
    "resolve_datasets",
    "to_xywh",
    "translates_classes",
]

logger = logging.getLogger(__name__)

MAX_NAMED_IMAGES = 10


def resolve_datasets(cfg):
    """Registers the files named in `cfg.dataset.{train,test}` and writes dataset names and the class count into
    `cfg`.

    A split with files gets its `name` replaced, and `cfg.model.num_classes` follows the files. Registered names leave
    it alone; `check_before_training` compares. So does a test file whose evaluator translates the model's COCO classes.
    Calling it again changes nothing.

    Args:
        cfg: a LazyConfig; without a section `dataset` it is left alone.
    Returns:
        cfg.
    Raises:
        DatasetError: a file is missing or unusable, or the two files disagree in their classes.
    """
    sections = {split: cfg.dataset[split] for split in ("train", "test") if split in cfg.get("dataset", {})}
    translated = translates_classes(cfg)
    classes: Dict[str, List[str]] = {}
    for split, section in sections.items():
        images, annotations = section.get("images") or "", section.get("annotations") or ""
        if not images and not annotations:
            continue
        if not (images and annotations):
            given, other = ("images", "annotations") if images else ("annotations", "images")
            raise DatasetError(
                f"dataset.{split}.{given}={images or annotations} is given without dataset.{split}.{other}; give both."
            )
        section.name = register_coco(images, annotations, setting=f"dataset.{split}")
        if split == "train" or not translated:
            classes[split] = MetadataCatalog.get(section.name).thing_classes
    if len(classes) == 2 and classes["train"] != classes["test"]:
        raise DatasetError(_disagreement(classes["train"], classes["test"]))
    if classes and "num_classes" in cfg.get("model", {}):
        num_classes = len(next(iter(classes.values())))
        if cfg.model.num_classes != num_classes:
            logger.info(f"model.num_classes: {cfg.model.num_classes} -> {num_classes}, from the data")
            cfg.model.num_classes = num_classes
    return cfg


def _disagreement(train, test):
    """Says how two ordered class lists differ."""
    only = [
        f"only in {split}: {', '.join(names)}"
        for split, names in (
            ("train", [c for c in train if c not in test]),
            ("test", [c for c in test if c not in train]),
        )
        if names
    ]
    how = "; ".join(only) or f"the order by id differs: {', '.join(train)} against {', '.join(test)}"
    return (
        f"The training file has {len(train)} classes and the test file {len(test)}, and the lists differ: {how}. "
        "Give both files the same categories (same names in the order of their ids)."
    )


def register_coco(images, annotations, setting="dataset") -> str:
    """Registers a COCO-format file under a readable name that is unique to the two paths; once a process.

    Args:
        images: directory of the image files.
        annotations: annotation file.
        setting: what to call the two settings in an error.
    Returns:
        the name in DatasetCatalog and MetadataCatalog.
    """
    images, annotations = (os.path.realpath(os.path.expanduser(path)) for path in (images, annotations))
    for key, path, exists in (
        ("images", images, os.path.isdir(images)),
        ("annotations", annotations, os.path.isfile(annotations)),
    ):
        if not exists:
            kind = "directory" if key == "images" else "file"
            raise DatasetError(f"{setting}.{key}: there is no {kind} {path}; check the path.")
    coco = read_coco(annotations)
    if not coco.class_names or not coco.images:
        missing = "categories" if not coco.class_names else "images"
        raise DatasetError(
            f"{annotations} has no usable {missing}; `python -m dense_d2.check_data --images {images} --annotations "
            f"{annotations}` says what is wrong with it."
        )
    digest = hashlib.sha1(f"{images}\n{annotations}".encode(errors="surrogatepass")).hexdigest()[:8]
    name = f"{os.path.splitext(os.path.basename(annotations))[0]}-{digest}"
    metadata = {
        "thing_classes": coco.class_names,
        "thing_dataset_id_to_contiguous_id": {key: index for index, key in enumerate(coco.category_ids)},
        "json_file": annotations,
        "image_root": images,
        "evaluator_type": "coco",
    }
    if name in DatasetCatalog and MetadataCatalog.get(name).as_dict() != {"name": name, **metadata}:
        DatasetCatalog.remove(name)  # the file has changed since
        MetadataCatalog.remove(name)
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, lambda: _to_records(read_coco(annotations), images))
        MetadataCatalog.get(name).set(**metadata)
    return name


def _to_records(coco: CocoFile, images):
    """Detectron2 dataset dicts of the whole file; what is malformed is NaN or -1, for `drop_bad_boxes` to find."""
    records = []
    for image in coco.images:
        record = {"file_name": os.path.join(images, image.file_name), "image_id": image.id, "annotations": []}
        if image.width:
            record.update(height=image.height, width=image.width)
        records.append(record)
    rows = zip(coco.image_index.tolist(), coco.boxes.tolist(), coco.classes.tolist(), coco.crowd.tolist())
    for image_index, box, category, crowd in rows:
        if image_index >= 0:
            records[image_index]["annotations"].append(
                {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": category, "iscrowd": int(crowd)}
            )
    return records


def translates_classes(cfg):
    """Whether the evaluator turns the model's classes, COCO's 80, into those of a test file that has others."""
    return bool(OmegaConf.select(cfg, "dataloader.evaluator.coco_classes"))


def check_name(name):
    """Checks that a dataset is registered and that its files are on disk.

    Raises:
        DatasetError: with the nearest registered names, or with the missing path.
    """
    if name not in DatasetCatalog:
        near = difflib.get_close_matches(name, DatasetCatalog.list(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "register it, or give images and annotations instead"
        raise DatasetError(f"Dataset {name!r} is not registered; {hint}")
    metadata = MetadataCatalog.get(name)
    for key in ("json_file", "image_root"):
        path = metadata.get(key)
        if path and "://" not in path and not os.path.exists(path):
            root = os.environ.get("DETECTRON2_DATASETS", "datasets (unset: its default)")
            raise DatasetError(
                f"Dataset {name!r} needs {os.path.abspath(path)}, which does not exist. Detectron2's own names are "
                f"looked up below DETECTRON2_DATASETS={root}: set it to the folder that holds coco/, or give "
                "dataset.{train,test}.images and .annotations."
            )


def load_records(name, keep_masks=False) -> List[dict]:
    """The records of a registered dataset without the boxes that nobody can train on. Args: see `drop_bad_boxes`.

    Raises:
        DatasetError: the dataset is not registered, its files are missing, or it has no image.
    """
    check_name(name)
    records = DatasetCatalog.get(name)
    if keep_masks and not any("segmentation" in a for record in records for a in record.get("annotations", ())):
        _add_masks(records, MetadataCatalog.get(name).get("json_file"))
    records = drop_bad_boxes(records, name, keep_masks)
    if not records:
        raise DatasetError(f"Dataset {name!r} has no image.")
    return records


def _add_masks(records, json_file):
    """Gives the records of `register_coco`, which have boxes only, the masks of their file: by image and box."""
    masks = {}
    with open(json_file) as file:
        for entry in json.load(file)["annotations"]:
            with contextlib.suppress(TypeError, KeyError):  # malformed entries have no record either
                masks[(entry["image_id"], *entry["bbox"])] = entry["segmentation"]
    for record in records:
        for annotation in record["annotations"]:
            annotation["segmentation"] = masks.get((record["image_id"], *annotation["bbox"]))


def drop_bad_boxes(records, name="the dataset", keep_masks=False):
    """Drops boxes that are not finite, have a side <= 0, lie outside their image, or belong to no known class.

    Keypoints are left out too, and masks unless wanted: only copy-paste uses them, and they are most of the memory. One
    warning says what was dropped.

    Args:
        records: Detectron2 dataset dicts; not changed.
        name: of the dataset: for the message, and to know the classes.
        keep_masks: keep `segmentation`.
    Returns:
        new records.
    """
    num_classes = len((MetadataCatalog.get(name).get("thing_classes") if name in MetadataCatalog else None) or ())
    annotations = [(i, a) for i, record in enumerate(records) for a in record.get("annotations", ())]
    boxes = np.array([to_xywh(a["bbox"], a["bbox_mode"]) for _, a in annotations], dtype=np.float64).reshape(-1, 4)
    sizes = np.array([(r.get("width", np.nan), r.get("height", np.nan)) for r in records] + [(0, 0)], dtype=np.float64)
    owners = np.array([i for i, _ in annotations], dtype=np.int64)
    classes = np.array([a["category_id"] for _, a in annotations], dtype=np.int64)
    unknown = (classes < 0) | (classes >= (num_classes or np.inf))
    faults = box_faults(boxes, sizes[owners])
    bad = np.logical_or.reduce([unknown, *faults.values()])

    left_out = ("keypoints",) if keep_masks else ("segmentation", "keypoints")
    cleaned = [{**r, "annotations": []} if "annotations" in r else dict(r) for r in records]
    for (owner, annotation), drop in zip(annotations, bad.tolist()):
        if not drop:
            kept = {k: v for k, v in annotation.items() if k not in left_out}
            cleaned[owner]["annotations"].append(kept)
    if bad.any():
        counts = {fault: int((faults[fault] & ~unknown).sum()) for fault in BOX_FAULTS}
        counts["unknown-category-id"] = int(unknown.sum())
        images = [os.path.basename(records[i]["file_name"]) for i in dict.fromkeys(owners[bad].tolist())]
        more = f" and {len(images) - MAX_NAMED_IMAGES} more" if len(images) > MAX_NAMED_IMAGES else ""
        logger.warning(
            f"{name}: dropped {int(bad.sum())} of {len(annotations)} boxes "
            f"({', '.join(f'{n} {fault}' for fault, n in counts.items() if n)}) in {len(images)} images: "
            f"{', '.join(printable(image) for image in images[:MAX_NAMED_IMAGES])}{more}"
        )
    return cleaned


def to_xywh(box, mode):
    """Args: box of four numbers, mode a BoxMode. Returns x, y, width, height."""
    return box if mode == BoxMode.XYWH_ABS else BoxMode.convert(list(box), mode, BoxMode.XYWH_ABS)
