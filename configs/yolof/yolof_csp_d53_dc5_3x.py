# YOLOF, released model zoo: CSPDarkNet-53-DC5, 3x. Expected box AP on COCO val2017: 41.2. 8 GPUs x 8 images.
from ..common.data.coco_mosaic import dataloader, dataset
from ..common.models.yolof_csp import model
from ..common.optim import sgd as optimizer
from ..common.schedule import warmup_multistep as lr_multiplier
from ..common.train import train, tta

train.output_dir = "output/yolof_csp_d53_dc5_3x"
train.init_checkpoint = "cspdarknet53.pth"  # the authors' ImageNet weights, from the links in their README
train.max_iter = 67500
lr_multiplier.milestones = [52500, 62500]
optimizer.lr = 0.04
