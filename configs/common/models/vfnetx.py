from vfnet_d2.pafpn import PAFPNX

from detectron2.config import LazyCall as L

from .vfnet_res2net import model

# VFNet-X: Res2Net-101 with deformable stages, PAFPNX and a larger head of 384 channels, soft-NMS.
model.backbone.bottom_up.stages.deform_on_per_stage = [False, True, True, True]
model.backbone = L(PAFPNX)(
    bottom_up=model.backbone.bottom_up, in_features=["res3", "res4", "res5"], out_channels=384, norm="GN"
)
model.head.update(feat_channels=384, num_convs=4, deform_last_conv=True)
model.update(soft_nms=True, test_nms_thresh=0.65)
