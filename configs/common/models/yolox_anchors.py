from yolox_d2.anchor_assigner import AnchorAssigner
from yolox_d2.box_coder import GridBoxCoder
from yolox_d2.head import CoupledHead

from detectron2.config import LazyCall as L

from .yolox_darknet53 import model

# YOLOX's baseline: YOLOv3-SPP with an objectness and an IoU loss. The paper gives neither anchors nor the assignment: these
# are YOLOv3's, and the best of them by shape; others that overlap a box by more than 0.7 count neither way.
model.head = L(CoupledHead)(
    in_channels=[128, 256, 512],
    num_classes="${..num_classes}",
    num_anchors=3,
    selector=False,
    norm="${..backbone.norm}",
    norm_eps="${..backbone.norm_eps}",
    norm_momentum="${..backbone.norm_momentum}",
    activation="${..backbone.activation}",
    prior_prob=0.01,
)
model.anchor_sizes = [
    [[10, 13], [16, 30], [33, 23]],
    [[30, 61], [62, 45], [59, 119]],
    [[116, 90], [156, 198], [373, 326]],
]
model.assigner = L(AnchorAssigner)(ignore_iou=0.7)
model.box_coder = L(GridBoxCoder)(sigmoid_centers=True)
