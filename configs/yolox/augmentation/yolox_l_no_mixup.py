# YOLOX paper, Table 5: L with Mosaic alone. Expected box AP on COCO val2017: 48.6 (49.5 with MixUp). 8 GPUs x 8 images.
from ..yolox_l import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/yolox_l_no_mixup"
del dataloader.train.composition.strong[1]
