"""Decoder: a short classification tower, a longer box tower, and an objectness that no loss of its own trains.

Source: YOLOF, section 4.2.2 and Fig. 4; the implicit objectness is that of AutoAssign.

Shapes: N images, C channels, H x W the feature map, A anchors a cell, K classes.
"""

import math

from dense_d2.modeling.layers import bias_of, make_activation, make_norm

import torch
from torch import nn

__all__ = ["YOLOFDecoder", "combine_objectness"]

MAX_LOGIT = math.log(1e8)


def combine_objectness(cls_logits, object_logits, *, max_logit=MAX_LOGIT):
    """Logit of sigmoid(cls) * sigmoid(object), in float32.

    The released code clamps exp(x) at 1e8, which is finite forwards but NaN backwards once exp overflows (x > 88.7).
    Clamping x at ln(1e8) first gives the same values and gradients below that, and finite ones above.

    Args:
        cls_logits, object_logits: tensors that broadcast.
        max_logit: where the clamp sets in.
    """
    cls_logits, object_logits = cls_logits.float(), object_logits.float()
    cls_exp, object_exp = cls_logits.clamp(max=max_logit).exp(), object_logits.clamp(max=max_logit).exp()
    return cls_logits + object_logits - torch.log1p(cls_exp + object_exp)


class YOLOFDecoder(nn.Module):
    """Predicts class logits and box deltas of every anchor."""

    def __init__(
        self,
        *,
        in_channels=512,
        num_classes,
        num_anchors=5,
        cls_num_convs=2,
        reg_num_convs=4,
        norm="BN",
        activation="ReLU",
        prior_prob=0.01,
    ):
        """
        Args:
            in_channels: C of the encoder's output.
            num_classes: K.
            num_anchors: A.
            cls_num_convs, reg_num_convs: length of the two towers.
            norm: see `detectron2.layers.get_norm`.
            activation: "ReLU" or "LeakyReLU".
            prior_prob: class probability at initialisation; the objectness halves it once more.
        """
        super().__init__()
        self.num_classes, self.num_anchors = num_classes, num_anchors

        def tower(num_convs):
            layers = []
            for _ in range(num_convs):
                layers.append(nn.Conv2d(in_channels, in_channels, kernel_size=3, padding=1))
                layers.append(make_norm(norm, in_channels))
                layers.append(make_activation(activation))
            return nn.Sequential(*layers)

        def prediction(channels):
            return nn.Conv2d(in_channels, num_anchors * channels, kernel_size=3, padding=1)

        self.cls_subnet = tower(cls_num_convs)
        self.bbox_subnet = tower(reg_num_convs)
        self.cls_score = prediction(num_classes)
        self.bbox_pred = prediction(4)
        self.object_pred = prediction(1)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)
        nn.init.constant_(self.cls_score.bias, bias_of(prior_prob))

    def forward(self, feature):
        """
        Args:
            feature: (N, C, H, W).
        Returns:
            logits (N, A*K, H, W) float32 with the objectness in them, deltas (N, A*4, H, W); channels are anchor-major.
        """
        cls_logits = self.cls_score(self.cls_subnet(feature))
        reg_feature = self.bbox_subnet(feature)
        deltas = self.bbox_pred(reg_feature)
        object_logits = self.object_pred(reg_feature)
        shape = (-1, self.num_anchors, self.num_classes) + cls_logits.shape[-2:]
        logits = combine_objectness(cls_logits.view(shape), object_logits.unsqueeze(2))
        return logits.flatten(1, 2), deltas
