"""VFNet: VarifocalNet, an IoU-aware dense detector (Zhang et al., CVPR 2021).

Reading order: vfnet (meta-architecture), head, star_conv, varifocal_loss, atss, points; then fcos_assigner, soft_nms, the necks
fpn and pafpn, released, config; and hosts, the other detectors that the varifocal loss was tried in.
"""

from .config import add_vfnet_config
from .fpn import build_vfnet_resnet_fpn_backbone
from .hosts import ATSS, FoveaBox, RepPoints
from .pafpn import PAFPNX
from .vfnet import VFNet

__all__ = ["ATSS", "FoveaBox", "PAFPNX", "RepPoints", "VFNet", "add_vfnet_config", "build_vfnet_resnet_fpn_backbone"]
