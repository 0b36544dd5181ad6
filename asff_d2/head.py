"""YOLOv3's head with guided anchors: their shapes are predicted first, and shift the points that a convolution reads.

Source: ASFF, section 3.1, after Wang et al. 2019 (guided anchoring); the released code, which has no location branch, four
slots a cell and no activation behind the deformable convolution.

Shapes: N images, C channels and H x W cells of a level, A slots a cell, K classes. The last slot is the free one: its
anchor is a square, not one of the prior sizes.
"""

from dense_d2.modeling.deform_conv import DeformConv2d

from torch import nn

from .rfb import ReceptiveFieldBlock

__all__ = ["FeatureAdaption", "GuidedYOLOHead"]


class FeatureAdaption(nn.Module):
    """Deformable 3x3 convolution whose offsets come from the shapes of the guided anchors, one group from each slot."""

    def __init__(self, channels, num_slots, *, deformable_groups=4, rfb=False):
        super().__init__()
        if channels % deformable_groups or 2 * num_slots % deformable_groups:
            raise ValueError(
                f"deformable_groups={deformable_groups} must divide the {channels} channels of the map and the "
                f"{2 * num_slots} shape channels of its {num_slots} slots"
            )
        self.rfb = ReceptiveFieldBlock(channels) if rfb else nn.Identity()
        self.conv_offset = nn.Conv2d(2 * num_slots, deformable_groups * 18, 1, groups=deformable_groups)
        self.deform_conv = DeformConv2d(channels, channels, 3, padding=1, bias=True)

    def forward(self, x, shapes):
        """x (N, C, H, W), shapes (N, A*2, H, W) -> (N, C, H, W). No gradient reaches the shapes through the offsets."""
        return self.deform_conv(self.rfb(x), self.conv_offset(shapes.detach()))


class _LevelHead(nn.Module):
    def __init__(self, channels, num_slots, num_classes, *, guided_anchor, adaption, deformable_groups, rfb):
        super().__init__()
        self.guide_wh = nn.Conv2d(channels, 2 * num_slots, 1) if guided_anchor else None
        self.adaption = None
        if guided_anchor and adaption:
            self.adaption = FeatureAdaption(channels, num_slots, deformable_groups=deformable_groups, rfb=rfb)
        self.predict = nn.Conv2d(channels, num_slots * (5 + num_classes), 1)

    def forward(self, x):
        shapes = None if self.guide_wh is None else self.guide_wh(x)
        adapted = x if self.adaption is None else self.adaption(x, shapes)
        return self.predict(adapted), shapes


class GuidedYOLOHead(nn.Module):
    """A head of its own for each level."""

    def __init__(
        self,
        *,
        in_channels,
        num_classes,
        num_priors=3,
        free_slot=True,
        guided_anchor=True,
        adaption=True,
        deformable_groups=4,
        rfb=False,
    ):
        """
        Args:
            in_channels: C of each level.
            num_classes: K.
            num_priors: slots a cell with a prior anchor size.
            free_slot: one more slot, for squares.
            guided_anchor: predict anchor shapes; False: the anchors are fixed.
            adaption: deformable convolution before the prediction, with guided anchors only. MobileNetV2 models have none.
            deformable_groups: of that convolution; must divide 2 * A.
            rfb: receptive field block in front of that convolution (ASFF*).
        """
        super().__init__()
        if rfb and not (guided_anchor and adaption):
            raise ValueError("rfb=True needs guided_anchor=True and adaption=True: it stands before that convolution")
        self.num_classes, self.num_slots = num_classes, num_priors + free_slot
        self.guided_anchor, self.rfb = guided_anchor, rfb
        self.levels = nn.ModuleList(
            _LevelHead(
                channels,
                self.num_slots,
                num_classes,
                guided_anchor=guided_anchor,
                adaption=adaption,
                deformable_groups=deformable_groups,
                rfb=rfb,
            )
            for channels in in_channels
        )

    def forward(self, features):
        """
        Args:
            features: list of (N, C, H, W).
        Returns:
            list of predictions (N, A*(5 + K), H, W), channel slot*(5 + K) + field with the fields tx, ty, tw, th, objectness
            and classes, all before sigmoid or exp; and list of shapes (N, A*2, H, W), channel 2*slot + (0 for ln of the
            factor on the width, 1 on the height), or of None.
        """
        predictions, shapes = zip(*(level(x) for level, x in zip(self.levels, features)))
        return list(predictions), list(shapes)
