"""DefaultTrainer for yacs configs, with the optimizer in the checkpoint."""

import os
import weakref

from detectron2.engine import DefaultTrainer, default_setup, hooks
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..check_data import check_before_training
from ..checkpoint import DenseCheckpointer
from ..datasets import check_name
from ..evaluation import FastCOCOEvaluator
from .build import naming
from .run_folder import checkpoint_to_evaluate, evaluation_folder, refuse_used_folder
from .trainer import SavesOptimizer, checkpoint_meta

__all__ = ["YacsTrainer"]


class YacsTrainer(SavesOptimizer, DefaultTrainer):
    """Stock DefaultTrainer for `configs/yacs`, with our checkpoint reader and evaluator."""

    def __init__(self, cfg, resume=False):
        refuse_used_folder(cfg.OUTPUT_DIR, resume)
        check_before_training(cfg)
        super().__init__(cfg)
        meta = checkpoint_meta(cfg, cfg.DATASETS.TRAIN)
        self.checkpointer = DenseCheckpointer(self.model, cfg.OUTPUT_DIR, meta=meta, trainer=weakref.proxy(self))
        for hook in self._hooks:
            if isinstance(hook, hooks.PeriodicCheckpointer):
                hook.checkpointer = self.checkpointer

    @staticmethod
    def setup(cfg, args):
        if args.eval_only:
            cfg.MODEL.WEIGHTS = checkpoint_to_evaluate(cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR, args.resume)
            cfg.OUTPUT_DIR = evaluation_folder(cfg.OUTPUT_DIR)
        else:
            refuse_used_folder(cfg.OUTPUT_DIR, args.resume)
        default_setup(cfg, args)
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="dense_d2")

    @classmethod
    def build_model(cls, cfg):
        with naming("MODEL"):
            return super().build_model(cfg)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return FastCOCOEvaluator(dataset_name, output_dir=os.path.join(cfg.OUTPUT_DIR, "inference"))

    @classmethod
    def evaluate_checkpoint(cls, cfg):
        for name in cfg.DATASETS.TEST:
            check_name(name)
        model = cls.build_model(cfg)
        meta = checkpoint_meta(cfg, cfg.DATASETS.TEST)
        DenseCheckpointer(model, meta=meta).load(cfg.MODEL.WEIGHTS, checkpointables=[], whole=True)
        return cls.test(cfg, model)
