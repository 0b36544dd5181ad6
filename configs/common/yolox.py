from dense_d2.engine import EMA, SwitchOn, WarmupCosine

from detectron2.config import LazyCall as L

from .optim import sgd as optimizer
from .train import train, tta

# YOLOX's recipe: 300 epochs of 1849 iterations, 64 images each. The learning rate follows the batch size, 0.01 at 64.
train.max_iter = 300 * 1849
train.eval_period = train.checkpointer.period = 10 * 1849
train.cudnn_benchmark = True
train.hooks.ema = L(EMA)(decay=0.9998, warmup=2000)
train.hooks.l1 = L(SwitchOn)(attribute="use_l1", last_iters="${dataloader.train.close_iters}")

optimizer.update(lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
optimizer.params.update(
    weight_decay_bias=0.0, batch_size="${dataloader.train.total_batch_size}", lr_batch_size=64
)  # no decay of norms either

lr_multiplier = L(WarmupCosine)(
    max_iter="${train.max_iter}",
    warmup_iters=5 * 1849,
    warmup_power=2,
    flat_iters=15 * 1849,
    end_factor=0.05,
)
