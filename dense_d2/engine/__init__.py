"""Training: the trainers, one step of theirs, hooks, parameter groups and schedules, and starting of processes."""

from .hooks import EMA, SWA, SwitchOn
from .launch import launch
from .optim import CosineCycles, WarmupCosine, WarmupMultiStep, param_groups
from .step import StepTrainer
from .trainer import LazyTrainer
from .yacs_trainer import YacsTrainer

__all__ = [
    "EMA",
    "SWA",
    "CosineCycles",
    "LazyTrainer",
    "StepTrainer",
    "SwitchOn",
    "WarmupCosine",
    "WarmupMultiStep",
    "YacsTrainer",
    "launch",
    "param_groups",
]
