"""Pictures of what a detector with ASFF fuses, for any image and checkpoint.

python -m tools.visualize_fusion --config-file configs/asff/asff_darknet53_asff.py --weights FILE
    --input IMAGE [IMAGE ...] --output DIR [--threshold 0.5] [key=value ...]

Every image gets a folder with `fusion.png`: on the left the detections, each with the level that made it where the detector
knows; on the right, a row for every fused level, the weights of the maps that come from each level and the activation of
the fused map. The same maps at the size of the image: `level_L_weight_N.png` (weight at level L of the map from level N) and
`fused_feature_level_L.png`. Blue is the least and red the most, of all weights of a level together, and of each activation
by itself.

Source: ASFF, Figures 3 and 4, whose numbers these are: level 1 is the coarsest. The activation is the sum over the channels
in front of the level's last convolution.

Shapes: L fused levels, coarse first; H x W pixels of an image as it lies in its file.
"""

import argparse
import os
import sys
from typing import NamedTuple

import asff_d2  # noqa: F401  (registration)
from asff_d2.fusion import ASFFNeck
from dense_d2.checkpoint import DenseCheckpointer
from dense_d2.config import load_config
from dense_d2.data.mapper import read_image
from dense_d2.drawing import colour_of, draw_boxes, load_font
from dense_d2.errors import UserError

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode, instantiate
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from PIL import Image, ImageDraw

__all__ = ["FusionView", "draw_fusion", "normalise", "restore", "save_fusion", "view_fusion"]

HEAT_SHARE = 0.4  # of the colours in an overlay; the rest is the image
TILE = 280  # longer side of a map in the figure, pixels
CAPTION = 22  # height of a line of text in the figure, pixels
GAP = 10  # between the tiles, pixels


class FusionView(NamedTuple):
    """What one image looks like inside the neck."""

    detections: Instances  # boxes in pixels of the image
    levels: tuple  # for each detection the number of the level that made it, 0: not a fused one; None: unknown
    strides: tuple  # L
    weights: tuple  # L float32 arrays (L, H, W); they sum to 1 in each pixel
    activations: tuple  # L float32 arrays (H, W)


@torch.no_grad()
def view_fusion(model, sample) -> FusionView:
    """
    Args:
        model: dense detector in eval mode whose backbone is an `ASFFNeck` with fusion "asff".
        sample: dict of a test mapper: `image` (C, h, w), `height` and `width` of the image in its file.
    """
    neck = fusion_neck(model)
    images = model.preprocess_image([sample])
    outputs, weights, fused = neck.fuse(neck.bottom_up(images.tensor), return_weights=True)
    features = [outputs[name] for name in model.head_in_features]
    result = model.forward_inference(images, features, model.head(features))[0]

    names = list(neck.in_features)  # coarse first
    sizes = images.tensor.shape[-2:], sample["image"].shape[-2:], (sample["height"], sample["width"])
    strides = neck.output_shape()
    return FusionView(
        model.to_original_image(result, sample).to("cpu"),
        _levels_of(result, list(model.head_in_features), names),
        tuple(strides[name].stride for name in names),
        tuple(restore(weights[name][0].float().cpu().numpy(), *sizes) for name in names),
        tuple(restore(fused[name].float().sum(dim=1).cpu().numpy(), *sizes)[0] for name in names),
    )


def fusion_neck(model) -> ASFFNeck:
    neck = getattr(model, "backbone", None)
    if not isinstance(neck, ASFFNeck):
        raise UserError(f"{type(model).__name__}'s backbone is {type(neck).__name__}, and only ASFFNeck fuses levels.")
    if any(level.fusion != "asff" for level in neck.levels):
        raise UserError(
            f"model.backbone.fusion={neck.levels[0].fusion} has no weights to look at; only fusion=asff has. Use another "
            "config and weights trained with it."
        )
    return neck


def _levels_of(result, head_names, names):
    if not result.has("pred_levels"):
        return None
    numbers = {name: number for number, name in enumerate(names, start=1)}
    return tuple(numbers.get(head_names[index], 0) for index in result.pred_levels.tolist())


def restore(maps, padded_size, input_size, image_size):
    """Maps of the network, laid over the image in its file: without the padding, bilinear.

    Args:
        maps: (n, h, w) float32.
        padded_size: (height, width) of the network input, which the maps cover.
        input_size: (height, width) of its upper left part that is the image, stretched to that.
        image_size: (H, W).
    Returns:
        (n, H, W) float32.
    """
    restored = []
    for one in maps:
        pixels = cv2.resize(one, tuple(padded_size)[::-1], interpolation=cv2.INTER_LINEAR)
        pixels = pixels[: input_size[0], : input_size[1]]
        restored.append(cv2.resize(pixels, tuple(image_size)[::-1], interpolation=cv2.INTER_LINEAR))
    return np.stack(restored)


def normalise(maps):
    """From 0, the least of all values, to 1, the greatest; 0 where they are all equal."""
    low, high = maps.min(), maps.max()
    return (maps - low) / (high - low) if high > low else np.zeros_like(maps)


def overlay(image_rgb, heat):
    """(H, W, 3) uint8 and (H, W) in 0..1 -> (H, W, 3) uint8."""
    colours = cv2.applyColorMap((255 * heat).round().astype(np.uint8), cv2.COLORMAP_JET)[:, :, ::-1]
    return (HEAT_SHARE * colours + (1 - HEAT_SHARE) * image_rgb).round().astype(np.uint8)


def draw_fusion(image_rgb, view, class_names, threshold=0.5):
    """
    Args:
        image_rgb: (H, W, 3) uint8.
        view: FusionView.
        class_names: K names.
        threshold: detections that score less are left out.
    Returns:
        the figure (H', W', 3) uint8, and its maps by the name of their file without ending: (H, W, 3) uint8.
    """
    maps = {}
    for level, (weights, activation) in enumerate(zip(view.weights, view.activations), start=1):
        for source, heat in enumerate(normalise(weights), start=1):
            maps[f"level_{level}_weight_{source}"] = overlay(image_rgb, heat)
        maps[f"fused_feature_level_{level}"] = overlay(image_rgb, normalise(activation))
    return _compose(image_rgb, view, class_names, threshold, maps), maps


def _compose(image_rgb, view, class_names, threshold, maps):
    height, width = image_rgb.shape[:2]
    tile = tuple(max(1, TILE * side // max(height, width)) for side in (width, height))
    row_height = tile[1] + CAPTION
    left = _draw_detections(image_rgb, view, class_names, threshold, len(view.strides) * row_height - CAPTION)
    first = left.width + 3 * GAP
    canvas_size = first + len(view.strides) * (tile[0] + GAP) + tile[0] + GAP, len(view.strides) * row_height + GAP
    canvas = Image.new("RGB", canvas_size, "white")
    canvas.paste(left, (GAP, CAPTION))
    count = int((view.detections.scores >= threshold).sum())
    caption = f"Detections with a score of at least {threshold:.2f}: {count}"
    if view.levels is not None:
        caption += "; L and colour: the level of each"
    _write(ImageDraw.Draw(canvas), (GAP, 0), caption, left.width)
    for level in range(1, len(view.strides) + 1):
        _draw_row(canvas, view, level, maps, (first, (level - 1) * row_height), tile)
    return np.asarray(canvas)


def _draw_row(canvas, view, level, maps, corner, tile):
    """The weights and the activation of a level, side by side, with captions above. `tile`: (width, height)."""
    draw = ImageDraw.Draw(canvas)
    columns = {f"level_{level}_weight_{n}": f"weight of {n}" for n in range(1, len(view.strides) + 1)}
    columns[f"level_{level}_weight_1"] = f"Level {level}, stride {view.strides[level - 1]}: weight of 1"
    columns[f"fused_feature_level_{level}"] = "fused"
    x, y = corner
    if view.levels is not None:
        bar = (x - GAP, y + CAPTION, x - GAP // 2, y + CAPTION + tile[1] - 1)
        draw.rectangle(bar, fill=colour_of(level))
    for name, caption in columns.items():
        canvas.paste(Image.fromarray(maps[name]).resize(tile, Image.BICUBIC), (x, y + CAPTION))
        _write(draw, (x, y), caption, tile[0])
        x += tile[0] + GAP


def _draw_detections(image_rgb, view, class_names, threshold, panel_height):
    """The image `panel_height` pixels high; boxes have the colour of their level, or of their class."""
    scores = view.detections.scores
    order = [i for i in scores.argsort(descending=True).tolist() if scores[i] >= threshold]
    found = view.detections[order]
    labels = [f"{class_names[c]} {s:.2f}" for c, s in zip(found.pred_classes.tolist(), found.scores.tolist())]
    colours = found.pred_classes
    if view.levels is not None:
        colours = torch.tensor([view.levels[i] for i in order], dtype=torch.int64)
        labels = [f"{label} L{level or '?'}" for label, level in zip(labels, colours.tolist())]
    height, width = image_rgb.shape[:2]
    return draw_boxes(image_rgb, found.pred_boxes, colours, labels, round(panel_height * max(1, width / height)))


def _write(draw, corner, text, width):
    font = load_font(CAPTION - 8, width, text)
    draw.text((corner[0], corner[1] + CAPTION / 2), text, font=font, fill="black", anchor="lm")


def save_fusion(folder, image_rgb, view, class_names, threshold=0.5):
    """Writes the figure and its maps as PNG files; arguments as for `draw_fusion`. Returns the path of the figure."""
    figure, maps = draw_fusion(image_rgb, view, class_names, threshold)
    os.makedirs(folder, exist_ok=True)
    for name, picture in {"fusion": figure, **maps}.items():
        Image.fromarray(picture).save(os.path.join(folder, f"{name}.png"))
    return os.path.join(folder, "fusion.png")


def load_detector(config_file, weights, overrides=()):
    """Returns the model in eval mode, the row's test mapper, and the class names: of the checkpoint, else of the data."""
    cfg = load_config(config_file, overrides)
    if isinstance(cfg, CfgNode):
        raise UserError(f"{config_file} is a yacs file; give the .py row of the same model, or a run's config.yaml.")
    model = instantiate(cfg.model).to(cfg.train.device).eval()
    fusion_neck(model)  # before any weights are read
    rest = DenseCheckpointer(model).load(weights, whole=True)
    names = rest.get("meta", {}).get("class_names") or getattr(
        MetadataCatalog.get(cfg.dataset.test.name), "thing_classes", ()
    )
    if len(names) != cfg.model.num_classes:
        names = [f"class {index}" for index in range(cfg.model.num_classes)]
    return model, instantiate(cfg.dataloader.test.mapper), list(names)


def run(args):
    """Returns the paths of the figures."""
    model, mapper, class_names = load_detector(args.config_file, args.weights, args.opts)
    paths = []
    for number, file_name in enumerate(args.input):
        record = {"file_name": file_name}
        image_rgb = read_image(record, "RGB")
        stem = os.path.splitext(os.path.basename(file_name))[0]
        folder = os.path.join(args.output, f"{number:02d}_{stem}")
        view = view_fusion(model, mapper(record))
        paths.append(save_fusion(folder, image_rgb, view, class_names, args.threshold))
    return paths


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--weights", required=True, help="checkpoint, in any format that train_net.py takes")
    parser.add_argument("--input", required=True, nargs="+", help="image files")
    parser.add_argument("--output", required=True, help="folder")
    parser.add_argument("--threshold", type=float, default=0.5, help="lowest score of a detection drawn, default 0.5")
    parser.add_argument("opts", nargs="*", help="overrides, key=value")
    return parser.parse_args(argv)


def main(argv=None):
    for path in run(parse_arguments(argv)):
        print(path)


if __name__ == "__main__":
    try:
        main()
    except (UserError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
