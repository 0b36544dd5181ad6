"""Multi-scale testing for any detector that takes and returns what Detectron2's models do.

At every scale, and mirrored, the full single-scale inference runs, its NMS included; the boxes are mapped back to the
original image, concatenated, and merged by one class-wise NMS.
Source: YOLOF (Chen et al., 2021), Table 1, last row. The paper gives no details and no released code runs it; the
procedure is the one cvpods intended.
"""

from typing import Any, Dict, List, Optional, Sequence, Union

import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances
from torch import nn

__all__ = ["MultiScaleTTA"]


class MultiScaleTTA(nn.Module):
    """Wraps a detector; takes the same `batched_inputs` and returns the same list of {"instances": Instances}.

    The images are resized here from the originals, so the mapper of the loader is free to resize or not. Of each input
    it uses, in this order: `image_original` (H, W, C) uint8, the file `file_name`, `image` (C, H, W).
    """

    def __init__(
        self,
        model: nn.Module,
        min_sizes: Sequence[int],
        max_size: Union[int, Sequence[int]],
        flip: bool = True,
        nms_thresh: Optional[float] = None,
        image_format: str = "BGR",
    ):
        """
        Args:
            model: has `test_nms_thresh` and `max_detections_per_image`, or is a wrapper whose `.module` has them.
            min_sizes: lengths of the shorter side in pixels, one forward pass each.
            max_size: the longer side is at most that; one for all, or one for each of `min_sizes`.
            flip: runs every scale mirrored too, in the same batch.
            nms_thresh: IoU in [0, 1] of the merging NMS; None takes the model's `test_nms_thresh`.
            image_format: channel order of the model, for images read from a file.
        """
        super().__init__()
        if not min_sizes or min(min_sizes) < 1:
            raise ValueError(
                f"min_sizes is {list(min_sizes)}; give lengths of the shorter side in pixels, such as [800]"
            )
        detector = getattr(model, "module", model)
        self.model = model
        max_sizes = [max_size] * len(min_sizes) if isinstance(max_size, int) else list(max_size)
        if len(max_sizes) != len(min_sizes):
            raise ValueError(
                f"max_size has {len(max_sizes)} values for {len(min_sizes)} min_sizes; give one, or one each"
            )
        self.augmentations = [T.ResizeShortestEdge(int(low), int(high)) for low, high in zip(min_sizes, max_sizes)]
        self.flip = flip
        self.nms_thresh = detector.test_nms_thresh if nms_thresh is None else nms_thresh
        self.max_detections_per_image = detector.max_detections_per_image
        self.image_format = image_format

    @torch.no_grad()
    def forward(self, batched_inputs: List[Dict[str, Any]]) -> List[Dict[str, Instances]]:
        if self.training:
            raise RuntimeError("MultiScaleTTA is for inference; call .eval() first")
        return [{"instances": self._merge(self._detect(x))} for x in batched_inputs]

    def _detect(self, record) -> List[Instances]:
        image = self._original(record)
        height, width = record.get("height", image.shape[0]), record.get("width", image.shape[1])
        found = []
        for augmentation in self.augmentations:
            scaled = augmentation.get_transform(image).apply_image(image)
            views = [scaled, scaled[:, ::-1]] if self.flip else [scaled]
            # `height` and `width` let the model map its boxes back itself
            batch = [{"image": _to_tensor(view), "height": height, "width": width} for view in views]
            outputs = [x["instances"] for x in self.model(batch)]
            found.extend([outputs[0], *(_mirror(x) for x in outputs[1:])])
        return found

    def _merge(self, found: List[Instances]) -> Instances:
        if len(found) == 1:  # the plain model; it has done its NMS
            return found[0]
        boxes = torch.cat([x.pred_boxes.tensor for x in found]).float()  # (n, 4) XYXY, pixels of the original image
        scores = torch.cat([x.scores for x in found])
        classes = torch.cat([x.pred_classes for x in found])
        keep = batched_nms(boxes, scores.float(), classes, self.nms_thresh)[: self.max_detections_per_image]
        merged = Instances(found[0].image_size)
        merged.pred_boxes, merged.scores, merged.pred_classes = Boxes(boxes[keep]), scores[keep], classes[keep]
        return merged

    def _original(self, record) -> np.ndarray:
        if "image_original" in record:
            return record["image_original"]
        if "file_name" in record:
            return detection_utils.read_image(record["file_name"], format=self.image_format)
        return record["image"].permute(1, 2, 0).cpu().numpy()


def _to_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _mirror(instances: Instances) -> Instances:
    width = instances.image_size[1]
    x1, y1, x2, y2 = instances.pred_boxes.tensor.unbind(dim=1)
    instances.pred_boxes = Boxes(torch.stack((width - x2, y1, width - x1, y2), dim=1))
    return instances
