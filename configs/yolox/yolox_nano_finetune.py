# Fine-tuning the released YOLOX-Nano on a small data set, on a CPU; made for BCCD (205 training images of blood cells).
from .yolox_nano import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/yolox_nano_finetune"
train.init_checkpoint = "yolox_nano.pth"  # from the authors' release page
train.reinit_head = True
train.max_iter = 600
train.eval_period = train.checkpointer.period = 150
train.cudnn_benchmark = False
train.hooks.ema.warmup = 100
dataloader.train.update(total_batch_size=8, num_workers=2, close_iters=150)
dataloader.train.composition.input_size = 416
dataloader.test.num_workers = 0
optimizer.lr = 0.04  # at 64 images
lr_multiplier.update(warmup_iters=50, flat_iters=100)
