# VFNet model zoo: R-101, multi-scale, 2x. Expected box AP on COCO val2017: 46.2 (test-dev 46.7). 8 GPUs x 2 images.
from .vfnet_r50_ms_2x import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/vfnet_r101_ms_2x"
train.init_checkpoint = "resnet101-63fe2227.pth"  # torchvision's ImageNet weights, IMAGENET1K_V1
model.backbone.bottom_up.stages.depth = 101
