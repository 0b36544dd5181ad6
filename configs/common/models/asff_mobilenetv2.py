from asff_d2.mobilenetv2 import MobileNetV2

from detectron2.config import LazyCall as L

from .asff import model

# The mobile models: ReLU6 throughout, no deformable convolution, the usual last anchor.
model.backbone.bottom_up.update(bottom_up=L(MobileNetV2)(norm="${...norm}"), in_features=["res3", "res4", "res5"])
model.backbone.update(widen={}, activation="ReLU6")
model.head.adaption = False
model.anchors.priors[2][2] = [373, 326]
model.init_slope = 0.0
