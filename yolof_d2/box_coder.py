"""Box deltas on anchors, with a clamp on how far a box centre may leave its anchor.

Source: YOLOF's released code; the paper does not mention the clamp. 32 pixels is one cell of C5, and stays 32 for DC5.
"""

import math

import torch

__all__ = ["CenterClampBox2BoxTransform"]

MAX_LOG_SCALE = math.log(1000.0 / 16)


class CenterClampBox2BoxTransform:
    """Faster R-CNN's (dx, dy, dw, dh), decoded with a centre clamp. The box loss is GIoU: nothing is ever encoded."""

    def __init__(self, *, center_clamp=32, scale_clamp=MAX_LOG_SCALE):
        """
        Args:
            center_clamp: most pixels that a centre moves, in x and in y; None for no limit.
            scale_clamp: upper limit of dw and dh.
        """
        self.center_clamp = center_clamp
        self.scale_clamp = scale_clamp

    def apply_deltas(self, deltas, boxes):
        """Moves and scales boxes, in float32. Beyond a clamp the gradient is zero.

        Args:
            deltas: (..., 4); dx, dy in box sides, dw, dh as logarithms.
            boxes: (..., 4) XYXY with positive sides; broadcasts against `deltas`.
        Returns:
            (..., 4) XYXY.
        """
        deltas, boxes = deltas.float(), boxes.float()
        sizes = boxes[..., 2:] - boxes[..., :2]
        centers = boxes[..., :2] + 0.5 * sizes
        shifts = deltas[..., :2] * sizes
        if self.center_clamp is not None:
            shifts = shifts.clamp(-self.center_clamp, self.center_clamp)
        centers = centers + shifts
        half_sizes = 0.5 * sizes * deltas[..., 2:].clamp(max=self.scale_clamp).exp()
        return torch.cat([centers - half_sizes, centers + half_sizes], dim=-1)
