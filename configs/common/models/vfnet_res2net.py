from dense_d2.modeling.res2net import DeepStem, make_res2net_stages

from detectron2.config import LazyCall as L

from .vfnet import model

# Res2Net-101 v1d 26w x 4s.
bottom_up = model.backbone.bottom_up
bottom_up.stem = L(DeepStem)(in_channels=3, out_channels=64, norm="${..stages.norm}")
bottom_up.stages = L(make_res2net_stages)(
    depth=101,
    base_width=26,
    scales=4,
    norm="StatFrozenBN",
    deform_on_per_stage=[False, False, False, False],
)
