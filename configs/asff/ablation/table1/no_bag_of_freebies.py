# ASFF paper, Table 1, row 1: YOLOv3 without the bag of freebies. Expected box AP on COCO val2017: not known. The 33.0 there
# is the YOLOv3 paper's, of other code and on test-dev; ASFF's authors released nothing for this row. 4 GPUs x 16 images.
# Off: mixup, cosine, SyncBN (the paper's list), label smoothing, affine maps, random interpolation. SPP and anchors stay.
from ....common.asff import optimizer, train, tta
from ....common.data.asff import dataloader, dataset
from ....common.models.asff import model
from ....common.schedule import warmup_multistep as lr_multiplier

train.output_dir = "output/no_bag_of_freebies"
model.backbone.update(fusion="none", norm="BN")
model.update(iou_loss=False, label_smoothing=False)
model.head.guided_anchor = False
model.anchors.free_slot = False
dataloader.train.composition.strong = []
del dataloader.train.composition.final[4]  # the affine map
dataloader.train.composition.final[4].interpolations = ["linear"]
lr_multiplier.update(milestones=[180 * 1848, 240 * 1848], warmup_iters=5 * 1848, warmup_factor=0.0)
