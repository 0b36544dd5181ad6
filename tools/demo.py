"""The whole way on drawn shapes, on the CPU: make data, train a thin YOLOF, evaluate, draw pictures.

    python -m tools.demo [--output output/demo]

A second call keeps the data and trains anew; it replaces only the folder `run` that an earlier call made.
"""

import argparse
import json
import os
import shutil
import sys
import time

from tools.make_shapes import make_shapes
from train_net import main as train_net
from train_net import parse_arguments

CONFIG = "configs/yolof/yolof_thin_shapes.py"
MARKER = "made_by_demo"


def run_demo(output, overrides=()):
    """Returns the results of the last evaluation, as results.json holds them."""
    run = os.path.join(output, "run")
    _make_room(run)
    print(f"1. Drawing 1000 training and 100 test images of shapes in {output}/shapes", flush=True)
    data = make_shapes(os.path.join(output, "shapes"), num_train=1000, num_test=100, size=192)
    arguments = ["--config-file", CONFIG, f"train.output_dir={run}", "train.device=cpu"]
    for split in ("train", "test"):
        arguments += [f"dataset.{split}.images={data[f'{split}_images']}"]
        arguments += [f"dataset.{split}.annotations={data[f'{split}_annotations']}"]
    arguments += list(overrides)
    print("2. Training and evaluating, as you would:", flush=True)
    print("   python train_net.py " + " ".join(arguments), flush=True)
    start = time.perf_counter()
    train_net(parse_arguments(arguments))
    minutes = (time.perf_counter() - start) / 60
    with open(os.path.join(run, "results.json")) as file:
        results = json.load(file)
    print(f"\n3. Done in {minutes:.1f} minutes. {run} holds:")
    for name, meaning in (
        ("results.json", "AP, AP per class, speed"),
        ("pictures/", "ground truth on the left, detections on the right"),
        ("training_curve.png", "losses, learning rate and AP over the iterations"),
        ("model_final.pth", "the checkpoint"),
        ("config.yaml, log.txt", "what was run"),
    ):
        print(f"   {name:22}{meaning}")
    return results


def _make_room(run):
    if os.path.isdir(run):
        if not os.path.exists(os.path.join(run, MARKER)):
            raise FileExistsError(f"{run} was not made by the demo: choose another --output.")
        shutil.rmtree(run)
    os.makedirs(run)
    with open(os.path.join(run, MARKER), "w") as file:
        file.write("`make demo` may replace this folder\n")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="output/demo")
    parser.add_argument("overrides", nargs="*", help="key=value, as for train_net.py")
    options = parser.parse_args(argv)
    box_ap = run_demo(options.output, options.overrides)["bbox"]["AP"]
    print(f"\nBox AP on the held-out shapes: {box_ap:.1f} (at least 50 is expected)")
    return 0 if box_ap >= 50 else 1


if __name__ == "__main__":
    sys.exit(main())
