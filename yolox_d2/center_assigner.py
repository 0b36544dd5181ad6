"""Positives around the centre of a box, on the one level that its size belongs to.

Source: YOLOX, section 2.1: "Anchor-free" (the cell of the centre) and "Multi positives" (3x3 cells). The paper says "a scale
range" as in FCOS and no numbers; the ranges here are those of FCOS, section 3.2, cut to three levels.

Shapes: N images, R priors (one a cell), M padded ground-truth boxes, L levels, C cells of a box.
"""

import torch

from .assignment import BACKGROUND, Assignment, CellAssigner, cells_around, centers_of, matched_ious, no_match

__all__ = ["CenterAssigner"]


class CenterAssigner(CellAssigner):
    """A cell that several boxes claim goes to the smallest, of equal areas to the first, as in FCOS.

    It looks at no prediction. A box whose centre is outside the image gets nothing with radius 0.
    """

    def __init__(self, radius=0, ranges=(64, 128)):
        """
        Args:
            radius: cells to each side of the centre's: 0 for one positive, 1 for 3x3.
            ranges: pixels from the centre to the farthest side, i.e. half the longer side, up to which (inclusive) a box
                belongs to the first level, the second, ...; whatever is larger to the last.
        """
        if radius < 0 or radius % 1:
            raise ValueError(f"radius is {radius}; give a whole number of cells: 0 for one positive, 1 for 3x3")
        self.radius, self.ranges = radius, tuple(ranges)

    @torch.no_grad()
    def __call__(self, priors, pred, gt):
        """See `yolox_d2.assignment`."""
        self.check_anchors(len(priors.grid) // priors.num_cells)
        if len(self.ranges) + 1 != len(priors.shapes):
            raise ValueError(f"{len(self.ranges)} ranges for {len(priors.shapes)} levels; give one fewer than levels")
        gt_boxes = gt.boxes.float()
        num_gt = gt_boxes.shape[1]
        if num_gt == 0:
            return no_match(pred.obj_logits)
        sides = gt_boxes[..., 2:] - gt_boxes[..., :2]
        half_side = sides.amax(dim=2) / 2
        levels = sum((half_side > limit).long() for limit in self.ranges)
        cells = cells_around(priors.shapes, centers_of(gt_boxes), self.radius)
        cells = cells.gather(2, levels[..., None, None].expand(-1, -1, 1, cells.shape[3])).squeeze(2)
        cells = torch.where(gt.valid[..., None], cells, len(priors.grid))

        order = sides.prod(dim=2).sort(dim=1, stable=True).indices
        ranks = order.argsort(dim=1)
        best = torch.full((len(cells), len(priors.grid) + 1), num_gt, device=cells.device)
        best.scatter_reduce_(1, cells.flatten(1), ranks[..., None].expand_as(cells).flatten(1), "amin")
        best = best[:, :-1]
        matched_idxs = torch.where(best < num_gt, order.gather(1, best.clamp(max=num_gt - 1)), BACKGROUND)
        return Assignment(matched_idxs, matched_ious(pred.boxes, gt_boxes, matched_idxs))
