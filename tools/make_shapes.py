"""Draws a small COCO-format data set of shapes on textured backgrounds, to try a detector without a download.

python -m tools.make_shapes --output DIR [--train 400 --test 100 --size 256 --seed 0]

Circles, squares, triangles and stars, 24 to 110 pixels, turned at random, colours independent of the class. Boxes are
tight and computed from the outlines; no shape is hidden by more than 30 %. Every image is a function of (seed, split,
index) alone.
"""

import argparse
import json
import logging
import math
import pathlib
import shutil
from typing import Dict, List, NamedTuple, Tuple

import numpy as np
from PIL import Image, ImageDraw

__all__ = ["CLASSES", "make_shapes"]

logger = logging.getLogger(__name__)

CLASSES = ("circle", "square", "triangle", "star")
MIN_SIZE, MAX_SIZE = 24, 110  # longer side of a box, pixels
MAX_HIDDEN = 0.3  # share of a shape's area
MAX_SHAPES = 6  # an image
MIN_CONTRAST = 90  # distance of a colour from the background's mean, RGB 0..255
SUPERSAMPLING = 4
MARKER = "shapes.json"  # says that this tool made the directory, and how


class Shape(NamedTuple):
    class_index: int
    outline: np.ndarray  # (n, 2) x, y in pixels
    box: Tuple[float, float, float, float]  # XYXY


def make_shapes(
    output: str, num_train: int = 400, num_test: int = 100, size: int = 256, seed: int = 0
) -> Dict[str, str]:
    """Writes the data set; a directory that already holds this very data set is left as it is.

    Args:
        output: directory; must be empty, absent or made by this function.
        num_train, num_test: number of images.
        size: side of the square images in pixels, at least 128.
        seed: another seed gives other images.
    Returns:
        paths under `train_images`, `train_annotations`, `test_images`, `test_annotations`.
    """
    if size < 128:
        raise ValueError(f"size is {size}; shapes of up to {MAX_SIZE} pixels need images of at least 128")
    root = pathlib.Path(output)
    splits = {"train": num_train, "test": num_test}
    recipe = {"made_by": "tools.make_shapes", "version": 2, "size": size, "seed": seed, **splits}
    paths = {}
    for split in splits:
        paths[f"{split}_images"] = str(root / split)
        paths[f"{split}_annotations"] = str(root / "annotations" / f"{split}.json")
    if _clear(root, recipe):
        logger.info(f"{root} already holds these shapes")
        return paths

    for number, (split, num_images) in enumerate(splits.items()):
        _write_split(root, split, num_images, size, (seed, number))
    _write_marker(root, {**recipe, "complete": True})
    logger.info(f"Drew {num_train} training and {num_test} test images of {', '.join(CLASSES)} in {root}")
    return paths


def _clear(root: pathlib.Path, recipe: Dict) -> bool:
    """Whether the data set is already there; otherwise makes room for it, or refuses."""
    marker = root / MARKER
    made = json.loads(marker.read_text()) if marker.is_file() else {}
    if made.get("made_by") == recipe["made_by"]:
        if made == {**recipe, "complete": True}:
            return True
        for name in ("train", "test", "annotations"):
            shutil.rmtree(root / name, ignore_errors=True)
    elif root.exists() and any(root.iterdir()):
        raise FileExistsError(f"{root} is not empty and was not made by this tool; choose another --output")
    (root / "annotations").mkdir(parents=True)
    _write_marker(root, {**recipe, "complete": False})
    return False


def _write_marker(root, content):
    (root / MARKER).write_text(json.dumps(content, indent=2) + "\n")


def _write_split(root, split, num_images, size, key):
    (root / split).mkdir()
    images, annotations = [], []
    for index in range(num_images):
        picture, shapes = draw_image(np.random.default_rng((*key, index)), size)
        name = f"{index:05d}.jpg"
        Image.fromarray(picture).save(root / split / name, quality=95, subsampling=0)
        images.append({"id": index + 1, "file_name": name, "height": size, "width": size})
        for shape in shapes:
            x1, y1, x2, y2 = (round(v, 2) for v in shape.box)
            box = [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": shape.class_index + 1,
                    "bbox": box,
                    "area": round(_area(shape.outline), 2),
                    "iscrowd": 0,
                    "segmentation": [[round(float(v), 2) for v in shape.outline.flatten()]],
                }
            )
    content = {
        "info": {"description": f"drawn shapes, {split}"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in enumerate(CLASSES, start=1)],
    }
    (root / "annotations" / f"{split}.json").write_text(json.dumps(content))


def draw_image(rng: np.random.Generator, size: int) -> Tuple[np.ndarray, List[Shape]]:
    """One picture, uint8 (size, size, 3) RGB, and its shapes from back to front."""
    picture = _background(rng, size)
    mean = picture.mean(axis=(0, 1))
    shapes, full_areas, visible = [], [], []
    wanted = rng.integers(1, MAX_SHAPES + 1)
    for _ in range(4 * wanted):  # a shape that would hide too much is drawn anew
        shape = _random_shape(rng, size)
        window, alpha = _rasterise(shape)
        covered = np.zeros((size, size), dtype=np.float32)
        covered[window] = alpha
        still_visible = [v * (1 - covered) for v in visible]
        if any(v.sum() < (1 - MAX_HIDDEN) * area for v, area in zip(still_visible, full_areas)):
            continue
        paint = _colour(rng, mean) + _grain(rng, (*alpha.shape, 1))
        picture[window] += alpha[:, :, None] * (paint - picture[window])
        visible = [*still_visible, covered]
        shapes.append(shape)
        full_areas.append(alpha.sum())
        if len(shapes) == wanted:
            break
    return picture.clip(0, 255).round().astype(np.uint8), shapes


def _random_shape(rng, size) -> Shape:
    class_index = int(rng.integers(len(CLASSES)))
    outline = _outline(CLASSES[class_index], rng.uniform(0, 2 * math.pi))
    outline -= (outline.min(axis=0) + outline.max(axis=0)) / 2
    outline *= rng.uniform(MIN_SIZE, MAX_SIZE) / np.ptp(outline, axis=0).max()
    half = np.ptp(outline, axis=0) / 2
    outline += rng.uniform(half + 1, size - half - 1)  # wholly inside the image
    return Shape(class_index, outline, (*outline.min(axis=0).tolist(), *outline.max(axis=0).tolist()))


def _outline(name, turn) -> np.ndarray:
    corners = {"circle": 120, "square": 4, "triangle": 3, "star": 10}[name]
    angle = turn + np.arange(corners) * (2 * math.pi / corners)
    radius = np.where(np.arange(corners) % 2, 0.45, 1.0) if name == "star" else np.ones(corners)
    return np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1)


def _area(outline) -> float:
    x, y = outline.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _rasterise(shape):
    """The window of whole pixels around a shape, as two slices, and the shape's coverage of each, in [0, 1]."""
    x1, y1 = (math.floor(v) for v in shape.box[:2])
    x2, y2 = (math.ceil(v) for v in shape.box[2:])
    canvas = Image.new("L", ((x2 - x1) * SUPERSAMPLING, (y2 - y1) * SUPERSAMPLING))
    corners = (shape.outline - (x1, y1)) * SUPERSAMPLING - 0.5  # PIL's coordinates name pixel centres
    ImageDraw.Draw(canvas).polygon([tuple(p) for p in corners], fill=255)
    return np.s_[y1:y2, x1:x2], np.asarray(canvas.reduce(SUPERSAMPLING), dtype=np.float32) / 255


def _background(rng, size) -> np.ndarray:
    """A muted colour with clouds, stripes and grain; float32 (size, size, 3), about 0..255."""
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    picture = np.broadcast_to(rng.uniform(60, 195, 3).astype(np.float32), (size, size, 3)).copy()
    for cells, strength in ((4, 22), (16, 10)):
        coarse = rng.normal(0, strength, (cells, cells, 3)).astype(np.float32)
        for channel in range(3):
            clouds = Image.fromarray(coarse[:, :, channel]).resize((size, size), Image.BICUBIC)
            picture[:, :, channel] += np.asarray(clouds)
    angle, frequency, phase = rng.uniform(0, math.pi), rng.uniform(4, 30), rng.uniform(0, 2 * math.pi)
    wave = np.sin(2 * math.pi * frequency * (x * math.cos(angle) + y * math.sin(angle)) + phase)
    picture += rng.uniform(0, 14) * wave[:, :, None]
    return picture + _grain(rng, (size, size, 1))


def _grain(rng, shape) -> np.ndarray:
    return 6 * rng.standard_normal(shape, dtype=np.float32)


def _colour(rng, background_mean) -> np.ndarray:
    while True:
        colour = rng.uniform(0, 255, 3)
        if np.linalg.norm(colour - background_mean) > MIN_CONTRAST:
            return colour


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", required=True, help="directory to make")
    parser.add_argument("--train", type=int, default=400, help="number of training images")
    parser.add_argument("--test", type=int, default=100, help="number of test images")
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    paths = make_shapes(args.output, args.train, args.test, args.size, args.seed)
    for split in ("train", "test"):
        print(f"dataset.{split}.images={paths[f'{split}_images']}")
        print(f"dataset.{split}.annotations={paths[f'{split}_annotations']}")


if __name__ == "__main__":
    main()
