"""The YOLOX authors' own package, 0.3.0, on the same images, boxes and machine, where it is installed:

    .venv/bin/python -m pip install --target FOLDER --no-deps --no-build-isolation yolox==0.3.0 loguru thop
    PYTHONPATH=FOLDER .venv/bin/python -m tools.benchmark --only yolox

Its items have "authors" in their names and do what its trainer, evaluator and loader do.
"""

import importlib.util
import os
import random

from tools.benchmark_items import CANDIDATES, autocast, item, random_image, random_instances
from tools.benchmark_yolox import NUM_BOXES, SAMPLES, SIDE, assignment_inputs, one_cv2_thread

import numpy as np
import torch
from torch import nn

NETWORKS = {"yolox_s": dict(width=0.5), "yolox_nano": dict(width=0.25, depthwise=True)}
DEPTH, NUM_CLASSES = 0.33, 80
NMS_THRESH = 0.65


def network(name, options):
    from yolox.models import YOLOPAFPN, YOLOX, YOLOXHead

    torch.manual_seed(0)
    model = YOLOX(YOLOPAFPN(DEPTH, **NETWORKS[name]), YOLOXHead(NUM_CLASSES, **NETWORKS[name]))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = 1e-3, 0.03
    model.head.initialize_biases(1e-2)
    return model.to(options.device)


def images(count, side, options):
    return torch.stack([random_image(side, side, seed) for seed in range(count)]).float().to(options.device)


def labels(count, side, boxes, options):
    """(N, 120, 5): class and centre-size box, zeros where there is none."""
    result = torch.zeros(count, 120, 5)
    for seed in range(count):
        instances = random_instances(side, side, boxes, seed)
        corners = instances.gt_boxes.tensor
        centres, sizes = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
        result[seed, :boxes] = torch.cat([instances.gt_classes[:, None], centres, sizes], 1)
    return result.to(options.device)


def _register_inference(name, side):
    @item(f"{name} inference, {side}x{side}, authors")
    def inference(options):
        from yolox.utils import fuse_model, postprocess

        model, inputs = network(name, options).train(), images(1, side, options)
        with torch.no_grad():
            for _ in range(3):  # gives batch norm statistics that fit the random weights
                model.backbone(inputs)
            model = fuse_model(model.eval())
            predictions = model(inputs)[0]
            scores = predictions[:, 4] * predictions[:, 5:].max(dim=1).values  # one class a cell, unlike ours
            threshold = scores.topk(CANDIDATES).values[-1].item()

        def run():
            with torch.no_grad(), autocast(options):
                postprocess(model(inputs), NUM_CLASSES, threshold, NMS_THRESH)

        return run


def _register_step(name, count, side):
    @item(f"{name} training step, {count}x3x{side}x{side}, 10 boxes each, authors")
    def step(options):
        model, inputs, targets = (
            network(name, options).train(),
            images(count, side, options),
            labels(count, side, 10, options),
        )
        norms = [m.weight for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)]
        biases = [p for key, p in model.named_parameters() if key.endswith("bias")]
        optimizer = torch.optim.SGD(norms, lr=1e-5, momentum=0.9, nesterov=True)
        optimizer.add_param_group({"params": weights, "weight_decay": 5e-4})
        optimizer.add_param_group({"params": biases})

        def run():
            with autocast(options):
                loss = model(inputs, targets)["total_loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return run


def _register_assignment(boxes):
    @item(f"yolox assignment and losses, 8 images of {SIDE}x{SIDE}, {boxes} boxes each, authors")
    def assignment(options):
        priors, (corners, cls_logits, obj_logits), _ = assignment_inputs(boxes, options.device)
        centres, sizes = (corners[..., :2] + corners[..., 2:]) / 2, corners[..., 2:] - corners[..., :2]
        outputs = torch.cat([centres, sizes, obj_logits[..., None], cls_logits], 2)
        grid, strides = priors.grid[None], priors.strides[None]
        head, targets = network("yolox_s", options).head.train(), labels(len(outputs), SIDE, boxes, options)
        inputs = images(len(outputs), SIDE, options)

        def run():
            args = [grid[..., 0]], [grid[..., 1]], [strides], targets, outputs, []
            head.get_losses(inputs, *args, dtype=torch.float32)

        return run


def _register_data(name, strong, cached=False):
    @item(f"yolox data, {SAMPLES} samples of {SIDE}x{SIDE}, one process, {name}, authors")
    def data(options):
        from yolox.data import COCODataset, MosaicDetection, TrainTransform

        if not hasattr(np, "float"):
            np.float = float  # which the package still uses
        folder = os.path.join(os.environ["DETECTRON2_DATASETS"], "coco")
        size = (SIDE, SIDE)
        dataset = COCODataset(folder, "instances_val2017.json", "val2017", size, preproc=TrainTransform(50))
        if cached:  # as its RAM cache holds them
            dataset.imgs = np.full((len(dataset), *size, 3), 114, dtype=np.uint8)
            for slot, index in zip(dataset.imgs, range(len(dataset))):
                image = dataset.load_resized_img(index)
                slot[: image.shape[0], : image.shape[1]] = image
        dataset = MosaicDetection(
            dataset, size, mosaic=strong, preproc=TrainTransform(120), enable_mixup=strong, mosaic_scale=(0.1, 2)
        )
        random.seed(0)

        def run():
            with one_cv2_thread():
                for _ in range(SAMPLES):
                    torch.from_numpy(dataset[(strong, random.randrange(len(dataset)))][0])

        return run


if importlib.util.find_spec("yolox"):
    _register_inference("yolox_s", 640)
    _register_inference("yolox_nano", 416)
    _register_step("yolox_nano", 8, 416)
    _register_step("yolox_s", 4, 640)
    for number in NUM_BOXES:
        if number <= 100:  # its labels hold 120
            _register_assignment(number)
    if "DETECTRON2_DATASETS" in os.environ:
        _register_data("mosaic and mixup", True)
        _register_data("mosaic and mixup, cached", True, cached=True)
        _register_data("plain", False)
        _register_data("plain, cached", False, cached=True)
