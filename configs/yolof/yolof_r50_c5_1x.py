# YOLOF paper, Table 1: R-50-C5, 1x. Expected box AP on COCO val2017: 37.7. 8 GPUs x 8 images.
from ..common.data.coco import dataloader, dataset
from ..common.models.yolof import model
from ..common.optim import sgd as optimizer
from ..common.schedule import warmup_multistep as lr_multiplier
from ..common.train import train, tta

train.output_dir = "output/yolof_r50_c5_1x"
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
train.max_iter = 22500
lr_multiplier.milestones = [15000, 20000]
optimizer.lr = 0.12
optimizer.params.lr_factors = dict(backbone=0.334)
