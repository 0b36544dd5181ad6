# YOLOX-Tiny, Table 4 and the released model zoo. Expected box AP on COCO val2017: 32.8 (paper: 31.7). 8 GPUs x 8 images.
from dense_d2.data import MosaicWarp

from detectron2.config import LazyCall as L

from ..common.data.yolox import dataloader, dataset
from ..common.models.yolox import model
from ..common.yolox import lr_multiplier, optimizer, train, tta

train.output_dir = "output/yolox_tiny"
model.backbone.bottom_up.update(depth=0.33, width=0.375)
# Trained at 320 to 640 pixels, tested at 416; milder scale jitter and no MixUp (section 2.2).
dataloader.train.composition.strong = [L(MosaicWarp)(degrees=10, translate=0.1, scale=[0.5, 1.5], shear=2)]
dataloader.train.multi_scale.sizes = [320, 352, 384, 416, 448, 480, 512, 544, 576, 608, 640]
dataloader.test.mapper.augmentations[0].size = 416
