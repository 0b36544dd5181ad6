# ASFF, released model zoo: MobileNetV2 + ASFF at 416. Expected box AP on COCO val2017: 30.6, by the README, which does not name
# the split. 8 GPUs x 8 images. In float16, users report losses of NaN for the mobile models.
from .asff_mobilenetv2 import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/asff_mobilenetv2_asff"
model.backbone.fusion = "asff"
