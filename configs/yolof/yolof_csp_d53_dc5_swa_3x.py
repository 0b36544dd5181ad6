# YOLOF paper, Table 3: CSPDarkNet-53-DC5, weight averaging after 9x + 3x. Expected box AP on COCO test-dev: 44.3 (`bbox_swa`).
# 8 GPUs x 8 images. The authors released no config: 12 cycles of a cosine, as in the paper they cite.
from dense_d2.engine import SWA, CosineCycles

from detectron2.config import LazyCall as L

from .yolof_csp_d53_dc5_9x_stage2_3x import dataloader, dataset, model, optimizer, train, tta

train.output_dir = "output/yolof_csp_d53_dc5_swa_3x"
train.init_checkpoint = "output/yolof_csp_d53_dc5_9x_stage2_3x/model_final.pth"
train.hooks.swa = L(SWA)(cycle_iters=5625)
lr_multiplier = L(CosineCycles)(max_iter="${train.max_iter}", cycle_iters=5625, end_factor=0.01)
