"""Checks COCO-format data before anybody trains on it.

    python -m dense_d2.check_data --images DIR --annotations FILE [--decode] [--json]

Exit status: 0 without errors, 1 with errors, 2 where the check could not be made. `check_before_training` is the same
check inside the trainer.

Shapes: I images, M annotations.
"""

import argparse
import logging
import os
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from tqdm import tqdm

from .coco_file import MAX_EXAMPLES, CocoFile, DatasetError, box_faults, printable, read_coco
from .data.image_file import probe_image
from .data_report import DataReport, Finding
from .datasets import check_name, translates_classes

__all__ = ["DataReport", "Finding", "check_before_training", "check_data"]

logger = logging.getLogger(__name__)

NUM_THREADS = 16
CHUNK = 64
PARTLY_OUTSIDE_PIXELS = 0.5  # rounding of corners to whole pixels is no finding
SMALL_BOX_SIDE = 12  # YOLOF on C5 has no positive anchor for a smaller square, at the scale of the network input
DROPPED, STOPS = "dropped", "training stops"
SKIPPED = "skipped in training, up to dataloader.train.max_unreadable_images files"
IGNORED = "the entry is ignored"

# name -> (severity, what will happen); what the file reader notes while it reads
_FILE_PROBLEMS = {
    "not-coco-format": ("error", STOPS),
    "malformed-entry": ("error", IGNORED),
    "missing-key": ("error", IGNORED),
    "bad-value": ("error", IGNORED),
    "duplicate-image-id": ("error", "only the first entry is used"),
    "duplicate-annotation-id": ("error", "each is used"),
    "duplicate-category-id": ("error", "only the first entry is used"),
    "duplicate-category-name": ("warning", "kept as separate classes"),
    "unknown-image-id": ("error", DROPPED),
    "unknown-category-id": ("error", DROPPED),
    "image-size-missing": ("warning", "the size is read from the image file"),
    "text-image-id": ("warning", "kept; some evaluation libraries need integers"),
}


def check_data(images_dir, annotations, decode=False, progress=False) -> DataReport:
    """Checks an annotation file and the image files it names.

    Args:
        images_dir: directory of the image files.
        annotations: annotation file.
        decode: decode every image, instead of reading its header and its end.
        progress: show a progress bar, on a terminal.
    Raises:
        DatasetError: the annotation file is missing or no JSON.
    """
    coco = read_coco(annotations)
    findings = []
    for name, problem in coco.problems.items():
        severity, consequence = _FILE_PROBLEMS[name]
        findings.append(Finding(severity, name, problem.count, tuple(problem.examples), consequence))
    image_findings, sizes = _check_images(images_dir, coco, decode, progress)
    box_findings, usable = _check_boxes(coco, sizes[coco.image_index])
    findings += image_findings + box_findings
    classes = _count_classes(coco, usable)
    with_boxes = len(set(coco.image_index[usable & ~coco.crowd].tolist()))
    _add_shares(findings, coco, classes, usable, with_boxes)
    counts = {"images": len(coco.images), "images with boxes": with_boxes, "classes": len(coco.class_names)}
    counts.update({"annotations": len(coco.boxes), "usable boxes": int(usable.sum())})
    return DataReport(images_dir, annotations, counts, classes, findings)


def _check_images(images_dir, coco: CocoFile, decode, progress):
    """Returns findings, and (I + 1, 2) width and height to hold boxes against; NaN where unknown and at the end."""
    names = [image.file_name for image in coco.images]
    chunks = [names[i : i + CHUNK] for i in range(0, len(names), CHUNK)]
    facts = []
    bar = tqdm(total=len(names), unit="image", disable=None if progress else True)  # None: on a terminal only
    with ThreadPoolExecutor(NUM_THREADS) as pool, bar:
        for part in pool.map(lambda chunk: [probe_image(os.path.join(images_dir, n), decode) for n in chunk], chunks):
            facts += part
            bar.update(len(part))
    found = {"missing-image-file": [], "unreadable-image": [], "size-differs": [], "sixteen-bit-image": []}
    sizes = np.full((len(names) + 1, 2), np.nan)
    for i, (image, fact) in enumerate(zip(coco.images, facts)):
        given, real = (image.width, image.height), (fact.width, fact.height)
        if fact.error:
            example = image.file_name if fact.error == "missing" else f"{image.file_name}: {fact.error}"
            found["missing-image-file" if fact.error == "missing" else "unreadable-image"].append(example)
        elif image.width and given != real:
            turned = ", turned by its EXIF orientation" if fact.rotated else ""
            found["size-differs"].append(f"{image.file_name}: {real} in the file{turned}, {given} in the annotations")
        if fact.mode.startswith(("I", "F")):
            found["sixteen-bit-image"].append(f"{image.file_name}: mode {fact.mode}")
        if image.width or real[0]:
            sizes[i] = given if image.width else real
    found["duplicate-file"] = [f"{name}: {n} times" for name, n in Counter(names).items() if n > 1]
    return [
        *_findings("error", STOPS, found, "missing-image-file"),
        *_findings("error", SKIPPED, found, "unreadable-image", "size-differs"),
        *_findings("warning", "values above 255 are cut to 255", found, "sixteen-bit-image"),
        *_findings("warning", "each entry is trained on, with its own boxes only", found, "duplicate-file"),
    ], sizes


def _findings(severity, consequence, found, *names):
    return [
        Finding(severity, name, len(found[name]), tuple(map(printable, found[name][:MAX_EXAMPLES])), consequence)
        for name in names
        if found[name]
    ]


def _check_boxes(coco: CocoFile, sizes):
    """Args: sizes (M, 2). Returns findings, and an (M,) mask of the boxes that are left."""
    known = (coco.image_index >= 0) & (coco.classes >= 0)
    faults = box_faults(coco.boxes, sizes)
    faults["non-finite-box"] &= ~coco.malformed
    faults = {"malformed-box": coco.malformed, **faults}
    usable = known & ~np.logical_or.reduce(list(faults.values()))
    findings = [_box_finding("error", name, mask, DROPPED, coco) for name, mask in faults.items()]

    low, extent = coco.boxes[:, :2], coco.boxes[:, 2:]
    with np.errstate(invalid="ignore", over="ignore"):
        beyond = (low + extent > sizes + PARTLY_OUTSIDE_PIXELS).any(axis=1)
        partly = usable & (beyond | (low < -PARTLY_OUTSIDE_PIXELS).any(axis=1))
        corners = ((extent > low) & (extent <= sizes + PARTLY_OUTSIDE_PIXELS)).all(axis=1)
    findings.append(_box_finding("warning", "box-partly-outside-image", partly, "cut to the image", coco))
    if usable.any() and (corners & beyond)[usable].mean() > 0.5 and corners[usable].mean() > 0.9:
        does = f"{STOPS}: most boxes leave the image as x, y, width, height and fit it as x1, y1, x2, y2"
        findings.append(_box_finding("error", "boxes-look-like-xyxy", usable & corners & beyond, does, coco))
    return [f for f in findings if f.count], usable


def _box_finding(severity, name, mask, consequence, coco: CocoFile):
    rows = np.flatnonzero(mask)
    examples = [
        f"{coco.images[coco.image_index[i]].file_name if coco.image_index[i] >= 0 else 'no image'}, "
        f"annotation {coco.annotation_ids[i]}: "
        f"{'no list of four numbers' if coco.malformed[i] else coco.boxes[i].tolist()}"
        for i in rows[:MAX_EXAMPLES]
    ]
    return Finding(severity, name, len(rows), tuple(map(printable, examples)), consequence)


def _count_classes(coco: CocoFile, usable):
    rows = usable & ~coco.crowd
    boxes = np.bincount(coco.classes[rows], minlength=len(coco.class_names)).tolist()
    pairs = np.unique(np.stack([coco.classes[rows], coco.image_index[rows]]), axis=1)
    images = np.bincount(pairs[0], minlength=len(coco.class_names)).tolist()
    return list(zip(map(printable, coco.class_names), coco.category_ids, boxes, images))


def _add_shares(findings, coco: CocoFile, classes, usable, with_boxes):
    """Adds what concerns the file as a whole."""

    def add(severity, name, count, consequence):
        if count:
            findings.append(Finding(severity, name, count, (), consequence))

    add("error", "no-boxes", int(not any(row[2] for row in classes)), f"{STOPS}: there is nothing to learn")
    empty = [row[0] for row in classes if not row[2]]
    findings += _findings("warning", "the model cannot learn it", {"empty-class": empty}, "empty-class")
    ids = coco.category_ids
    if ids and ids != list(range(1, len(ids) + 1)):
        add("info", "category-ids-not-1-to-n", len(ids), f"from {ids[0]} to {ids[-1]}; class index = position by id")
    add("info", "crowd-box", int(coco.crowd.sum()), "not trained on, ignored in evaluation")
    without = len(coco.images) - with_boxes
    share = f"{100 * without / max(len(coco.images), 1):.1f} % of the images"
    does = "left out of training unless dataloader.train.filter_empty=false"
    add("info", "image-without-boxes", without, f"{share}; {does}")
    small = usable & (coco.boxes[:, 2] * coco.boxes[:, 3] < SMALL_BOX_SIDE**2)
    share = f"{100 * small.sum() / max(len(coco.boxes), 1):.1f} % of the boxes"
    does = f"less area than {SMALL_BOX_SIDE}x{SMALL_BOX_SIDE} pixels before resizing: hard for large strides"
    add("info", "small-box", int(small.sum()), f"{share}; {does}")


UNSCORABLE = ("malformed-entry", "missing-key", "bad-value", "malformed-box")
"""What an evaluation library cannot read: found before training, not at its end."""


def check_before_training(cfg, splits=("train", "test")):
    """Checks the data that a run will use, on the main process, and stops every process if training would be in
    vain.

    Missing image files, an unusable annotation file, no box, boxes in the wrong format, more broken images than the
    loader tolerates (none in a test set), or a class count other than the model's stop the run. The rest is logged.

    Args:
        cfg: LazyConfig, or a CfgNode with DATASETS. `train.check_data=false` skips the check.
        splits: which of "train" and "test" to check.
    Raises:
        DatasetError: on every process.
    """
    if not cfg.get("train", {}).get("check_data", True):
        return
    verdict = ""
    if comm.is_main_process():
        try:
            _check_splits(cfg, splits)
        except DatasetError as error:
            verdict = str(error)
        except Exception as error:  # the other processes wait for the verdict below
            logger.debug("data check", exc_info=True)
            verdict = f"{type(error).__name__}: {error}"
    verdict = comm.all_gather(verdict)[0]
    if verdict:
        raise DatasetError(verdict)


def _check_splits(cfg, splits):
    for split in splits:
        if "DATASETS" in cfg:
            names, tolerated, num_classes = cfg.DATASETS[split.upper()], 0, None
        else:
            names = cfg.dataset[split].name
            loader = cfg.get("dataloader", {}).get(split, {})
            tolerated = loader.get("max_unreadable_images", 10) if split == "train" else 0
            translated = split == "test" and translates_classes(cfg)
            num_classes = None if translated else cfg.model.get("num_classes", None)
        for name in [names] if isinstance(names, str) else names:
            _check_registered(name, split, tolerated, num_classes)


def _check_registered(name, split, tolerated, num_classes):
    check_name(name)
    metadata = MetadataCatalog.get(name)
    if metadata.get("evaluator_type") != "coco" or not metadata.get("json_file"):
        logger.info(f"{name} is not in COCO format: its data is not checked")
        return
    logger.info(f"Checking the {split} data {name} (train.check_data=false skips this)")
    report = check_data(metadata.image_root, metadata.json_file, progress=True)
    logger.log(logging.WARNING if report.errors else logging.INFO, "\n" + report.table)
    advice = (
        f"`python -m dense_d2.check_data --images {metadata.image_root} --annotations {metadata.json_file}` lists them."
    )
    broken = [f for f in report.findings if f.consequence == SKIPPED]
    stops = [f for f in report.findings if f.consequence.startswith(STOPS)]
    if split == "test":
        stops = [f for f in stops if f.name != "no-boxes"] + [f for f in report.findings if f.name in UNSCORABLE]
    if sum(f.count for f in broken) > tolerated:
        stops += broken
    if stops:
        what = "; ".join(f"{f.name}: {f.count} ({', '.join(f.examples[:3]) or f.consequence})" for f in stops)
        raise DatasetError(f"The {split} data {name} cannot be used. {what}. {advice}")
    found = report.counts["classes"]
    if num_classes is not None and found != num_classes:
        raise DatasetError(
            f"The {split} data {name} has {found} classes and the model {num_classes}; give "
            f"dataset.{split}.images and .annotations of data with the model's classes."
        )


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m dense_d2.check_data", description=__doc__.split("\n")[0])
    parser.add_argument("--images", required=True, metavar="DIR", help="directory of the image files")
    parser.add_argument("--annotations", required=True, metavar="FILE", help="COCO-format annotation file")
    parser.add_argument(
        "--decode", action="store_true", help="decode every image: slow, finds damage in the middle too"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    args = parser.parse_args(argv)
    if not os.path.isdir(args.images):
        parser.error(f"there is no directory {args.images}")
    try:
        report = check_data(args.images, args.annotations, decode=args.decode, progress=True)
    except DatasetError as error:
        parser.error(str(error))
    sys.stdout.write((report.to_json() if args.json else report.table) + "\n")
    return 1 if report.errors else 0


if __name__ == "__main__":
    sys.exit(main())
