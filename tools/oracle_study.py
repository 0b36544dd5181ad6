"""Oracle study of a detector: what box AP would be if centerness, boxes or class scores were right at foreground locations.

python -m tools.oracle_study --config-file configs/vfnet/ablation/table3/fcos_atss.py --weights FILE [key=value ...]

VarifocalNet's Table 1 (of that row), for any detector with the three methods of `dense_d2.modeling.dense_prediction`. Each
row of the table has one answer replaced by the ground truth's, where the detector's own assigner finds foreground at the test
scale:
    gt_ctr      centerness (objectness) := what the branch was taught
    gt_ctr_iou  centerness := IoU of the predicted box with its ground truth
    gt_bbox     box := ground truth
    gt_cls      score of the true class := 1
    gt_cls_iou  score of the true class := that IoU
"w/ctr" rows multiply scores by centerness, as a detector with that branch does. Every image passes the network once.

The folder `oracle_study` in `train.output_dir` receives results.json, table.md, config.yaml and log.txt.
"""

import argparse
import os
import sys

import asff_d2  # noqa: F401  (registration: the message for a detector without these methods names those that have them)
import vfnet_d2  # noqa: F401
import yolof_d2  # noqa: F401
import yolox_d2  # noqa: F401
from dense_d2.config import load_config
from dense_d2.engine import LazyTrainer
from dense_d2.engine.step import amp_dtype
from dense_d2.errors import UserError
from dense_d2.evaluation.oracle import COLUMNS, OracleEvaluator, OracleStudy
from dense_d2.modeling.fuse import fuse_conv_bn

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import inference_on_dataset
from tabulate import tabulate


class OracleTrainer(LazyTrainer):
    """Evaluates as `--eval-only` does, averaged weights included, with the study in place of the test."""

    @classmethod
    def build_test_loader(cls, cfg, dataset_name=None):
        cfg.dataloader.test.mapper.is_train = True  # the same images, and boxes beside them
        return super().build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name=None):
        evaluator = cfg.dataloader.evaluator
        return OracleEvaluator(evaluator.dataset_name, evaluator.output_dir, evaluator.get("backend", "auto"))

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        if cfg.train.fuse_conv_bn:
            model = fuse_conv_bn(model)
        device = torch.device(cfg.train.device).type
        dtype = amp_dtype(cfg.train.amp.dtype, cfg.train.device) if cfg.train.amp.evaluate else None
        with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
            rows = inference_on_dataset(OracleStudy(model), cls.build_test_loader(cfg), cls.build_evaluator(cfg))
        return {"oracle_study": rows}


def main(argv=None):
    args = _arguments(argv)
    cfg = load_config(args.config_file, args.opts)
    if isinstance(cfg, CfgNode):
        raise UserError(f"{args.config_file} is a yacs file; give the config of the same detector that is a .py")
    if cfg.tta.enabled:
        raise UserError("tta.enabled=true: the study edits one forward pass of an image; leave it at false")
    cfg.train.init_checkpoint = args.weights
    cfg.train.output_dir = os.path.join(cfg.train.output_dir, "oracle_study")
    cfg.train.pictures = 0
    OracleTrainer.setup(cfg, args)
    results = OracleTrainer.evaluate_checkpoint(cfg)
    text = "\n\n".join(_format(name, rows) for name, rows in results.items())
    with open(os.path.join(cfg.train.output_dir, "table.md"), "w") as file:
        file.write(text + "\n")
    print(text)
    return results


def _arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--weights", required=True, help="any file that train.init_checkpoint takes")
    parser.add_argument("opts", nargs="*", help="overrides, key=value")
    parser.set_defaults(eval_only=True, resume=False)
    return parser.parse_intermixed_args(argv)


def _format(name, rows):
    lines = [[row, *(numbers[column] for column in COLUMNS)] for row, numbers in rows.items()]
    return f"{name}\n\n" + tabulate(lines, headers=["", *COLUMNS], tablefmt="github", floatfmt=".1f")


if __name__ == "__main__":
    try:
        main()
    except (UserError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
