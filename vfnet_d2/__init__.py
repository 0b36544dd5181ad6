"""VFNet: VarifocalNet, an IoU-aware dense detector (Zhang et al., CVPR 2021)."""
