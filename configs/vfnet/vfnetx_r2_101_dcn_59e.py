# VFNet-X, model zoo. Expected box AP on COCO val2017: 53.4 (`bbox_swa`; test-dev 53.7), at 1800x1200 54.5 (55.1).
# 8 GPUs x 2 images. 18 epochs, a cosine each, from the end of vfnetx_r2_101_dcn_41e (authors: from its best epoch); their
# weights' mean.
from dense_d2.engine import SWA, CosineCycles

from detectron2.config import LazyCall as L

from .vfnetx_r2_101_dcn_41e import dataloader, dataset, model, optimizer, train, tta

train.output_dir = "output/vfnetx_r2_101_dcn_59e"
train.init_checkpoint = "output/vfnetx_r2_101_dcn_41e/model_final.pth"
train.max_iter = 18 * 7330
train.hooks.swa = L(SWA)(cycle_iters=7330)
lr_multiplier = L(CosineCycles)(max_iter="${train.max_iter}", cycle_iters=7330, end_factor=0.01)
