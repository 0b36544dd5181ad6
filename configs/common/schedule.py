from dense_d2.engine import WarmupMultiStep

from detectron2.config import LazyCall as L

# YOLOF's 1x at 64 images a batch: 22.5k iterations, 12.3 epochs of COCO.
warmup_multistep = L(WarmupMultiStep)(
    max_iter="${train.max_iter}",
    milestones=[15000, 20000],
    gamma=0.1,
    warmup_iters=1500,
    warmup_factor=0.00066667,
)
