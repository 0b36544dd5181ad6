# ASFF paper, Table 3: levels added up instead of weighed. Expected box AP on COCO val2017: 39.3. 4 GPUs x 16 images.
# No code was released: resized as in ASFF, without its weights.
from ...asff_darknet53_baseline import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/sum"
model.backbone.fusion = "sum"
