from .optim import sgd as optimizer
from .schedule import warmup_multistep as lr_multiplier
from .train import train, tta

# Detectron2's 1x: 90k iterations of 16 images, 12.2 epochs of COCO.
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
train.max_iter = 90000
train.eval_period = train.checkpointer.period = 5000
lr_multiplier.update(milestones=[60000, 80000], warmup_iters=1000, warmup_factor=0.001)
optimizer.update(lr=0.01, momentum=0.9, weight_decay=1e-4)
