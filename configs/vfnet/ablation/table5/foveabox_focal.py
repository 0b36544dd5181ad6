# VarifocalNet paper, Table 5: FoveaBox, focal loss. Expected box AP on COCO val2017: 36.3. 4 GPUs x 4 images.
from ....common.data.vfnet import dataloader, dataset
from ....common.models.foveabox import model
from ....common.vfnet import lr_multiplier, optimizer, train, tta

train.output_dir = "output/foveabox_focal"
optimizer.params.update(weight_decay_bias=None, bias_lr_factor=1.0)  # biases are like weights
