"""A generated COCO-format data set of drawn shapes, for every test that needs images on disk."""

import json
import os

import numpy as np
from PIL import Image, ImageDraw

# ids with gaps, out of order: what a class index must not depend on
CATEGORIES = ({"id": 7, "name": "triangle"}, {"id": 1, "name": "disc"}, {"id": 3, "name": "square"})
CLASS_NAMES = ["disc", "square", "triangle"]
SIZES = ((160, 120), (120, 160), (144, 144), (192, 128))


def write_toy_coco(directory, num_images=12, seed=0):
    """Writes `images/*.png` and `annotations.json` below `directory`; the same pixels and boxes for the same arguments.

    Every image has one to four shapes on noise, inside the image and at least 16 pixels wide; the last image has none,
    and the first has a crowd box as well.

    Returns:
        (images_dir, annotations_path) as strings.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    images_dir = os.path.join(str(directory), "images")
    os.makedirs(images_dir, exist_ok=True)
    images, annotations = [], []
    for number in range(num_images):
        width, height = SIZES[number % len(SIZES)]
        image = Image.fromarray(rng.integers(96, 160, (height, width, 3), dtype=np.uint8))
        draw = ImageDraw.Draw(image)
        file_name, image_id = f"toy_{number:03d}.png", 10 * number + 5
        num_shapes = 0 if number == num_images - 1 else int(rng.integers(1, 5))
        boxes = [_draw_shape(draw, rng, width, height) for _ in range(num_shapes)]
        if number == 0:
            boxes.append((1, [2, 2, 40, 30], 1))
        for category_id, bbox, iscrowd in boxes:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": bbox,
                    "area": bbox[2] * bbox[3],
                    "iscrowd": iscrowd,
                }
            )
        image.save(os.path.join(images_dir, file_name))
        images.append({"id": image_id, "file_name": file_name, "width": width, "height": height})
    path = os.path.join(str(directory), "annotations.json")
    with open(path, "w") as file:
        json.dump({"images": images, "annotations": annotations, "categories": list(CATEGORIES)}, file)
    return images_dir, path


def _draw_shape(draw, rng, width, height):
    """Draws one shape; returns (category id, XYWH box, iscrowd)."""
    category_id = int(rng.choice([c["id"] for c in CATEGORIES]))
    side = int(rng.integers(16, 64))
    x, y = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
    corners = [x, y, x + side - 1, y + side - 1]
    if category_id == 1:
        draw.ellipse(corners, fill=(220, 40, 40))
    elif category_id == 3:
        draw.rectangle(corners, fill=(40, 220, 40))
    else:
        draw.polygon([(x + side / 2, y), (x, y + side - 1), (x + side - 1, y + side - 1)], fill=(40, 40, 220))
    return category_id, [x, y, side, side], 0


def toy_overrides(toy_coco, output_dir):
    """Overrides that make configs/yolof/yolof_thin_shapes.py a network of seconds on the toy data set."""
    images, annotations = toy_coco
    return [
        f"dataset.train.images={images}",
        f"dataset.train.annotations={annotations}",
        f"dataset.test.images={images}",
        f"dataset.test.annotations={annotations}",
        f"train.output_dir={output_dir}",
        "train.device=cpu",
        "train.pictures=0",
        "train.log_period=1",
        "train.eval_period=0",
        "train.checkpointer.max_to_keep=10",
        "dataloader.train.total_batch_size=4",
        "dataloader.train.mapper.augmentations.0.short_edge_length=[96]",
        "dataloader.test.mapper.augmentations.0.short_edge_length=96",
        "model.backbone.stages.base_channels=8",
        "model.backbone.stem.out_channels=8",
        "model.head.encoder.in_channels=32",
        "model.head.encoder.channels=16",
        "model.head.encoder.block_mid_channels=8",
    ]
