"""Hooks for `train.hooks` in a config. Those with state are saved and resumed by Detectron2's trainer, by class name."""

import contextlib
import math

import torch
from detectron2.engine import HookBase

__all__ = ["EMA", "evaluation_weights"]


class EMA(HookBase):
    """Exponential moving average of weights and buffers, kept beside the raw weights.

    Training goes on with the raw weights; evaluation reports both, the averaged under names that end in `_ema`.

    Args:
        decay: share of the old average that a step keeps, in the long run.
        warmup: iterations over which the decay rises: decay * (1 - exp(-updates / warmup)); 0: constant.

    Source: YOLOX's released code (decay 0.9998, warm-up 2000).
    """

    suffix = "_ema"

    def __init__(self, decay=0.9998, warmup=2000):
        if not 0 < decay < 1:
            raise ValueError(f"EMA decay is {decay}: give a number between 0 and 1, such as 0.9998.")
        self.decay, self.warmup = decay, warmup
        self.updates, self.weights = 0, None

    def before_train(self):
        current = _state(self.trainer.model)
        if self.weights is None:
            self.weights = {name: value.clone() for name, value in current.items()}
        self.weights = {name: self.weights[name].to(value.device) for name, value in current.items()}

    @torch.no_grad()
    def after_step(self):
        self.updates += 1
        decay = self.decay * (1 - math.exp(-self.updates / self.warmup)) if self.warmup else self.decay
        current = _state(self.trainer.model)
        averaged = [name for name, value in current.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.weights[name] for name in averaged], [current[name] for name in averaged], 1 - decay)
        for name in current.keys() - set(averaged):
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


def evaluation_weights(model, hooks):
    """Yields (suffix, context manager): the raw weights, then those of every hook that keeps others."""
    yield "", contextlib.nullcontext()
    for hook in hooks:
        if getattr(hook, "weights", None) is not None and hasattr(hook, "applied_to"):
            yield hook.suffix, hook.applied_to(model)


def _state(model):
    return getattr(model, "module", model).state_dict()


@torch.no_grad()
def _copy(source, target):
    for name, value in target.items():
        value.copy_(source[name])
