# YOLOX paper, Table 5: Nano with MixUp and scales of 0.1 to 2. Expected box AP on COCO val2017: 24.0 (25.3 without).
# 8 GPUs x 8 images.
from dense_d2.data import MixUp

from detectron2.config import LazyCall as L

from ..yolox_nano import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/yolox_nano_strong"
dataloader.train.composition.strong[0].scale = [0.1, 2.0]
dataloader.train.composition.strong.append(L(MixUp)(scale=[0.5, 1.5]))
