"""VFNet: VarifocalNet, an IoU-aware dense detector (Zhang et al., CVPR 2021).

Reading order: vfnet (meta-architecture), head, star_conv, varifocal_loss, atss, points; then fcos_assigner, soft_nms, the necks
fpn and pafpn, released, config.
"""

from dense_d2.config import register_yacs_defaults

from .config import add_vfnet_config
from .vfnet import VFNet

__all__ = ["VFNet", "add_vfnet_config"]

register_yacs_defaults(add_vfnet_config)
