from yolof_d2.cspdarknet import CSPDarkNet

from detectron2.config import LazyCall as L

from .yolof import model

# CSPDarkNet-53 with stride 16, eight dilated blocks, six anchors.
model.backbone = L(CSPDarkNet)(
    out_features=["res5"], norm="SyncBN", norm_eps=1e-4, norm_momentum=0.03, res5_dilation=2, freeze_at=2
)
model.head.encoder.update(
    in_channels=1024, block_dilations=[1, 2, 3, 4, 5, 6, 7, 8], norm="SyncBN", activation="LeakyReLU"
)
model.head.decoder.num_anchors = 6
model.anchor_generator.update(sizes=[[16, 32, 64, 128, 256, 512]], strides=[16])
model.matcher.topk = 8  # the paper and the official code; the author's Detectron2 port leaves 4
model.pos_ignore_thresh = 0.1
