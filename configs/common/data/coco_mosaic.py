from dense_d2.data import Mosaic, RandomDistortion, RandomJitterCrop, RandomShift, SquareResize

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from .coco import dataloader, dataset

# YOLOF's CSPDarkNet recipe, after YOLOv4: square images of 512 to 767 pixels, or mosaics of 640.
dataloader.train.mapper.augmentations = [
    L(RandomJitterCrop)(ratio=0.3),
    L(SquareResize)(size=640, jitter=[0.8, 1.2]),
    L(RandomDistortion)(hue=0.1, saturation=1.5, exposure=1.5),
    L(T.RandomFlip)(horizontal=True),
    L(RandomShift)(max_shift=32, prob=0.5),
]
dataloader.train.composition = L(Mosaic)(size=640, prob=0.5)
dataloader.test.mapper.augmentations = [L(SquareResize)(size=608)]
