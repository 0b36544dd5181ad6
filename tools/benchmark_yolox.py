"""YOLOX's items of the benchmark: inference, training step and its stages, assignment, data."""

import contextlib
import os
import tempfile

from dense_d2.config import load_config
from tools.benchmark_items import (
    Stages,
    autocast,
    build,
    inference,
    item,
    random_image,
    random_instances,
    ready,
    training_step,
)
from yolox_d2.head import HeadOutputs

import cv2
import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode, ImageList

S, NANO = "configs/yolox/yolox_s.py", "configs/yolox/yolox_nano.py"
NUM_IMAGES, SAMPLES = 32, 16
SIDE = 640  # of the images of assignment and data
NUM_BOXES = (1, 10, 100, 500)


def _register_inference(name, path, side):
    for suffix, settings in {
        "": {},
        ", norms unfused, contiguous": {"plain": True},
        ", bfloat16": {"dtype": torch.bfloat16},
    }.items():
        item(f"{name} inference, {side}x{side}{suffix}")(
            lambda options, settings=settings: inference(path, options, height=side, width=side, **settings)
        )


_register_inference("yolox_s", S, 640)
_register_inference("yolox_nano", NANO, 416)


@item("yolox_nano training step, 8x3x416x416, 10 boxes each")
def nano_step(options):
    return training_step(NANO, options, images=8, height=416, width=416, boxes=10)


@item("yolox_s training step, 4x3x640x640, 10 boxes each")
def s_step(options):
    return training_step(S, options, images=4, height=640, width=640, boxes=10)


@item("yolox_nano step in stages, 8x3x416x416, 10 boxes each")
def nano_stages(options):
    """The same step, with the host waiting after each stage; "data" is a batch of the training pipeline in this process."""
    cfg, model = build(NANO, options)
    model.train()
    cfg.optimizer.params.model, cfg.optimizer.lr = model, 1e-5
    optimizer = instantiate(cfg.optimizer)
    samples = data_samples(strong=True)
    batch = [
        {"image": random_image(416, 416, seed), "instances": random_instances(416, 416, 10, seed)} for seed in range(8)
    ]
    stages, assigner = Stages(options), model.assigner

    def timed_assigner(*args):
        stages.stop("forward")
        assignment = assigner(*args)
        stages.stop("assignment")
        return assignment

    model.assigner = timed_assigner

    def run():
        stages.start()
        for _ in batch:
            next(samples)
        stages.stop("data")
        optimizer.zero_grad()
        with autocast(options):
            total = sum(model(batch).values())
        stages.stop("loss")
        total.backward()
        stages.stop("backward")
        optimizer.step()
        stages.stop("optimizer")
        return stages.seconds

    return run


@item("yolox_s inference in stages, 640x640")
def inference_stages(options):
    model, inputs = ready(S, options, 640, 640)
    stages, suppress = Stages(options), model._suppress

    def timed_suppress(*args):
        stages.stop("decode")
        keep = suppress(*args)
        stages.stop("NMS")
        return keep

    model._suppress = timed_suppress

    def run():
        with torch.inference_mode(), autocast(options):
            stages.start()
            predicted = model.predict(inputs)
            stages.stop("forward")
            for result in model.forward_inference(*predicted):
                model.to_original_image(result, inputs[0])
            stages.stop("rescale")
        return stages.seconds

    return run


def _register_assignment(boxes):
    where = f"8 images of 640x640, {boxes} boxes each"

    @item(f"yolox assignment and losses, {where}")
    def assignment_and_losses(options):
        """All that a training step does between the head and the backward pass."""
        model = build(S, options)[1].train()
        priors, (pred_boxes, cls_logits, obj_logits), _ = assignment_inputs(boxes, options.device)
        cells = [(height, width) for height, width, _ in priors.shapes]
        deltas = model.box_coder.get_deltas(pred_boxes, priors)
        maps = [_to_maps(x, cells) for x in (deltas, obj_logits[..., None], cls_logits)]
        gt_instances = [random_instances(SIDE, SIDE, boxes, seed).to(options.device) for seed in range(len(deltas))]
        images = ImageList(torch.zeros(len(deltas), 3, 1, 1), [(SIDE, SIDE)] * len(deltas))

        def run():
            model.forward_training(images, maps[0], HeadOutputs(*maps, None), gt_instances)

        return run

    @item(f"yolox assignment, {where}")
    def assignment(options, assigner=None):
        assigner = assigner or instantiate(load_config(S).model.assigner)
        inputs = assignment_inputs(boxes, options.device)

        def run():
            assigner(*inputs)

        return run

    if boxes <= 100:

        @item(f"yolox assignment, {where}, plain loops")
        def plain_loops(options):
            from tests.yolox_d2.reference_simota import reference_simota  # what the tests compare with

            return assignment(options, reference_simota)


for number in NUM_BOXES:
    _register_assignment(number)


def _to_maps(flat, cells):
    """(N, R, C) -> list of (N, C, H, W), as a head gives them."""
    levels = flat.split([height * width for height, width in cells], dim=1)
    return [x.unflatten(1, size).permute(0, 3, 1, 2).contiguous() for x, size in zip(levels, cells)]


def assignment_inputs(boxes, device, images=8, side=SIDE):
    """Predictions that lie about where training would have them: near the boxes' size, with noise."""
    from yolox_d2.assignment import GroundTruth, Predictions, make_priors, pad_instances

    generator = torch.Generator().manual_seed(0)
    strides = (8, 16, 32)
    priors = make_priors([(side // stride, side // stride) for stride in strides], strides)
    centers = (priors.grid + 0.5) * priors.strides[:, None]
    sizes = priors.strides[:, None] * torch.exp(1 + 0.5 * torch.randn(images, len(centers), 2, generator=generator))
    pred_boxes = torch.cat([centers - sizes / 2, centers + sizes / 2], dim=2)
    cls_logits = torch.randn(images, len(centers), 80, generator=generator) - 4
    obj_logits = torch.randn(images, len(centers), generator=generator) - 4
    gt = pad_instances([random_instances(side, side, boxes, seed) for seed in range(images)])
    priors = priors._replace(**{k: getattr(priors, k).to(device) for k in ("grid", "strides", "sizes")})
    pred, gt = ([x.to(device) for x in tensors] for tensors in ((pred_boxes, cls_logits, obj_logits), gt))
    return priors, Predictions(*pred), GroundTruth(*gt)


def _register_data(name, **settings):
    @item(f"yolox data, {SAMPLES} samples of 640x640, one process, {name}")
    def make(options):
        samples = data_samples(**settings)
        for _ in range(2 * NUM_IMAGES):
            next(samples)  # fills the cache

        def run():
            with one_cv2_thread():
                for _ in range(SAMPLES):
                    next(samples)

        return run


@contextlib.contextmanager
def one_cv2_thread():
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


_register_data("mosaic and mixup", strong=True)
_register_data("mosaic and mixup, cached", strong=True, cache="memory")
_register_data("plain", strong=False)
_register_data("plain, cached", strong=False, cache="memory")


def data_samples(strong, cache="none"):
    """Endless samples of the recipe of YOLOX-S: from COCO's validation images where DETECTRON2_DATASETS has them, else
    from drawn ones.
    """
    cfg = load_config(S)
    dataset = "coco_2017_val"
    if not os.path.isdir(os.path.join(os.environ.get("DETECTRON2_DATASETS", "datasets"), "coco", "val2017")):
        dataset = "benchmark_drawn"
        if dataset not in DatasetCatalog:
            records = drawn_records(tempfile.mkdtemp(prefix=dataset))
            DatasetCatalog.register(dataset, lambda: records)
    loader = cfg.dataloader.train
    loader.update(dataset=dataset, total_batch_size=1, num_workers=0, seed=0, close_iters=0, cache=cache)
    loader.composition.strong_prob = float(strong)
    return (batch[0] for batch in instantiate(loader))


def drawn_records(folder):
    """Photograph-like JPEG files of 640x480 with 7 boxes each."""
    rng = np.random.RandomState(0)
    records = []
    for i in range(NUM_IMAGES):
        path = os.path.join(folder, f"{i}.jpg")
        image = cv2.resize(rng.randint(0, 256, (60, 80, 3)).astype(np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(path, np.clip(image.astype(int) + rng.randint(-8, 9, image.shape), 0, 255).astype(np.uint8))
        boxes = random_instances(480, 640, 7, seed=i).gt_boxes.tensor.tolist()
        annotations = [{"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0} for box in boxes]
        records.append({"file_name": path, "image_id": i, "height": 480, "width": 640, "annotations": annotations})
    return records
