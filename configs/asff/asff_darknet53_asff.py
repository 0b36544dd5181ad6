# ASFF paper, Table 3: YOLOv3 + ASFF at 608. Expected box AP on COCO val2017: 40.6 (Table 4, test-dev: 40.7). 4 GPUs x 16 images.
# Other sizes, dataloader.test.mapper.augmentations.0.size=320 or 416: 36.7, 39.0 on test-dev.
# No independent training to this AP is known; users report losses of NaN, one with this very batch.
from ..common.asff import lr_multiplier, optimizer, train, tta
from ..common.data.asff import dataloader, dataset
from ..common.models.asff import model

train.output_dir = "output/asff_darknet53_asff"
