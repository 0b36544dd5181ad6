"""DefaultTrainer for LazyConfigs, with the optimizer in the checkpoint.

`LazyTrainer` is a DefaultTrainer whose parts are instantiated from the sections of a LazyConfig (model, dataset, dataloader,
optimizer, lr_multiplier, train, tta) instead of built from yacs keys. It skips DefaultTrainer's constructor, which reads those
keys, and fills the same attributes; `tests/dense_d2/test_trainer.py` checks that the sets stay equal.
"""

import copy
import logging
import os
import platform
import weakref

import torch
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer, create_ddp_model, default_setup, default_writers, hooks
from detectron2.engine.train_loop import TrainerBase
from detectron2.evaluation import print_csv_format
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..check_data import check_before_training
from ..checkpoint import DenseCheckpointer
from ..config import dump_config
from ..datasets import check_name, translates_classes
from ..evaluation import TimedModel, evaluate, float_results, write_results
from ..modeling.fuse import fuse_conv_bn
from ..visualize import plot_training_curve, save_comparisons
from .build import build, build_hooks, build_tta, check_settings
from .hooks import SharedStatistics, evaluation_weights
from .run_folder import checkpoint_to_evaluate, evaluation_folder, previous_seed, refuse_used_folder
from .step import StepTrainer, amp_dtype

__all__ = ["LazyTrainer", "SavesOptimizer", "checkpoint_meta"]

logger = logging.getLogger(__name__)


class SavesOptimizer:
    """Puts optimizer and grad scaler into the checkpoints of v0.6 as of upstream main, in main's layout."""

    def state_dict(self):
        return {**TrainerBase.state_dict(self), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict):
        TrainerBase.load_state_dict(self, state_dict)
        if "_trainer" in state_dict:
            self._trainer.load_state_dict(state_dict["_trainer"])
        else:
            logger.warning("The checkpoint holds no optimizer state: momentum starts from zero.")


class LazyTrainer(SavesOptimizer, DefaultTrainer):
    """Trains and evaluates what a LazyConfig describes.

    Args:
        cfg: as `dense_d2.config.load_config` returns it.
        resume: whether this run may go on in an output directory that already holds checkpoints.
    """

    def __init__(self, cfg, resume=False):
        super(DefaultTrainer, self).__init__()
        refuse_used_folder(cfg.train.output_dir, resume)
        check_before_training(cfg)
        self.build_test_loader(cfg)  # what does not fit is an error now, not hours later
        self.build_evaluator(cfg)
        model = self.build_model(cfg)
        build_tta(cfg, model)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        model = _distributed(model, cfg)
        self._trainer = StepTrainer(
            model,
            loader,
            optimizer,
            amp=amp_dtype(cfg.train.amp.dtype, cfg.train.device) if cfg.train.amp.enabled else None,
            accumulate=cfg.train.accumulate,
            clip_grad_norm=cfg.train.clip_grad_norm,
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = DenseCheckpointer(
            model,
            cfg.train.output_dir,
            meta=checkpoint_meta(cfg, cfg.dataset.train.name),
            trainer=weakref.proxy(self),
        )
        self.start_iter = 0
        self.max_iter = cfg.train.max_iter
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    @staticmethod
    def setup(cfg, args):
        """Logger, seeds, output directory with config.yaml; every process calls it first.

        An evaluation inside the folder of a run writes to its subfolder `eval`.
        """
        train = cfg.train
        check_settings(train)
        if args.eval_only:
            train.init_checkpoint = checkpoint_to_evaluate(train.init_checkpoint, train.output_dir, args.resume)
            train.output_dir = evaluation_folder(train.output_dir)
        else:
            refuse_used_folder(train.output_dir, args.resume)
        if train.seed < 0:
            train.seed = previous_seed(train.output_dir) if args.resume else None
            if train.seed is None:
                train.seed = comm.shared_random_seed() % 2**31
        if train.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
        default_setup(cfg, args)
        for package in ("dense_d2", "yolof_d2", "yolox_d2", "vfnet_d2", "asff_d2"):
            setup_logger(train.output_dir, distributed_rank=comm.get_rank(), name=package)
        if train.deterministic:
            torch.backends.cudnn.benchmark = False

    def resume_or_load(self, resume=True):
        """Goes on from the last checkpoint of the output directory, or loads `train.init_checkpoint`."""
        train = self.cfg.train
        wanted = [(group["lr"], group["weight_decay"]) for group in self.optimizer.param_groups]
        self.checkpointer.resume_or_load(train.init_checkpoint, resume=resume, reinit_head=train.reinit_head)
        if resume and self.checkpointer.has_checkpoint():
            found = [(group.get("initial_lr"), group["weight_decay"]) for group in self.optimizer.param_groups]
            if found != wanted:
                logger.warning(
                    "Resuming goes on with the checkpoint's (learning rate, weight decay) %s; the config's %s are not used.",
                    found,
                    wanted,
                )
            self.start_iter = self.iter + 1
            self.data_loader.start_iter = self.start_iter  # the batches after those already seen
            if self.start_iter >= self.max_iter:
                logger.warning(
                    "The run in %s is complete (%d iterations). A larger train.max_iter continues it.",
                    train.output_dir,
                    self.start_iter,
                )

    def build_hooks(self):
        """Timer, LR, the config's own hooks, checkpoint, evaluation, and last the writers, which see all the others' values."""
        train = self.cfg.train
        result = [hooks.IterationTimer(), hooks.LRScheduler()]
        result += build_hooks(self.cfg)
        result.append(SharedStatistics(train.checkpointer.period, train.eval_period))
        if comm.is_main_process():
            period, keep = train.checkpointer.period, train.checkpointer.max_to_keep
            result.append(hooks.PeriodicCheckpointer(self.checkpointer, period, max_to_keep=keep))
        result.append(hooks.EvalHook(train.eval_period, self._evaluate))
        if comm.is_main_process():
            result.append(hooks.PeriodicWriter(self.build_writers(), train.log_period))
        return result

    def build_writers(self):
        return default_writers(self.cfg.train.output_dir, self.max_iter)

    def train(self):
        """Trains to `train.max_iter`; returns the last results (main process) and draws the training curve."""
        TrainerBase.train(self, self.start_iter, self.max_iter)
        if comm.is_main_process():
            folder = self.cfg.train.output_dir
            plot_training_curve(os.path.join(folder, "metrics.json"), os.path.join(folder, "training_curve.png"))
        return getattr(self, "_last_eval_results", None)

    def _evaluate(self):
        done = min(self.iter + 1, self.max_iter)
        self._last_eval_results = self._test_all_weights(self.cfg, self.model, self._hooks, iterations=done)
        return self._last_eval_results

    @classmethod
    def build_model(cls, cfg):
        model = build(cfg.model, "model").to(cfg.train.device)
        count = sum(parameter.numel() for parameter in model.parameters())
        logger.info("%s with %.3f M parameters:\n%s", type(model).__name__, count / 1e6, model)
        return model

    @classmethod
    def build_optimizer(cls, cfg, model):
        optimizer = copy.deepcopy(cfg.optimizer)  # the model must not end up in the config that is saved
        optimizer.params.model = model
        return build(optimizer, "optimizer")

    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer):
        return build(cfg.lr_multiplier, "lr_multiplier")

    @classmethod
    def build_train_loader(cls, cfg):
        return build(cfg.dataloader.train, "dataloader.train")

    @classmethod
    def build_test_loader(cls, cfg, dataset_name=None):
        return build(cfg.dataloader.test, "dataloader.test")

    @classmethod
    def build_evaluator(cls, cfg, dataset_name=None):
        return build(cfg.dataloader.evaluator, "dataloader.evaluator")

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        """Evaluates the weights that `model` holds.

        Returns:
            {"bbox": {"AP": ...}, "speed": {...}} on the main process, an empty dict on the others.
        """
        model = getattr(model, "module", model)
        if cfg.train.fuse_conv_bn:
            model = fuse_conv_bn(model)
        model = build_tta(cfg, model)
        evaluator = evaluators or cls.build_evaluator(cfg)
        if getattr(evaluator, "needs_seconds", False):
            model = TimedModel(model)
        dtype = amp_dtype(cfg.train.amp.dtype, cfg.train.device) if cfg.train.amp.evaluate else None
        results = evaluate(model, cls.build_test_loader(cfg), evaluator, amp_dtype=dtype)
        if not comm.is_main_process():
            return {}
        overall = {name: value for name, value in results.get("bbox", {}).items() if not name.startswith("AP-")}
        print_csv_format({"bbox": overall})
        return results

    @classmethod
    def evaluate_checkpoint(cls, cfg):
        """`--eval-only`: loads `train.init_checkpoint`, with the averages that the config's hooks keep, and tests it."""
        check_name(cfg.dataset.test.name)
        model = cls.build_model(cfg)
        meta = checkpoint_meta(cfg, "coco_2017_val" if translates_classes(cfg) else cfg.dataset.test.name)
        checkpointer = DenseCheckpointer(model, meta=meta)
        rest = checkpointer.load(cfg.train.init_checkpoint, checkpointables=[], whole=True)
        states = rest.get("trainer", {}).get("hooks", {})
        averages = build_hooks(cfg)
        for hook in averages:
            if type(hook).__qualname__ in states:
                hook.load_state_dict(states[type(hook).__qualname__])
        done = rest["iteration"] + 1 if "iteration" in rest else None
        return cls._test_all_weights(cfg, model, averages, iterations=done)

    @classmethod
    def _test_all_weights(cls, cfg, model, all_hooks, iterations):
        """Tests the raw weights and those that hooks keep, under different names, and writes them to results.json."""
        results = {}
        for suffix, weights in evaluation_weights(model, all_hooks):
            if suffix:
                logger.info("Evaluating the weights of %s", suffix.strip("_").upper())
            with weights:
                results.update((name + suffix, value) for name, value in cls.test(cfg, model).items())
        if not comm.is_main_process():
            return {}
        folder = cfg.train.output_dir
        write_results(
            os.path.join(folder, "results.json"), results, dataset=cfg.dataset.test.name, iterations=iterations
        )
        if cfg.train.pictures and cfg.dataloader.evaluator.output_dir:
            detections = os.path.join(cfg.dataloader.evaluator.output_dir, "coco_instances_results.json")
            try:
                save_comparisons(
                    cfg.dataset.test.name, detections, os.path.join(folder, "pictures"), cfg.train.pictures
                )
            except Exception:  # a picture is no reason to lose a run
                logger.exception("Could not draw the detections in %s", detections)
        return float_results(results)


def checkpoint_meta(cfg, dataset_names):
    """What a checkpoint says of itself: class names, category ids, config and versions, as plain values.

    `dataset_names`: one, or several with the same classes.
    """
    import detectron2
    import torchvision

    metadata = MetadataCatalog.get(dataset_names if isinstance(dataset_names, str) else dataset_names[0])
    ids = getattr(metadata, "thing_dataset_id_to_contiguous_id", {})
    return {
        "format": 1,
        "class_names": list(getattr(metadata, "thing_classes", [])),
        "category_ids": sorted(ids, key=ids.get),
        "config": dump_config(cfg),
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "torchvision": str(torchvision.__version__),
            "detectron2": detectron2.__version__,
        },
    }


def _distributed(model, cfg):
    on_cpu = torch.device(cfg.train.device).type == "cpu"
    device_ids = None if on_cpu else [torch.cuda.current_device()]
    return create_ddp_model(model, **{**cfg.train.ddp, "device_ids": device_ids})
