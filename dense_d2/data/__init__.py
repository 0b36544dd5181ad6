"""From annotation file to batch. Reading order: mapper, loader, then the augmentations."""

from .distortion import RandomDistortion
from .jitter_crop import RandomJitterCrop
from .loader import build_test_loader, build_train_loader
from .mapper import DenseMapper
from .mosaic import Mosaic
from .resize import SquareResize
from .shift import RandomShift

__all__ = [
    "DenseMapper",
    "Mosaic",
    "RandomDistortion",
    "RandomJitterCrop",
    "RandomShift",
    "SquareResize",
    "build_test_loader",
    "build_train_loader",
]
