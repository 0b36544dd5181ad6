# VarifocalNet paper, Table 5: ATSS, focal loss. Expected box AP on COCO val2017: 39.3. 8 GPUs x 2 images.
from ....common.data.vfnet import dataloader, dataset
from ....common.models.atss import model
from ....common.vfnet import lr_multiplier, optimizer, train, tta

train.output_dir = "output/atss_focal"
lr_multiplier.warmup_factor = 0.001
optimizer.params.update(weight_decay_bias=None, bias_lr_factor=1.0)  # biases are like weights
