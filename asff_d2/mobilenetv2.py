"""MobileNetV2 (Sandler et al. 2018) as ASFF's mobile models use it, on torchvision's layers and names."""

from functools import partial

from dense_d2.modeling.layers import make_norm

from detectron2.modeling import Backbone
from torchvision.models import mobilenet_v2

__all__ = ["MobileNetV2"]

# output name -> index of its last layer, channels, stride
STAGES = {"res3": (6, 32, 8), "res4": (13, 96, 16), "res5": (18, 1280, 32)}


class MobileNetV2(Backbone):
    """Outputs "res3" (32 channels, stride 8), "res4" (96, 16) and "res5" (1280, 32: behind the last 1x1 convolution)."""

    def __init__(self, *, norm="BN"):
        super().__init__()
        self.features = mobilenet_v2(norm_layer=partial(make_norm, norm)).features
        self._out_features = list(STAGES)
        self._out_feature_channels = {name: channels for name, (_, channels, _) in STAGES.items()}
        self._out_feature_strides = {name: stride for name, (_, _, stride) in STAGES.items()}

    @property
    def size_divisibility(self):
        return 32

    def forward(self, x):
        """(N, 3, H, W) -> dict of feature maps."""
        outputs = {}
        names = {last: name for name, (last, _, _) in STAGES.items()}
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in names:
                outputs[names[i]] = x
        return outputs
