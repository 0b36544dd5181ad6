# A thin YOLOv3 + ASFF from scratch for a small data set on a CPU; made for BCCD (205 training images of blood cells, 640x480).
from ..common.asff import lr_multiplier, train, tta
from ..common.data.asff import dataloader, dataset
from ..common.models.asff_thin import model
from ..common.optim import adamw as optimizer

train.output_dir = "output/asff_thin_bccd"
train.max_iter = 1500
train.eval_period = train.checkpointer.period = 250
train.cudnn_benchmark = False
train.clip_grad_norm = 10.0
# medians of the three kinds of cell, and about, in pixels of a 320x320 input
model.anchors.priors = [[[16, 20], [21, 26], [28, 34]], [[42, 56], [52, 67], [61, 78]], [[75, 95], [100, 120], [120, 150]]]
dataloader.train.update(total_batch_size=8, num_workers=0, close_iters=0)
dataloader.train.composition.update(input_size=320, strong=[])
dataloader.train.multi_scale.update(sizes=[256, 288, 320, 352, 384], fixed_iters=100)
dataloader.test.num_workers = 0
dataloader.test.mapper.augmentations[0].size = 320
lr_multiplier.update(warmup_iters=100, warmup_power=2, cosine_from=100, flat_iters=100, step_iters=1)
