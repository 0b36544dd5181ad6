from .asff import model

# A thin YOLOv3 + ASFF for one CPU, trained from scratch: a quarter of the width, a third of Darknet-53's blocks, anchors
# guided but without deformable convolution, which is most of a training step on a CPU.
model.backbone.bottom_up.bottom_up.update(base_channels=8, num_blocks=[1, 1, 2, 2, 1])
model.backbone.bottom_up.channels = 32
model.backbone.update(out_channels=[64, 128, 256], widen=dict(p3=64), norm="BN")
model.head.adaption = False
