"""Star-shaped deformable convolution: a 3x3 convolution whose taps lie on a box instead of on the grid.

Source: VarifocalNet, section 3.3. The nine points are the box's corners, the middles of its sides taken at the location's own
row and column, and the location. The gradient factor is the released code's (an idea of RepPoints).

Shapes: N images, H x W a feature map. Cells are those of that map.
"""

from dense_d2.modeling.deform_conv import DeformConv2d

import torch
from torch import nn

__all__ = ["StarConv2d", "star_offsets"]


def star_offsets(ltrb, stride, gradient_mul=0.1):
    """Offsets that move the taps of a 3x3 kernel of padding 1 to the star of a box.

    Args:
        ltrb: (N, 4, H, W) distances from the location to the left, top, right and bottom side, pixels.
        stride: of the map, pixels a cell.
        gradient_mul: factor on the gradient that flows back into `ltrb`; 1 passes it whole, 0 cuts it.
    Returns:
        (N, 18, H, W) float32, (down, right) of each tap in cells, taps row by row: see `deform_conv2d`.
    """
    ltrb = ltrb.float()
    ltrb = ((1 - gradient_mul) * ltrb.detach() + gradient_mul * ltrb) / stride
    left, top, right, bottom = ltrb.unbind(dim=1)
    middle = torch.zeros_like(left)
    # a tap's offset is where it shall be, less where the regular kernel has it
    rows = [(-top, -1), (middle, 0), (bottom, 1)]
    columns = [(-left, -1), (middle, 0), (right, 1)]
    offsets = [axis for y, y0 in rows for x, x0 in columns for axis in (y - y0, x - x0)]
    return torch.stack(offsets, dim=1)


class StarConv2d(DeformConv2d):
    """3x3 deformable convolution, without mask and bias, for offsets from `star_offsets`. Weights from N(0, 0.01^2)."""

    def __init__(self, in_channels, out_channels):
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
        nn.init.normal_(self.weight, std=0.01)
