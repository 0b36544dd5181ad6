# YOLOF, released model zoo: CSPDarkNet-53-DC5, 3x more after 9x. Expected box AP on COCO val2017: 43.2. 8 GPUs x 8 images.
from .yolof_csp_d53_dc5_3x import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/yolof_csp_d53_dc5_9x_stage2_3x"
train.init_checkpoint = "output/yolof_csp_d53_dc5_9x/model_final.pth"
model.neg_ignore_thresh = 0.8
