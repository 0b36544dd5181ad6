# ASFF paper, Table 4: ASFF* trained at 480 to 800 pixels, tested at 800. Expected box AP on COCO test-dev: 43.9; not given for
# val2017, and no code was released for this training. 4 GPUs x 16 images.
from .asff_darknet53_asff_star import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/asff_darknet53_asff_star_800"
dataloader.train.composition.input_size = 800
dataloader.train.multi_scale.sizes = [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]
dataloader.test.mapper.augmentations[0].size = 800
