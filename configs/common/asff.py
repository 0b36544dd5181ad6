from dense_d2.engine import WarmupCosine

from detectron2.config import LazyCall as L

from .optim import sgd as optimizer
from .train import train, tta

# ASFF's released recipe: epochs 0 to 300 of 1848 iterations, 64 images each. The learning rate does not follow the batch
# size, everything decays, norms and biases too, gradients are not clipped. The authors start from their Darknet-53 of
# ImageNet: train.init_checkpoint=darknet53_feature_mx.pth, from their repository.
train.max_iter = 301 * 1848
train.eval_period = train.checkpointer.period = 10 * 1848
train.cudnn_benchmark = True

optimizer.update(lr=1e-3, momentum=0.9, weight_decay=5e-4)
optimizer.params.weight_decay_norm = None

lr_multiplier = L(WarmupCosine)(
    max_iter="${train.max_iter}",
    warmup_iters=5 * 1848,
    warmup_power=4,
    cosine_from=20 * 1848,
    flat_iters=31 * 1848,  # epochs 270 to 300
    end_factor=0.01,
    step_iters=1848,
)
