from dense_d2.modeling.darknet import Darknet53
from dense_d2.modeling.yolov3_fpn import YOLOv3FPN

from detectron2.config import LazyCall as L

from .yolox import model

# Darknet-53 with SPP and YOLOv3's top-down path, leaky ReLU everywhere.
model.backbone = L(YOLOv3FPN)(
    bottom_up=L(Darknet53)(norm="BN", norm_eps=1e-3, norm_momentum=0.03, activation="LeakyReLU"),
    in_features=["dark3", "dark4", "dark5"],
    norm="${.bottom_up.norm}",
    norm_eps="${.bottom_up.norm_eps}",
    norm_momentum="${.bottom_up.norm_momentum}",
    activation="${.bottom_up.activation}",
)
model.head.update(in_channels=[128, 256, 512], width=1.0, depthwise=False)
