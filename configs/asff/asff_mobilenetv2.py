# ASFF, released model zoo: MobileNetV2 at 416, without ASFF. Expected box AP on COCO val2017: 29.0, by the README, which does
# not name the split. 8 GPUs x 8 images (released: 8 a GPU). Without deformable convolution. Starts from torchvision's
# ImageNet weights: train.init_checkpoint=FILE.
from ..common.asff import lr_multiplier, optimizer, train, tta
from ..common.data.asff import dataloader, dataset
from ..common.models.asff_mobilenetv2 import model

train.output_dir = "output/asff_mobilenetv2"
model.backbone.fusion = "none"
dataloader.test.mapper.augmentations[0].size = 416
