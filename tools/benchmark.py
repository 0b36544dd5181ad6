"""Speed as a ratio: every figure is timed in rounds with a yardstick beside it, so that machines compare.

    python -m tools.benchmark [--rounds 7] [--threads 2] [--only yolof] [--device cuda --amp bfloat16] [--json FILE]

The yardstick is torchvision's ResNet-50 forward at 1x3x800x1088 in float32. A round times the yardstick and each item once, in
turn; reported are the median time of an item and the median, over the rounds, of its ratio to the yardstick of that round.
A noisy neighbour slows both. Weights are random; detection thresholds are set so that as many candidates reach NMS as in a
trained model.
"""

import argparse
import contextlib
import json
import statistics
import time

from dense_d2.config import load_config
from dense_d2.engine.step import StepTrainer
from dense_d2.evaluation.timing import describe_machine

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.layers import Conv2d
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from tabulate import tabulate

ITEMS = {}
CANDIDATES = 1000  # (anchor, class) pairs above the score threshold, a busy COCO image


def item(name):
    """Registers `make(options) -> callable` under a name; what the callable does is timed."""

    def register(make):
        ITEMS[name] = make
        return make

    return register


def yardstick(options):
    from torchvision.models import resnet50

    model = resnet50(weights=None).eval().to(options.device)
    image = torch.zeros(1, 3, 800, 1088, device=options.device)

    def run():
        with torch.inference_mode():
            model(image)

    return run


YOLOF = "configs/yolof/yolof_r50_c5_1x.py"


@item("yolof_r50_c5 inference, 800x1088")
def yolof_inference(options, plain=False):
    return inference(YOLOF, options, height=800, width=1088, plain=plain)


@item("yolof_r50_c5 inference, 800x1088, plain Detectron2 modules")
def yolof_inference_plain(options):
    return yolof_inference(options, plain=True)


@item("yolof_r50_c5 training step, 2x3x512x672, 15 boxes each")
def yolof_step(options, plain=False):
    return training_step(YOLOF, options, images=2, height=512, width=672, boxes=15, plain=plain)


@item("yolof_r50_c5 training step, 2x3x512x672, 15 boxes each, plain Detectron2 modules")
def yolof_step_plain(options):
    return yolof_step(options, plain=True)


def build(path, options, plain):
    """Config and model; `plain`: as the author's port lays it out, without folded norms, memory formats, fused steps."""
    torch.manual_seed(0)
    cfg = load_config(path, [f"train.device={options.device}"])
    model = instantiate(cfg.model).to(options.device)
    if plain:
        cfg.optimizer.fused = model.channels_last = False
        for module in model.modules():
            if isinstance(module, Conv2d):
                module.__class__ = Conv2d
    return cfg, model


def inference(path, options, height, width, plain):
    """The whole meta-architecture on one image: normalise, network, decode, NMS, rescale."""
    _, model = build(path, options, plain)
    inputs = [{"image": random_image(height, width), "height": height, "width": width}]
    model.train()
    with torch.no_grad(), EventStorage():  # gives batch norm statistics that fit the random weights
        for _ in range(3):
            model([{**inputs[0], "instances": random_instances(height, width, 5)}])
    model.eval()
    set_threshold(model, inputs)

    def run():
        with torch.inference_mode(), autocast(options):
            model(inputs)

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


def training_step(path, options, images, height, width, boxes, plain):
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


def autocast(options):
    return torch.autocast(options.device, dtype=amp(options)) if options.amp else contextlib.nullcontext()


def seconds(run, device):
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(names, options):
    """Returns (median seconds of the yardstick, {name: {"seconds", "ratio", "ratio_min", "ratio_max"}})."""
    reference = yardstick(options)
    runs = {name: ITEMS[name](options) for name in names}
    for run in (reference, *runs.values()):
        run()  # warm up
    reference_times, times = [], {name: [] for name in names}
    for _ in range(options.rounds):
        reference_times.append(seconds(reference, options.device))
        for name, run in runs.items():
            times[name].append(seconds(run, options.device))
    result = {}
    for name, values in times.items():
        ratios = [value / base for value, base in zip(values, reference_times)]
        result[name] = {
            "seconds": statistics.median(values),
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
        }
    return statistics.median(reference_times), result


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of PyTorch")
    parser.add_argument("--only", default="", help="run the items whose name contains this")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--amp", default="", choices=("", "bfloat16", "float16"))
    parser.add_argument("--json", help="also write the figures here")
    options = parser.parse_args(argv)
    names = [name for name in ITEMS if options.only in name]
    if not names:
        parser.error(f"--only {options.only!r} names none of: {', '.join(ITEMS)}")
    torch.set_num_threads(options.threads)

    base, result = measure(names, options)
    setting = {
        **describe_machine(torch.device(options.device)),
        "rounds": options.rounds,
        "dtype": options.amp or "float32",
        "yardstick_seconds": round(base, 4),
    }
    print(", ".join(f"{key} {value}" for key, value in setting.items()))
    rows = [
        [name, f"{r['seconds']:.4f}", f"{r['ratio']:.3f}", f"{r['ratio_min']:.3f} to {r['ratio_max']:.3f}"]
        for name, r in result.items()
    ]
    print(tabulate(rows, headers=["item", "seconds", "yardsticks", "range"], tablefmt="github", disable_numparse=True))
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"setting": setting, "items": result}, file, indent=2)


if __name__ == "__main__":
    main()
