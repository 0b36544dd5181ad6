from dense_d2.data.cutout import CutOut
from dense_d2.data.keep_ratio_resize import KeepRatioResize
from dense_d2.data.random_crop import ReplaceEmpty

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from .vfnet import dataloader, dataset

# VFNet-X: crops of at least 3/4 of each side, both edges of the size drawn independently, black holes.
dataloader.train.mapper.augmentations = [
    L(T.RandomApply)(tfm_or_aug=L(T.RandomCrop)(crop_type="relative_range", crop_size=[0.75, 0.75]), prob=0.5),
    L(KeepRatioResize)(short_edge=[500, 1400], long_edge=[750, 2100]),
    L(CutOut)(num_holes=[5, 10], prob=0.5),
    L(T.RandomFlip)(horizontal=True),
]
dataloader.train.composition = L(ReplaceEmpty)()
