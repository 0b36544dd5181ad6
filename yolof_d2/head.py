"""YOLOF's head: encoder and decoder behind one call."""

from detectron2.config import configurable
from torch import nn

from .decoder import YOLOFDecoder
from .encoder import DilatedEncoder

__all__ = ["YOLOFHead"]


class YOLOFHead(nn.Module):
    """One feature map in; logits and deltas of its anchors out."""

    @configurable
    def __init__(self, *, encoder, decoder):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    @classmethod
    def from_config(cls, cfg, input_shape, num_anchors):
        """`input_shape`: ShapeSpec of the backbone's feature map; `num_anchors`: A of the anchor generator."""
        encoder, decoder = cfg.MODEL.YOLOF.ENCODER, cfg.MODEL.YOLOF.DECODER
        if len(encoder.BLOCK_DILATIONS) != encoder.NUM_RESIDUAL_BLOCKS:
            raise ValueError(
                f"MODEL.YOLOF.ENCODER.BLOCK_DILATIONS={encoder.BLOCK_DILATIONS} does not have "
                f"NUM_RESIDUAL_BLOCKS={encoder.NUM_RESIDUAL_BLOCKS} entries; list one dilation per block"
            )
        return {
            "encoder": DilatedEncoder(
                in_channels=input_shape.channels,
                channels=encoder.NUM_CHANNELS,
                block_mid_channels=encoder.BLOCK_MID_CHANNELS,
                block_dilations=encoder.BLOCK_DILATIONS,
                shortcut=encoder.SHORTCUT,
                norm=encoder.NORM,
                activation=encoder.ACTIVATION,
            ),
            "decoder": YOLOFDecoder(
                in_channels=encoder.NUM_CHANNELS,
                num_classes=decoder.NUM_CLASSES,
                num_anchors=num_anchors,
                cls_num_convs=decoder.CLS_NUM_CONVS,
                reg_num_convs=decoder.REG_NUM_CONVS,
                norm=decoder.NORM,
                activation=decoder.ACTIVATION,
                prior_prob=decoder.PRIOR_PROB,
            ),
        }

    def forward(self, features):
        """[(N, C, H, W)] -> logits (N, A*K, H, W), deltas (N, A*4, H, W)."""
        (feature,) = features
        return self.decoder(self.encoder(feature))
