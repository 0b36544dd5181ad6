"""What the benchmark times is registered here, with the parts that items are made of. Weights and images are random."""

import contextlib
import time

from dense_d2.config import load_config
from dense_d2.engine.step import StepTrainer
from dense_d2.modeling.fuse import fuse_conv_bn

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.layers import Conv2d
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

ITEMS = {}
CANDIDATES = 1000  # (anchor, class) pairs above the score threshold, a busy COCO image


def item(name):
    """Registers `make(options) -> callable` under a name; what the callable does is timed."""

    def register(make):
        ITEMS[name] = make
        return make

    return register


def build(path, options, plain=False, overrides=()):
    """Config and model; `plain`: as the author's port lays it out, without folded norms, memory formats, fused steps."""
    torch.manual_seed(0)
    cfg = load_config(path, [f"train.device={options.device}", *overrides])
    model = instantiate(cfg.model).to(options.device)
    if plain:
        cfg.optimizer.fused = model.channels_last = False
        for module in model.modules():
            if isinstance(module, Conv2d):
                module.__class__ = Conv2d
    return cfg, model


def inference(path, options, height, width, plain=False, dtype=None):
    """The whole meta-architecture on one image: normalise, network, decode, NMS, rescale; `dtype`: autocast to it."""
    model, inputs = ready(path, options, height, width, plain)

    def run():
        with torch.inference_mode(), autocast(options, dtype):
            model(inputs)

    return run


def ready(path, options, height, width, plain=False):
    """A model for inference, norms merged unless `plain`, and its one image."""
    _, model = build(path, options, plain)
    inputs = [{"image": random_image(height, width), "height": height, "width": width}]
    model.train()
    with torch.no_grad(), EventStorage():  # gives batch norm statistics that fit the random weights
        for _ in range(3):
            model([{**inputs[0], "instances": random_instances(height, width, 5)}])
    model = model.eval() if plain else fuse_conv_bn(model)
    set_threshold(model, inputs)
    return model, inputs


def forward(path, options, height, width, overrides=()):
    """The network on one image, without pre- and post-processing, norms merged as for every evaluation."""
    model = fuse_conv_bn(build(path, options, overrides=overrides)[1].eval())
    image = model.to_memory_format(torch.randn(1, 3, height, width, device=options.device))

    def run():
        with torch.inference_mode(), autocast(options):
            features = model.backbone(image)
            model.head([features[name] for name in model.head_in_features])

    return run


def set_threshold(model, inputs):
    """Sets the score threshold so that `CANDIDATES` pairs pass it: the score of the last, when nothing is suppressed."""
    nms_thresh, kept = model.test_nms_thresh, model.max_detections_per_image
    model.test_score_thresh, model.test_topk_candidates = 0.0, CANDIDATES
    model.test_nms_thresh, model.max_detections_per_image = 1.0, CANDIDATES
    with torch.inference_mode():
        scores = model.forward(inputs)[0]["instances"].scores
    model.test_score_thresh = scores.min().item()
    model.test_nms_thresh, model.max_detections_per_image = nms_thresh, kept


def training_step(path, options, images, height, width, boxes, plain=False):
    """Forward, assignment, losses, backward and optimizer step on a batch that is already loaded."""
    cfg, model = build(path, options, plain)
    model.train()
    batch = [
        {"image": random_image(height, width, seed), "instances": random_instances(height, width, boxes, seed)}
        for seed in range(images)
    ]
    cfg.optimizer.params.model = model
    cfg.optimizer.lr = 1e-5  # the weights stay near where they are
    trainer = StepTrainer(model, Repeat(batch), instantiate(cfg.optimizer), amp=amp(options))

    def run():
        with EventStorage():
            trainer.run_step()

    return run


class Stages:
    """A stopwatch: `stop(name)` gives the time since the last stop, or since the start, to a stage."""

    def __init__(self, options):
        self.is_cuda = options.device == "cuda"
        self.start()

    def start(self):
        self.seconds, self.last = {}, time.perf_counter()

    def stop(self, name):
        if self.is_cuda:
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[name], self.last = now - self.last, now


class Repeat:
    def __init__(self, batch):
        self.batch = batch

    def __iter__(self):
        while True:
            yield self.batch


def random_image(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def random_instances(height, width, count, seed=0, num_classes=80):
    rng = np.random.RandomState(seed)
    sides = np.exp(rng.uniform(np.log(12), np.log([0.8 * width, 0.8 * height]), (count, 2)))
    start = rng.uniform(0, [width, height] - sides)
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.from_numpy(np.concatenate([start, start + sides], 1)).float())
    instances.gt_classes = torch.from_numpy(rng.randint(0, num_classes, count))
    return instances


def amp(options):
    return getattr(torch, options.amp) if options.amp else None


def autocast(options, dtype=None):
    dtype = dtype or amp(options)
    return torch.autocast(options.device, dtype=dtype) if dtype else contextlib.nullcontext()
