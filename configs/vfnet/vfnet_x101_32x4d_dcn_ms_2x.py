# VFNet model zoo: X-101-32x4d-DCN, multi-scale, 2x. Expected box AP on COCO val2017: 49.7 (test-dev 50.0). 8 GPUs x 2 images.
from .vfnet_r50_ms_2x import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/vfnet_x101_32x4d_dcn_ms_2x"
# OpenMMLab's ImageNet weights
train.init_checkpoint = "https://download.openmmlab.com/pretrain/third_party/resnext101_32x4d-a5af3160.pth"
model.backbone.bottom_up.stages.update(depth=101, num_groups=32, width_per_group=4)
model.backbone.bottom_up.stages.deform_on_per_stage = [False, True, True, True]
model.head.deform_last_conv = True
