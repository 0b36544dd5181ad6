# ASFF paper, Table 4: ASFF* at 608: RFB, DropBlock, a longer schedule. 4 GPUs x 16 images. Expected box AP on COCO test-dev:
# 42.4; 38.1 at 320, 40.6 at 416 (dataloader.test.mapper.augmentations.0.size=320). Not given for val2017.
# 1.5 times the epochs, as the paper says ("450 to 500", the author wrote); where the released schedule of DropBlock (epochs
# 5, 80, 150) goes then is not known: it stays.
from asff_d2.drop_block import DropBlock, DropBlockSchedule

from detectron2.config import LazyCall as L

from ..common.asff import lr_multiplier, optimizer, train, tta
from ..common.data.asff import dataloader, dataset
from ..common.models.asff import model

train.output_dir = "output/asff_darknet53_asff_star"
train.max_iter = 451 * 1848
train.hooks.drop_block = L(DropBlockSchedule)(
    starts=[5 * 1848, 80 * 1848, 150 * 1848], block_sizes=[[1, 3, 5], [3, 5, 7], [7, 7, 7]], seed="${train.seed}"
)
model.backbone.compress_channels = 8
model.backbone.bottom_up.drop_blocks = [
    L(DropBlock)(keep_prob=0.9),
    L(DropBlock)(keep_prob=0.9),
    L(DropBlock)(keep_prob=0.9),
]
model.head.rfb = True
