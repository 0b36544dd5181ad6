"""Pictures: detections beside ground truth, and the curves of a training run."""

import json
import logging
import math
import os
from typing import Any, Dict, List, Sequence, Tuple, Union

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog, detection_utils
from detectron2.structures import Boxes, BoxMode, Instances
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from PIL import Image, ImageDraw

from .drawing import FONT_SIZE, draw_boxes, load_font

__all__ = ["draw_comparison", "plot_training_curve", "read_metrics", "save_comparisons"]

logger = logging.getLogger(__name__)

MARGIN = 10


def draw_comparison(
    image_rgb: np.ndarray,
    ground_truth: Instances,
    detections: Instances,
    class_names: Sequence[str],
    score_thresh: float = 0.3,
    title: str = "",
) -> np.ndarray:
    """The image twice: with what is there on the left, with what was found on the right.

    Args:
        image_rgb: (H, W, 3) uint8.
        ground_truth: `gt_boxes`, `gt_classes`, optionally `gt_crowd` (n,) bool; boxes XYXY in pixels of the image.
        detections: `pred_boxes`, `scores`, `pred_classes`.
        class_names: K names.
        score_thresh: detections below it are left out.
        title: for example the file name.
    Returns:
        uint8 RGB picture of another size; small images are enlarged, large ones reduced.
    """
    detections = detections[detections.scores >= score_thresh]
    detections = detections[detections.scores.argsort(descending=True)]
    crowd = ground_truth.gt_crowd.tolist() if ground_truth.has("gt_crowd") else [False] * len(ground_truth)
    truth_labels = [
        class_names[c] + (" (crowd)" if is_crowd else "")
        for c, is_crowd in zip(ground_truth.gt_classes.tolist(), crowd)
    ]
    found_labels = [
        f"{class_names[c]} {s:.2f}" for c, s in zip(detections.pred_classes.tolist(), detections.scores.tolist())
    ]
    left = draw_boxes(image_rgb, ground_truth.gt_boxes, ground_truth.gt_classes, truth_labels)
    right = draw_boxes(image_rgb, detections.pred_boxes, detections.pred_classes, found_labels)
    captions = (
        f"Ground truth: {_count(len(ground_truth), 'object')}",
        f"Detections: {_count(len(detections), 'box', 'boxes')} with score of at least {score_thresh:.2f}",
    )
    return np.asarray(_side_by_side((left, right), captions, title))


def save_comparisons(
    dataset_name: str,
    results: Union[str, Sequence[Dict[str, Any]]],
    output_dir: str,
    count: int = 8,
    score_thresh: float = 0.3,
) -> List[str]:
    """Writes pictures of `count` images, spread evenly over the data set; returns their paths.

    Args:
        dataset_name: registered with Detectron2.
        results: the file coco_instances_results.json that the evaluator wrote, or its content.
        output_dir: is made.
        count: at most this many.
        score_thresh: detections below it are left out.
    """
    if isinstance(results, (str, os.PathLike)):
        with open(results) as f:
            results = json.load(f)
    metadata = MetadataCatalog.get(dataset_name)
    records = DatasetCatalog.get(dataset_name)
    picked = [records[i] for i in np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int)]
    by_image = {record["image_id"]: [] for record in picked}
    for result in results:
        if result["image_id"] in by_image:
            by_image[result["image_id"]].append(result)

    os.makedirs(output_dir, exist_ok=True)
    paths = []
    for record in picked:
        image = detection_utils.read_image(record["file_name"], format="RGB")
        picture = draw_comparison(
            image,
            _truth_of(record, image.shape[:2]),
            _detections_of(by_image[record["image_id"]], image.shape[:2], metadata),
            metadata.thing_classes,
            score_thresh,
            title=os.path.basename(record["file_name"]),
        )
        stem = os.path.splitext(os.path.basename(record["file_name"]))[0]
        paths.append(os.path.join(output_dir, f"{len(paths):02d}_{stem}.png"))
        Image.fromarray(picture).save(paths[-1])
    return paths


def read_metrics(metrics_json: str) -> Dict[str, List[Tuple[int, float]]]:
    """The series of a Detectron2 metrics file: name -> (iteration, value) in ascending order, finite values only.

    A resumed run appends to its file: where a series goes back, all older values from there on are dropped. A last line
    that is cut off is skipped.
    """
    series: Dict[str, List[Tuple[int, float]]] = {}
    with open(metrics_json) as f:
        for line in f:
            try:
                scalars = json.loads(line)
            except json.JSONDecodeError:
                continue
            iteration = scalars.pop("iteration", None)
            if iteration is None:
                continue
            if any(name in series and series[name][-1][0] >= iteration for name in scalars):
                series = {name: [p for p in points if p[0] < iteration] for name, points in series.items()}
                series = {name: points for name, points in series.items() if points}
            for name, value in scalars.items():
                if isinstance(value, (int, float)) and math.isfinite(value):
                    series.setdefault(name, []).append((iteration, value))
    return series


def plot_training_curve(metrics_json: str, output_png: str) -> bool:
    """Draws losses, learning rate and AP over the iterations; panels without data are left out.

    Args:
        metrics_json: Detectron2's metrics.json.
        output_png: picture to write.
    Returns:
        whether there was anything to draw.
    """
    series = read_metrics(metrics_json)
    losses = [x for x in series if x == "total_loss" or x.split("/")[-1].startswith("loss_")]
    panels = [
        ("Loss", sorted(losses, key=lambda x: (x != "total_loss", x)), "log"),
        ("Learning rate", [x for x in series if x == "lr"], "log"),
        ("Box AP", [x for x in series if _is_summary_ap(x)], "linear"),
    ]
    panels = [panel for panel in panels if panel[1]]
    if not panels:
        logger.warning(f"{metrics_json} holds no losses, learning rate or AP yet: no training curve")
        return False

    figure = Figure(figsize=(5.6 * len(panels), 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, names, scale) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels):
        _plot_panel(axes, title, {name: series[name] for name in names}, scale)
    os.makedirs(os.path.dirname(os.path.abspath(output_png)), exist_ok=True)
    figure.savefig(output_png)
    return True


def _plot_panel(axes, title, series, scale):
    for name, points in series.items():
        iterations, values = zip(*points)
        bold = name == "total_loss" or name.split("/")[-1] == "AP"
        marker = "o" if title == "Box AP" or len(points) < 3 else None
        axes.plot(iterations, values, label=name, linewidth=2.2 if bold else 1.3, marker=marker, markersize=3.5)
    positive = all(value > 0 for points in series.values() for _, value in points)
    axes.set_yscale(scale if positive else "linear")
    if axes.get_yscale() == "log":  # plain numbers at 1, 2 and 5
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda v, _: f"{v:g}" if f"{v:.0e}"[0] in "25" else ""))
    axes.set_title(title, fontsize=12)
    axes.set_xlabel("iteration")
    axes.set_xlim(left=0)
    axes.grid(True, which="both", color="0.92", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    if list(series) != ["lr"]:
        axes.legend(frameon=False, fontsize=9)
    if title == "Box AP":
        axes.set_ylim(bottom=0)


def _is_summary_ap(name) -> bool:
    parts = name.split("/")
    return len(parts) > 1 and parts[-2].startswith("bbox") and parts[-1] in ("AP", "AP50", "AP75")


def _truth_of(record, image_size) -> Instances:
    annotations = record.get("annotations", [])
    boxes = [BoxMode.convert(list(x["bbox"]), x["bbox_mode"], BoxMode.XYXY_ABS) for x in annotations]
    return Instances(
        tuple(image_size),
        gt_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        gt_classes=torch.tensor([x["category_id"] for x in annotations], dtype=torch.int64),
        gt_crowd=torch.tensor([bool(x.get("iscrowd", 0)) for x in annotations], dtype=torch.bool),
    )


def _detections_of(results, image_size, metadata) -> Instances:
    contiguous_id = getattr(metadata, "thing_dataset_id_to_contiguous_id", None)
    classes = [contiguous_id[x["category_id"]] if contiguous_id else x["category_id"] for x in results]
    boxes = torch.tensor([x["bbox"] for x in results], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Instances(
        tuple(image_size),
        pred_boxes=Boxes(boxes),
        scores=torch.tensor([x["score"] for x in results], dtype=torch.float32),
        pred_classes=torch.tensor(classes, dtype=torch.int64),
    )


def _side_by_side(panels, captions, title) -> Image.Image:
    width, height = panels[0].size
    top, bottom = FONT_SIZE + 2 * MARGIN, (FONT_SIZE + MARGIN if title else 0)
    canvas = Image.new("RGB", (2 * width + 3 * MARGIN, top + height + MARGIN + bottom), "white")
    draw = ImageDraw.Draw(canvas)
    for index, (panel, caption) in enumerate(zip(panels, captions)):
        x = MARGIN + index * (width + MARGIN)
        canvas.paste(panel, (x, top))
        draw.text((x, top / 2), caption, font=load_font(FONT_SIZE + 1, width, caption), fill="black", anchor="lm")
    if title:
        y = top + height + MARGIN + (bottom - MARGIN) / 2
        draw.text((MARGIN, y), title, font=load_font(FONT_SIZE - 2, canvas.width, title), fill="#555555", anchor="lm")
    return canvas


def _count(n, singular, plural=None) -> str:
    return f"{n} {singular if n == 1 else plural or singular + 's'}"
