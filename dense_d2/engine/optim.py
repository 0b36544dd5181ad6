"""Parameter groups and learning-rate schedules, by name, for the configs."""

import bisect
import math
from typing import Mapping, Optional

import torch
from fvcore.common.param_scheduler import ParamScheduler

from ..errors import UserError, require_positive

__all__ = ["CosineCycles", "WarmupCosine", "WarmupMultiStep", "param_groups"]

_NORMS = (
    torch.nn.modules.batchnorm._BatchNorm,
    torch.nn.modules.instancenorm._InstanceNorm,
    torch.nn.GroupNorm,
    torch.nn.LayerNorm,
)


def param_groups(
    model,
    *,
    lr,
    weight_decay,
    weight_decay_norm: Optional[float] = None,
    weight_decay_bias: Optional[float] = None,
    bias_lr_factor: float = 1.0,
    lr_factors: Optional[Mapping[str, float]] = None,
    batch_size: Optional[int] = None,
    lr_batch_size: Optional[int] = None,
):
    """Trainable parameters in as few groups as have different hyper-parameters, which is what makes a step fast.

    Args:
        lr, weight_decay: of every parameter that no rule below names.
        weight_decay_norm: for the weights and biases of normalisation layers; None: no rule.
        weight_decay_bias: for the other biases, except those of offset predictors (`conv_offset`) of deformable
            convolutions, which is the rule of mmdetection's recipes; None: no rule.
        bias_lr_factor: factor on `lr` for the same biases.
        lr_factors: module name prefix (such as "backbone") -> factor on `lr`; the longest prefix counts.
        batch_size, lr_batch_size: `lr` is meant for `lr_batch_size` images an iteration, and scales with `batch_size`; None:
            `lr` is taken as it is.
    Returns:
        list of {"params", "lr", "weight_decay"}.
    """
    lr_factors = dict(lr_factors or {})
    if lr_batch_size is not None:
        lr = lr * batch_size / lr_batch_size
    groups, seen = {}, set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            full_name = f"{module_name}.{name}"
            prefixes = [prefix for prefix in lr_factors if full_name.startswith(prefix + ".")]
            factor = lr_factors[max(prefixes, key=len)] if prefixes else 1.0
            decay = weight_decay
            if isinstance(module, _NORMS):
                decay = weight_decay if weight_decay_norm is None else weight_decay_norm
            elif name == "bias" and module_name.split(".")[-1] != "conv_offset":
                factor *= bias_lr_factor
                decay = weight_decay if weight_decay_bias is None else weight_decay_bias
            groups.setdefault((lr * factor, decay), []).append(parameter)
    unused = [
        prefix for prefix in lr_factors if not any(n.startswith(prefix + ".") for n, _ in model.named_parameters())
    ]
    if unused:
        raise ValueError(f"lr_factors names {unused}, but no parameter of {type(model).__name__} starts with that.")
    return [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in groups.items()]


class WarmupMultiStep(ParamScheduler):
    """Linear warm-up, then the learning rate times `gamma` at each milestone.

    Args:
        max_iter: length of the training, iterations.
        milestones: iterations. Those at or after `max_iter` are never reached, which suits short trials.
        gamma: factor on the learning rate at each milestone.
        warmup_iters: length of the warm-up, iterations; 0: none.
        warmup_factor: factor on the learning rate at iteration 0, from which it rises to 1.
    """

    def __init__(self, *, max_iter, milestones=(), gamma=0.1, warmup_iters=0, warmup_factor=0.001):
        self.max_iter, self.milestones, self.gamma = max_iter, sorted(milestones), gamma
        self.warmup_iters, self.warmup_factor = warmup_iters, warmup_factor

    def __call__(self, where):
        iteration = round(where * self.max_iter)
        factor = self.gamma ** bisect.bisect_right(self.milestones, iteration)
        if iteration < self.warmup_iters:
            progress = iteration / self.warmup_iters
            factor *= self.warmup_factor * (1 - progress) + progress
        return factor


class CosineCycles(ParamScheduler):
    """Cycles of a cosine from 1 down to `end_factor`, each starting anew.

    Args:
        max_iter: length of the training, iterations.
        cycle_iters: length of a cycle, iterations.
        end_factor: factor on the learning rate at the end of a cycle.

    Source: Zhang et al. 2020, "SWA Object Detection" (target ratio 1 to 0.01, no ramp-up).
    """

    def __init__(self, *, max_iter, cycle_iters, end_factor=0.01):
        require_positive(cycle_iters=cycle_iters)
        self.max_iter, self.cycle_iters, self.end_factor = max_iter, cycle_iters, end_factor

    def __call__(self, where):
        progress = round(where * self.max_iter) % self.cycle_iters / self.cycle_iters
        return self.end_factor + (1 - self.end_factor) * (1 + math.cos(math.pi * progress)) / 2


class WarmupCosine(ParamScheduler):
    """Warm-up from 0 along a power, a cosine from 1 down to `end_factor`, and a flat tail.

    Args:
        max_iter: length of the training, iterations.
        warmup_iters: length of the warm-up, iterations; 0: none. Iteration 0 runs with a learning rate of 0.
        warmup_power: the factor rises as (iteration / warmup_iters) ** warmup_power.
        cosine_from: iteration at which the cosine begins, 1 until then; None: right after the warm-up.
        flat_iters: the last iterations, which run with `end_factor`.
        end_factor: factor on the learning rate at the end of the cosine.
        step_iters: the cosine changes every so many iterations only.

    Source: the released code of YOLOX (power 2, flat for 15 epochs) and of ASFF (power 4, cosine from epoch 20, a step an epoch).
    """

    def __init__(
        self, *, max_iter, warmup_iters=0, warmup_power=2, cosine_from=None, flat_iters=0, end_factor=0.05, step_iters=1
    ):
        self.max_iter, self.warmup_iters, self.warmup_power = max_iter, warmup_iters, warmup_power
        self.cosine_from = warmup_iters if cosine_from is None else cosine_from
        self.end_factor, self.step_iters = end_factor, step_iters
        self.cosine_to = max_iter - flat_iters
        require_positive(step_iters=step_iters)
        if not warmup_iters <= self.cosine_from < self.cosine_to:
            later = "" if cosine_from is None else "cosine_from, "
            raise UserError(
                f"The schedule has no room: warm-up until {warmup_iters}, cosine from {self.cosine_from} to {self.cosine_to} "
                f"(train.max_iter={max_iter} less flat_iters={flat_iters}). Lower lr_multiplier.warmup_iters, {later}"
                "flat_iters, or train longer."
            )

    def __call__(self, where):
        iteration = round(where * self.max_iter)
        if iteration < self.warmup_iters:
            return (iteration / self.warmup_iters) ** self.warmup_power
        done = max(iteration - self.cosine_from, 0) // self.step_iters * self.step_iters
        progress = min(done / (self.cosine_to - self.cosine_from), 1.0)
        return self.end_factor + (1 - self.end_factor) * (1 + math.cos(math.pi * progress)) / 2
