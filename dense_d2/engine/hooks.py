"""Hooks for `train.hooks` in a config. Those with state are saved and resumed by Detectron2's trainer, by class name."""

import contextlib
import logging
import math

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import UserError
from ..modeling.dense_detector import mean_over_ranks

__all__ = ["EMA", "SWA", "SharedStatistics", "SwitchOn", "evaluation_weights"]

logger = logging.getLogger(__name__)


class _AveragedWeights(HookBase):
    """Weights and buffers averaged over training, beside the raw ones, which training goes on with.

    Evaluation reports both, the averaged under names that end in `suffix`. Checkpoints hold both.
    """

    suffix = ""

    def __init__(self):
        self.updates, self.weights = 0, None

    def before_train(self):
        if self.weights is not None:  # loaded from a checkpoint, on the CPU
            current = _state(self.trainer.model)
            self.weights = {name: self.weights[name].to(value.device) for name, value in current.items()}

    @torch.no_grad()
    def update(self, share):
        """Moves the average by `share` in [0, 1] towards the current weights; what is no float is taken as it is."""
        self.updates += 1
        current = _state(self.trainer.model)
        if self.weights is None:
            self.weights = {name: value.clone() for name, value in current.items()}
        floats = [name for name, value in current.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.weights[name] for name in floats], [current[name] for name in floats], share)
        for name in current.keys() - set(floats):
            self.weights[name].copy_(current[name])

    @contextlib.contextmanager
    def applied_to(self, model):
        """Puts the averaged weights into `model` for the time of a `with` block."""
        current = _state(model)
        raw = {name: value.clone() for name, value in current.items()}
        _copy(self.weights, current)
        try:
            yield
        finally:
            _copy(raw, current)

    def state_dict(self):
        return {"updates": self.updates, "weights": self.weights} if self.weights is not None else {}

    def load_state_dict(self, state_dict):
        self.updates, self.weights = state_dict["updates"], dict(state_dict["weights"])


class EMA(_AveragedWeights):
    """Exponential moving average, under names that end in `_ema`.

    Args:
        decay: share of the old average that a step keeps, in the long run.
        warmup: iterations over which the decay rises: decay * (1 - exp(-updates / warmup)); 0: constant.

    Source: YOLOX's released code (decay 0.9998, warm-up 2000).
    """

    suffix = "_ema"

    def __init__(self, decay=0.9998, warmup=2000):
        if not 0 < decay < 1:
            raise ValueError(f"EMA decay is {decay}: give a number between 0 and 1, such as 0.9998.")
        super().__init__()
        self.decay, self.warmup = decay, warmup

    def before_train(self):
        super().before_train()
        if self.weights is None:  # the average starts at the weights before the first step
            self.weights = {name: value.clone() for name, value in _state(self.trainer.model).items()}

    def after_step(self):
        rise = 1 - math.exp(-(self.updates + 1) / self.warmup) if self.warmup else 1.0
        self.update(1 - self.decay * rise)


class SWA(_AveragedWeights):
    """Stochastic weight averaging: the mean of the weights at the end of every cycle, under names that end in `_swa`.

    Args:
        cycle_iters: length of a cycle, iterations; that of the schedule (`CosineCycles`).

    Source: Zhang et al. 2020, "SWA Object Detection": 12 cycles of one epoch. Buffers are averaged too.
    """

    suffix = "_swa"

    def __init__(self, cycle_iters):
        super().__init__()
        self.cycle_iters = cycle_iters

    def after_step(self):
        if (self.trainer.iter + 1) % self.cycle_iters == 0:
            self.update(1 / (self.updates + 1))


class SharedStatistics(HookBase):
    """Gives every process the mean of all processes' batch norm statistics, raw and averaged, before weights are saved or
    evaluated: each has seen its own images only. An evaluation is then that of the checkpoint, whoever has which images.

    Args:
        periods: iterations between saves and between evaluations; 0: only at the end.

    Source: YOLOX's released code (`all_reduce_norm`), for the raw ones.
    """

    def __init__(self, *periods):
        self.periods = [period for period in periods if period > 0]

    def after_step(self):
        done, is_alone = self.trainer.iter + 1, comm.get_world_size() == 1
        if is_alone or (done < self.trainer.max_iter and all(done % period for period in self.periods)):
            return
        names = _statistics(getattr(self.trainer.model, "module", self.trainer.model))
        averages = [hook.weights for hook in self.trainer._hooks if isinstance(hook, _AveragedWeights)]
        for state in [_state(self.trainer.model), *averages]:
            for name in names if state is not None else ():
                state[name].copy_(mean_over_ranks(state[name]))


class SwitchOn(HookBase):
    """Sets an attribute of the model to true for the last iterations, decided from the iteration alone.

    Args:
        attribute: of the model, now false.
        last_iters: how many iterations before the end it becomes true.
    """

    def __init__(self, attribute, last_iters):
        self.attribute, self.last_iters = attribute, last_iters

    def before_train(self):
        model = getattr(self.trainer.model, "module", self.trainer.model)
        if not hasattr(model, self.attribute):
            raise UserError(f"SwitchOn: {type(model).__name__} has no attribute {self.attribute!r}.")

    def before_step(self):
        model = getattr(self.trainer.model, "module", self.trainer.model)
        is_on = self.trainer.iter >= self.trainer.max_iter - self.last_iters
        if is_on != getattr(model, self.attribute):
            logger.info("Iteration %d: %s is now %s", self.trainer.iter, self.attribute, is_on)
            setattr(model, self.attribute, is_on)


def evaluation_weights(model, hooks):
    """Yields (suffix, context manager): the raw weights, then those of every hook that keeps others."""
    yield "", contextlib.nullcontext()
    for hook in hooks:
        if isinstance(hook, _AveragedWeights) and hook.weights is not None:
            yield hook.suffix, hook.applied_to(model)


def _statistics(model):
    """Names of the running means and variances that this process keeps for itself."""
    norms = [(name, module) for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    return [
        f"{name}.{kind}"
        for name, module in norms
        for kind in ("running_mean", "running_var")
        if getattr(module, kind) is not None
    ]


def _state(model):
    return getattr(model, "module", model).state_dict()


@torch.no_grad()
def _copy(source, target):
    for name, value in target.items():
        value.copy_(source[name])
