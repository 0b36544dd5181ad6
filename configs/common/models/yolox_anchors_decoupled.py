from yolox_d2.head import YOLOXHead

from detectron2.config import LazyCall as L

from .yolox_anchors import model

# The baseline with YOLOX's head on its three anchors.
model.head = L(YOLOXHead)(
    in_channels=[128, 256, 512],
    channels=256,
    num_classes="${..num_classes}",
    num_anchors=3,
    selector=False,
    norm="${..backbone.norm}",
    norm_eps="${..backbone.norm_eps}",
    norm_momentum="${..backbone.norm_momentum}",
    activation="${..backbone.activation}",
    prior_prob=0.01,
)
