from dense_d2.data.keep_ratio_resize import KeepRatioResize

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from .coco import dataloader, dataset

# mmdetection's usual pipeline: OpenCV's bilinear resize, which loses less with released weights than Pillow's, and a flip.
dataloader.train.total_batch_size = 16
dataloader.train.mapper.augmentations = [
    L(KeepRatioResize)(short_edge=800, long_edge=1333),
    L(T.RandomFlip)(horizontal=True),
]
dataloader.test.mapper.augmentations = [L(KeepRatioResize)(short_edge=800, long_edge=1333)]
