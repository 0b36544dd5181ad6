"""Parameters and GFLOPs of a detector, per part.

python -m tools.analyze_model --config-file configs/yolof/yolof_r50_c5_1x.py [--height 800 --width 1088] [--json]
    [key=value ...]

The network alone is counted, backbone and head, without pre- and post-processing. Papers count in three ways:
    GFLOPs  one per multiply-add: fvcore's counts of convolutions, matrix products and normalisation (YOLOF)
    conv    the same without normalisation (VFNet; twice that in ASFF)
    thop    two per multiply-add, normalisation and leaky ReLU too: what the library thop counted in 2021 (YOLOX)
Parameters are what an optimiser could train: the constants of a frozen batch norm are buffers and not counted.
"""

import argparse
import copy
import json
import math
import sys
from collections import Counter
from typing import Any, Dict, List

import asff_d2  # noqa: F401  (registration: yacs files find the detectors by name)
import vfnet_d2  # noqa: F401
import yolof_d2  # noqa: F401
import yolox_d2  # noqa: F401
from dense_d2.compat import batch_images
from dense_d2.config import load_config
from dense_d2.errors import UserError
from dense_d2.modeling.frozen_norm import FoldedConv2d

import torch
from detectron2.config import CfgNode, instantiate
from detectron2.layers import Conv2d
from detectron2.modeling import build_model
from fvcore.nn import FlopCountAnalysis
from tabulate import tabulate
from torch import nn

__all__ = ["analyze"]


class _Network(nn.Module):
    """The part of a detector between the padded image and the head's predictions."""

    def __init__(self, detector):
        super().__init__()
        self.backbone, self.head = copy.deepcopy(detector.backbone), copy.deepcopy(detector.head)
        self.in_features = detector.head_in_features
        for module in self.modules():
            # a frozen norm that was folded into its convolution is counted like any other
            if isinstance(module, FoldedConv2d):
                module.__class__ = Conv2d

    def forward(self, images):
        features = self.backbone(images)
        return self.head([features[name] for name in self.in_features])


def analyze(detector: nn.Module, height: int = 800, width: int = 1088) -> Dict[str, Any]:
    """Counts one image of `height` x `width` pixels, padded to what the backbone takes.

    Args:
        detector: a meta-architecture with `backbone`, `head` and `head_in_features`; it is left as it is.
    Returns:
        "height" and "width" of the padded image, and "parts" and "total": name, parameters, gflops, gflops_conv.
    """
    device = next(detector.parameters()).device
    images = batch_images([torch.zeros(3, height, width, device=device)], detector.backbone).tensor
    network = _Network(detector).eval()
    with torch.no_grad():
        analysis = FlopCountAnalysis(network, images)
        analysis.set_op_handle("torchvision::deform_conv2d", _deform_conv_flops)
        analysis.set_op_handle("aten::leaky_relu", _leaky_relu_flops, "aten::leaky_relu_", _leaky_relu_flops)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        flops = analysis.by_module_and_operator()

    parts = []
    for name in ("backbone", "head"):
        parts += _rows(network, name, flops)
    total = _row("total", _num_parameters(detector), flops[""])
    outside = total["parameters"] - sum(part["parameters"] for part in parts)
    if outside:
        parts.append(_row("outside backbone and head", outside, Counter()))
    return {"height": images.shape[2], "width": images.shape[3], "parts": parts, "total": total}


def _rows(network, name, flops) -> List[Dict[str, Any]]:
    """The head is split into its children; a backbone around a `bottom_up` into that and its neck."""
    module = getattr(network, name)
    children = [c for c, _ in module.named_children() if name == "head" or c == "bottom_up"]
    rows = [_row(f"{name}.{c}", _num_parameters(getattr(module, c)), flops[f"{name}.{c}"]) for c in children]
    rest = Counter(flops[name])
    for child in children:
        rest.subtract(flops[f"{name}.{child}"])
    num_rest = _num_parameters(module) - sum(row["parameters"] for row in rows)
    rest_name = name if not children else f"{name}, neck" if "bottom_up" in children else f"{name}, rest"
    rows.append(_row(rest_name, num_rest, rest))
    return [row for row in rows if row["parameters"] or row["gflops"]]


def _row(name, parameters, flops) -> Dict[str, Any]:
    def count(*parts):
        return sum(number for operator, number in flops.items() if any(part in operator for part in parts))

    total, norm, leaky = count(""), count("norm"), count("leaky_relu")
    return {
        "name": name,
        "parameters": parameters,
        "gflops": (total - leaky) / 1e9,
        "gflops_conv": (total - leaky - norm) / 1e9,
        "gflops_thop": 2 * (total - count("upsample")) / 1e9,
    }


def _num_parameters(module) -> int:
    return sum(p.numel() for p in module.parameters())


def _deform_conv_flops(inputs, outputs) -> int:
    """fvcore does not know the operator; its multiply-adds are those of a plain convolution."""
    weight, output = (value.type().sizes() for value in (inputs[1], outputs[0]))
    return output[0] * output[2] * output[3] * weight[0] * weight[1] * weight[2] * weight[3]


def _leaky_relu_flops(inputs, outputs) -> int:
    return math.prod(outputs[0].type().sizes())


def _test_size(cfg):
    """(height, width) of the images that a row tests on; COCO's most usual where they keep their aspect ratio."""
    if isinstance(cfg, CfgNode):
        short, long = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
        sizes = [short] if short == long else []
    else:
        augmentations = cfg.dataloader.test.mapper.augmentations
        sizes = [augmentation.size for augmentation in augmentations if "size" in augmentation]
    size = sizes[-1] if sizes else (800, 1088)
    return (size, size) if isinstance(size, int) else tuple(size)


def _format(report, title) -> str:
    counts = ("gflops", "gflops_conv", "gflops_thop")
    rows = [
        (row["name"], f"{row['parameters'] / 1e6:.3f}", *(f"{row[count]:.2f}" for count in counts))
        for row in [*report["parts"], report["total"]]
    ]
    headers = ("part", "parameters (M)", "GFLOPs", "conv", "thop")
    table = tabulate(rows, headers=headers, stralign="right", disable_numparse=True)
    return (
        f"{title}, one image of {report['height']} x {report['width']} (height x width)\n{table}\n"
        "GFLOPs are multiply-adds as fvcore counts them; conv: without normalisation; thop: two per multiply-add (YOLOX)."
    )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--height", type=int, help="pixels, default 800, or the row's own where it tests on squares")
    parser.add_argument("--width", type=int, help="pixels, default 1088, or the row's own")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("opts", nargs="*", help="overrides, key=value")
    args = parser.parse_intermixed_args(argv)

    cfg = load_config(args.config_file, args.opts)
    if isinstance(cfg, CfgNode):
        cfg.defrost()
        cfg.MODEL.DEVICE = "cpu"
        detector = build_model(cfg)
    else:
        detector = instantiate(cfg.model)
    height, width = _test_size(cfg)
    report = analyze(detector, args.height or height, args.width or width)
    if args.json:
        print(json.dumps({"config": args.config_file, **report}, indent=2))
    else:
        print(_format(report, args.config_file))


if __name__ == "__main__":
    try:
        main()
    except (UserError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
