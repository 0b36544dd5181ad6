# VarifocalNet paper, Table 5: VFNet, varifocal loss, which is VFNet-R50. Expected box AP on COCO val2017: 41.6.
# 8 GPUs x 2 images.
from ....common.data.vfnet import dataloader, dataset
from ....common.models.vfnet import model
from ....common.vfnet import lr_multiplier, optimizer, train, tta

train.output_dir = "output/vfnet_varifocal"
