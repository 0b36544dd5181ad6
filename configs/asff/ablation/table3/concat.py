# ASFF paper, Table 3: levels concatenated instead of weighed. Expected box AP on COCO val2017: 39.5.
# 4 GPUs x 16 images. No code was released: resized as in ASFF, and the last convolution reads all three maps; the paper's
# 42 FPS fit that better than a 1x1 reduction.
from ...asff_darknet53_baseline import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/concat"
model.backbone.fusion = "concat"
