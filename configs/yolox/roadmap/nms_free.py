# YOLOX paper, Table 2: + NMS free. Expected box AP on COCO val2017: 46.5. 8 GPUs x 8 images.
# The paper refers to PSS for it; weights and quality are arguments of the model.
from yolox_d2.one_to_one import OneToOneAssigner

from detectron2.config import LazyCall as L

from ...common.data.yolox import dataloader, dataset
from ...common.models.yolox_darknet53 import model
from ...common.yolox import lr_multiplier, optimizer, train, tta

train.output_dir = "output/nms_free"
dataloader.train.close_iters = 15 * 1849  # the paper's
model.head.selector = True
model.select_assigner = L(OneToOneAssigner)(alpha=0.8, radius=1.5)
model.max_detections_per_image = 100
