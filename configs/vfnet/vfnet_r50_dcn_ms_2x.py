# VFNet model zoo: R-50-DCN, multi-scale, 2x. Expected box AP on COCO val2017: 47.8 (test-dev 48.0). 8 GPUs x 2 images.
from .vfnet_r50_ms_2x import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/vfnet_r50_dcn_ms_2x"
model.backbone.bottom_up.stages.deform_on_per_stage = [False, True, True, True]
model.head.deform_last_conv = True
