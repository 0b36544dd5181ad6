# A thin YOLOv3 + ASFF from scratch for a small data set on a CPU; made for BCCD (205 training images of blood cells, 640x480).
from ..common.asff import lr_multiplier, train, tta
from ..common.data.asff import dataloader, dataset
from ..common.models.asff_thin import model
from ..common.optim import adamw as optimizer

train.output_dir = "output/asff_thin_bccd"
train.max_iter = 1200
train.eval_period = train.checkpointer.period = 200
train.cudnn_benchmark = False
# every cell starts with an objectness of 0.5: without this, AdamW remembers the first gradients until the end
train.clip_grad_norm = 10.0
# medians of the three kinds of cell, and about, in pixels of a 320x320 input
model.anchors.priors = [
    [[16, 20], [21, 26], [28, 34]],
    [[42, 56], [52, 67], [61, 78]],
    [[75, 95], [100, 120], [120, 150]],
]
model.label_smoothing = False  # its targets are 1/K and 1 - 1/K: of three classes it leaves little, of two nothing
dataloader.train.update(total_batch_size=8, num_workers=0, close_iters=0)
dataloader.train.composition.update(input_size=320, strong=[])
del dataloader.train.composition.final[2]  # MinIoUCrop: cells have one scale
del dataloader.train.composition.final[1]  # Expand
dataloader.train.multi_scale.update(sizes=[288, 320, 352], fixed_iters=100)
dataloader.test.num_workers = 0
dataloader.test.mapper.augmentations[0].size = 320
optimizer.lr = 2e-3
lr_multiplier.update(warmup_iters=100, warmup_power=2, cosine_from=100, flat_iters=50, step_iters=1)
