# ASFF paper, Table 5: RetinaNet R-50, the baseline. Expected box AP on COCO val2017: 35.9 in the paper, on
# maskrcnn-benchmark; 37.4 in Detectron2's model zoo, whose recipe this is. 8 GPUs x 2 images.
from ..common.data.retinanet import dataloader, dataset
from ..common.models.retinanet import model
from ..common.retinanet import lr_multiplier, optimizer, train, tta

train.output_dir = "output/retinanet_r50_1x"
