# YOLOF, released model zoo: CSPDarkNet-53-DC5, 9x. Expected box AP on COCO val2017: 42.8. 8 GPUs x 8 images.
from .yolof_csp_d53_dc5_3x import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/yolof_csp_d53_dc5_9x"
train.max_iter = 202500
lr_multiplier.milestones = [187500, 197500]
