"""The receptive field block of ASFF*: four branches of growing reach.

Source: Liu et al. 2018 (RFBNet), as ASFF's released code has it: no norm, no activation, no shortcut.
"""

import torch
from torch import nn

__all__ = ["ReceptiveFieldBlock"]

# kernel size and dilation of the convolutions of each branch; the first one brings the channels to a quarter
BRANCHES = (((1, 1),), ((1, 1), (3, 1)), ((1, 1), (3, 1), (3, 2)), ((1, 1), (5, 1), (3, 3)))


class ReceptiveFieldBlock(nn.Module):
    """(N, C, H, W) -> (N, C, H, W); a quarter of the channels from each branch."""

    def __init__(self, channels):
        super().__init__()
        if channels % len(BRANCHES):
            raise ValueError(f"ReceptiveFieldBlock(channels={channels}); use a multiple of {len(BRANCHES)}")
        quarter = channels // len(BRANCHES)
        self.branches = nn.ModuleList(
            nn.Sequential(
                *(
                    nn.Conv2d(channels if i == 0 else quarter, quarter, k, padding=(k - 1) // 2 * d, dilation=d)
                    for i, (k, d) in enumerate(branch)
                )
            )
            for branch in BRANCHES
        )

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], dim=1)
