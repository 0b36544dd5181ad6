from .yolof import model

# A thin YOLOF for one CPU, trained from scratch: half of ResNet-18 up to res4 (stride 16), live batch norm.
model.backbone.stages.update(depth=18, base_channels=32, norm="BN")
model.backbone.stem.out_channels = 32
model.backbone.update(out_features=["res4"], freeze_at=0)
model.head_in_features = ["res4"]
model.head.encoder.update(in_channels=128, channels=128, block_mid_channels=32)
model.head.decoder.update(num_anchors=5, cls_num_convs=1, reg_num_convs=2)
model.anchor_generator.update(sizes=[[16, 32, 64, 96, 128]], strides=[16])
model.matcher.topk = 8
model.pos_ignore_thresh = 0.1
model.pixel_std = [57.375, 57.12, 58.395]
