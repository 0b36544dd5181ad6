# VFNet model zoo: R-101, 2x. Expected box AP on COCO val2017: 43.5 (test-dev 43.9). 8 GPUs x 2 images.
from .vfnet_r50_1x import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/vfnet_r101_2x"
train.init_checkpoint = "resnet101-63fe2227.pth"  # torchvision's ImageNet weights, IMAGENET1K_V1
model.backbone.bottom_up.stages.depth = 101
train.max_iter = 24 * 7330
lr_multiplier.milestones = [16 * 7330, 22 * 7330]
