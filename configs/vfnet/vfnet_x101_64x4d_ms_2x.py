# VFNet model zoo: X-101-64x4d, multi-scale, 2x. Expected box AP on COCO val2017: 48.2 (test-dev 48.5). 8 GPUs x 2 images.
from .vfnet_r50_ms_2x import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/vfnet_x101_64x4d_ms_2x"
# OpenMMLab's ImageNet weights
train.init_checkpoint = "https://download.openmmlab.com/pretrain/third_party/resnext101_64x4d-ee2c6f71.pth"
model.backbone.bottom_up.stages.update(depth=101, num_groups=64, width_per_group=4)
