"""From annotation file to batch.

Two ways from record to sample: YOLOF and VFNet augment one image with Detectron2's transforms
(`mapper`); YOLOX and ASFF compose pictures. Reading order for those: picture (read), composition (order of
the steps), then the steps. `train_dataset`, `sampler` and `loader` make samples and batches of either.
"""

from .beta_mixup import BetaMixUp
from .composition import Composition
from .copy_paste import CopyPaste
from .distortion import RandomDistortion
from .flip import RandomFlip
from .hsv import RandomHSV
from .jitter_crop import RandomJitterCrop
from .letterbox import Letterbox, LetterboxResize
from .loader import build_test_loader, build_train_loader
from .mapper import DenseMapper
from .mixup import MixUp
from .mosaic import Mosaic
from .mosaic_warp import MosaicWarp
from .multi_scale import MultiScale
from .photometric import PhotometricDistortion
from .picture import PictureReader
from .random_affine import RandomAffine
from .resize import SquareResize
from .shift import RandomShift
from .ssd_crop import Expand, MinIoUCrop
from .stretch import Stretch, StretchResize

__all__ = [
    "BetaMixUp",
    "Composition",
    "CopyPaste",
    "DenseMapper",
    "Expand",
    "Letterbox",
    "LetterboxResize",
    "MinIoUCrop",
    "MixUp",
    "Mosaic",
    "MosaicWarp",
    "MultiScale",
    "PhotometricDistortion",
    "PictureReader",
    "RandomAffine",
    "RandomDistortion",
    "RandomFlip",
    "RandomHSV",
    "RandomJitterCrop",
    "RandomShift",
    "SquareResize",
    "Stretch",
    "StretchResize",
    "build_test_loader",
    "build_train_loader",
]
