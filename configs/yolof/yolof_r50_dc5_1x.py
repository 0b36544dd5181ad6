# YOLOF paper, Table 9: R-50-DC5 (stride 16), 1x. Expected box AP on COCO val2017: 39.2. 8 GPUs x 8 images.
# Dilations as in the released code; the paper says 2, 4, 6, 8.
from .yolof_r50_c5_1x import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/yolof_r50_dc5_1x"
model.backbone.stages.res5_dilation = 2
model.head.encoder.block_dilations = [4, 8, 12, 16]
model.head.decoder.num_anchors = 6
model.anchor_generator.sizes = [[16, 32, 64, 128, 256, 512]]
model.anchor_generator.strides = [16]
model.matcher.topk = 8
model.pos_ignore_thresh = 0.1
