from .vfnet import model

# A thin VFNet for one CPU, trained from scratch: half of ResNet-18, live batch norm, 64 channels.
model.backbone.bottom_up.stages.update(depth=18, base_channels=32, norm="BN")
model.backbone.bottom_up.stem.out_channels = 32
model.backbone.bottom_up.freeze_at = 0
model.backbone.out_channels = 64
model.head.update(feat_channels=64, num_convs=1)
