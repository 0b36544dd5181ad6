"""What a dense detector says of an image at every location, and what it is taught there.

A detector with `predict_dense(images, predictions)`, `select(dense, image_size)` and `label_dense(images, predictions,
gt_instances)` lets both be looked at and edited between the network and the choice of detections; see
`dense_d2.evaluation.oracle`.

Shapes: R locations (or anchors) of one image over all levels, K classes. Boxes are XYXY in pixels of the network input.
"""

from typing import List, NamedTuple, Optional

import torch

__all__ = ["DenseLabels", "DensePrediction"]


class DensePrediction(NamedTuple):
    """What the network says about one image at every location, before anything is selected."""

    scores: torch.Tensor
    """(R, K) in [0, 1]."""
    boxes: torch.Tensor
    """(R, 4), not clipped."""
    centerness: Optional[torch.Tensor]
    """(R,) in [0, 1], what scores are multiplied by: centerness or objectness; None in a head without that branch."""
    num_points: List[int]
    """Locations of each level; their sum is R."""

    def best_class(self):
        """Score (R,) of each location's best class, times centerness where there is that branch, and the class (R,)."""
        scores, classes = self.scores.max(dim=1)
        return (scores if self.centerness is None else scores * self.centerness), classes


class DenseLabels(NamedTuple):
    """What the detector's own assigner makes of one image's ground truth."""

    classes: torch.Tensor
    """(R,) int64: class, K for background, -1 for ignored."""
    boxes: torch.Tensor
    """(R, 4): the matched ground-truth box; anything outside of the foreground."""
    centerness: Optional[torch.Tensor]
    """(R,) in [0, 1]: what that branch is taught at the foreground; anything elsewhere; None without that branch."""
