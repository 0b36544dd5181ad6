# VFNet model zoo: R-50, multi-scale, 2x. Expected box AP on COCO val2017: 44.5 (test-dev 44.8). 8 GPUs x 2 images.
from ..common.data.vfnet import dataloader, dataset
from ..common.models.vfnet import model
from ..common.vfnet import lr_multiplier, optimizer, train, tta

train.output_dir = "output/vfnet_r50_ms_2x"
train.max_iter = 24 * 7330
lr_multiplier.milestones = [16 * 7330, 22 * 7330]
dataloader.train.mapper.augmentations[0].update(short_edge=[480, 960], long_edge=1333)
