# VFNet-X, first part of vfnetx_r2_101_dcn_59e. Expected box AP on COCO val2017: 52.2. 8 GPUs x 2 images.
# The number is the final one less the 1.2 that the authors give for the averaging.
from ..common.data.vfnetx import dataloader, dataset
from ..common.models.vfnetx import model
from ..common.vfnet import lr_multiplier, optimizer, train, tta

train.output_dir = "output/vfnetx_r2_101_dcn_41e"
# OpenMMLab's ImageNet weights
train.init_checkpoint = "https://download.openmmlab.com/pretrain/third_party/res2net101_v1d_26w_4s_mmdetv2-f0a600f9.pth"
train.max_iter = 41 * 7330
lr_multiplier.milestones = [36 * 7330, 40 * 7330]
