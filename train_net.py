#!/usr/bin/env python
"""Trains or evaluates any detector of this project.

python train_net.py --config-file configs/yolof/yolof_r50_c5_1x.py --num-gpus 8
python train_net.py --config-file configs/yolof/yolof_r50_c5_1x.py --eval-only train.init_checkpoint=FILE
torchrun --nproc-per-node 8 train_net.py --config-file ...        srun python train_net.py --config-file ...
"""

import sys

import asff_d2  # noqa: F401  (registration: yacs files find the detectors by name)
import vfnet_d2  # noqa: F401
import yolof_d2  # noqa: F401
import yolox_d2  # noqa: F401
from dense_d2.config import load_config
from dense_d2.engine import LazyTrainer, YacsTrainer, launch
from dense_d2.errors import UserError

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.utils import comm


def main(args):
    """What every process of the job runs. A user's mistake ends in a message, without a traceback."""
    try:
        return run(args)
    except (UserError, FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
        where = "" if comm.is_main_process() else f" in process {comm.get_rank()}"
        sys.exit(f"error{where}: {error}")


def run(args):
    cfg = load_config(args.config_file, args.opts)
    trainer_class = YacsTrainer if isinstance(cfg, CfgNode) else LazyTrainer
    trainer_class.setup(cfg, args)
    if args.eval_only:
        return trainer_class.evaluate_checkpoint(cfg)
    trainer = trainer_class(cfg, resume=args.resume)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def parse_arguments(argv=None):
    parser = default_argument_parser(__doc__)
    args = parser.parse_args(argv)
    if not args.config_file:
        parser.error("--config-file is missing; README.md lists the configs.")
    return args


if __name__ == "__main__":
    arguments = parse_arguments()
    on_cpu = {"train.device=cpu", "MODEL.DEVICE=cpu"} & set(arguments.opts)
    try:
        launch(main, arguments, on_gpu=torch.cuda.is_available() and not on_cpu)
    except UserError as error:
        sys.exit(f"error: {error}")
