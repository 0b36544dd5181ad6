# VFNet model zoo: Res2Net-101 v1d, multi-scale, 2x. Expected box AP on COCO val2017: 49.2 (test-dev 49.3). 8 GPUs x 2 images.
from ..common.models.vfnet_res2net import model
from .vfnet_r50_ms_2x import dataloader, dataset, lr_multiplier, optimizer, train, tta

train.output_dir = "output/vfnet_r2_101_ms_2x"
# OpenMMLab's ImageNet weights
train.init_checkpoint = "https://download.openmmlab.com/pretrain/third_party/res2net101_v1d_26w_4s_mmdetv2-f0a600f9.pth"
