# VarifocalNet paper, Table 5: RetinaNet, focal loss. Expected box AP on COCO val2017: 36.5. 4 GPUs x 4 images.
from dense_d2.modeling.retinanet import BestOfBoxMatcher
from vfnet_d2.fpn import VFNetFPN
from vfnet_d2.varifocal_loss import FocalLoss

from detectron2.config import LazyCall as L

from ....common.data.vfnet import dataloader, dataset
from ....common.models.retinanet import model
from ....common.vfnet import lr_multiplier, optimizer, train, tta

train.output_dir = "output/retinanet_focal"
optimizer.params.update(weight_decay_bias=None, bias_lr_factor=1.0)  # biases are like weights

# mmdetection's RetinaNet; but at test each level's best are (anchor, class) pairs, as in Detectron2, not anchors
model.backbone.bottom_up.stages.update(stride_in_1x1=False, norm="StatFrozenBN")
model.backbone = L(VFNetFPN)(
    bottom_up=model.backbone.bottom_up, out_channels=256, top_in_feature="res5", relu_before_p7=False
)
model.anchor_matcher._target_ = BestOfBoxMatcher
model.update(loss_normalizer="batch", ignore_padding=True, input_format="RGB")
model.update(pixel_mean=[123.675, 116.28, 103.53], pixel_std=[58.395, 57.12, 57.375])
model.cls_loss = L(FocalLoss)(alpha=0.25, gamma=2.0)
