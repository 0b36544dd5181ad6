from .optim import sgd as optimizer
from .schedule import warmup_multistep as lr_multiplier
from .train import train, tta

# VFNet's 1x: 12 epochs of 7330 iterations, 16 images each; 2x: 24 epochs, drops after 16 and 22.
train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
train.max_iter = 12 * 7330
train.eval_period = train.checkpointer.period = 7330
lr_multiplier.update(milestones=[8 * 7330, 11 * 7330], warmup_iters=500, warmup_factor=0.1)

# Biases of convolutions learn twice as fast and do not decay; those of norms and of offset predictors are like weights.
optimizer.update(lr=0.01, momentum=0.9, weight_decay=1e-4)
optimizer.params.update(weight_decay_norm=None, weight_decay_bias=0.0, bias_lr_factor=2.0)

# The released code's scales. It merges all passes by one NMS; here each pass has its own first.
tta.update(min_sizes=[800, 900, 1000, 1200], max_size=[1200, 1300, 1500, 1600])
