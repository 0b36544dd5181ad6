# YOLOX paper, Table 5: L with copy-paste instead of MixUp. Expected box AP on COCO val2017: 49.4 (49.5 with MixUp).
# 8 GPUs x 8 images. The authors never released theirs: see dense_d2/data/copy_paste.py for what ours does.
from dense_d2.data import CopyPaste

from detectron2.config import LazyCall as L

from ..yolox_l import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/yolox_l_copy_paste"
dataloader.train.keep_masks = True
dataloader.train.composition.strong[1] = L(CopyPaste)(scale=[0.5, 1.5])
