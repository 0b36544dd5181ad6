"""Training: the trainers, one step of theirs, hooks, parameter groups and schedules, and starting of processes."""

from .hooks import EMA
from .launch import launch
from .optim import WarmupMultiStep, param_groups
from .step import StepTrainer
from .trainer import LazyTrainer, YacsTrainer

__all__ = ["EMA", "LazyTrainer", "StepTrainer", "WarmupMultiStep", "YacsTrainer", "launch", "param_groups"]
