"""How the four numbers of a prediction become a box.

Source: YOLOX, section 2.1, "Anchor-free"; YOLOv3, section 2.1, for predictions on anchors.

Shapes: R predictions over all levels. Boxes are XYXY in pixels of the network input.
"""

import torch

__all__ = ["GridBoxCoder"]


class GridBoxCoder:
    """(tx, ty, tw, th): the centre in cells from the corner of the prior's cell, the size as a logarithm of the prior's."""

    def __init__(self, *, sigmoid_centers=False, eps=1e-8):
        """
        Args:
            sigmoid_centers: pass tx and ty through a sigmoid, so that a centre stays in its cell (YOLOv3).
            eps: added before the logarithm.
        """
        self.sigmoid_centers, self.eps = sigmoid_centers, eps

    def to_cell_units(self, deltas):
        """The space in which the L1 loss compares: raw numbers, but for a sigmoid on the centre."""
        if not self.sigmoid_centers:
            return deltas
        return torch.cat([deltas[..., :2].sigmoid(), deltas[..., 2:]], dim=-1)

    def apply_deltas(self, deltas, priors):
        """(..., R, 4) raw predictions -> (..., R, 4) XYXY boxes, float32. Nothing is clamped."""
        deltas = self.to_cell_units(deltas.float())
        centers = (deltas[..., :2] + priors.grid) * priors.strides[:, None]
        half_sizes = 0.5 * deltas[..., 2:].exp() * priors.sizes
        return torch.cat([centers - half_sizes, centers + half_sizes], dim=-1)

    def get_deltas(self, boxes, priors):
        """(R, 4) XYXY boxes -> (R, 4) what `to_cell_units` has to give for them."""
        sizes = boxes[..., 2:] - boxes[..., :2]
        centers = boxes[..., :2] + 0.5 * sizes
        return torch.cat(
            [centers / priors.strides[:, None] - priors.grid, torch.log(sizes / priors.sizes + self.eps)], dim=-1
        )
