from dense_d2.modeling.tta import MultiScaleTTA

import numpy as np
import pytest
import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch import nn


class BrightBoxDetector(nn.Module):
    """Class k is the bounding box of the bright pixels of channel k; two boxes a class when `jitter` is not 0.

    Like Detectron2's models it rescales its boxes to `height`, `width` of the input. Scores grow with the input's size.
    """

    test_nms_thresh, max_detections_per_image = 0.6, 100

    def __init__(self, jitter=0.0):
        super().__init__()
        self.jitter, self.batches = jitter, []

    def forward(self, batched_inputs):
        self.batches.append([tuple(x["image"].shape) for x in batched_inputs])
        return [{"instances": self.detect(x)} for x in batched_inputs]

    def detect(self, record):
        image = record["image"].float()
        boxes, scores, classes = [], [], []
        for k, channel in enumerate(image):
            ys, xs = torch.nonzero(channel > 127, as_tuple=True)
            if len(ys):
                x1, y1, x2, y2 = (int(v) for v in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1))
                boxes += [[x1, y1, x2, y2], [x1, y1 + self.jitter, x2, y2]][: 1 + bool(self.jitter)]
                scores += [min(0.5 + image.shape[1] / 4000, 0.99), 0.3][: 1 + bool(self.jitter)]
                classes += [k] * (1 + bool(self.jitter))
        found = Instances(tuple(image.shape[1:]))
        found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
        found.scores, found.pred_classes = torch.tensor(scores), torch.tensor(classes, dtype=torch.int64)
        return detector_postprocess(found, record.get("height", image.shape[1]), record.get("width", image.shape[2]))


BOXES = {0: [8, 12, 40, 60], 2: [100, 20, 140, 44]}  # class -> XYXY in an image of 160 x 96


def picture():
    image = np.zeros((96, 160, 3), dtype=np.uint8)
    for k, (x1, y1, x2, y2) in BOXES.items():
        image[y1:y2, x1:x2, k] = 255
    return image


def record(**more):
    return {"image_original": picture(), "height": 96, "width": 160, **more}


def tta(*args, **kwargs):
    return MultiScaleTTA(*args, **kwargs).eval()


def assert_found(instances, boxes=BOXES, tolerance=0.6):
    order = instances.pred_classes.argsort()
    assert instances.pred_classes[order].tolist() == sorted(boxes)
    expected = torch.tensor([boxes[k] for k in sorted(boxes)], dtype=torch.float32)
    torch.testing.assert_close(instances.pred_boxes.tensor[order], expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("sizes", [[96], [192], [96, 144, 192]])
def test_boxes_return_to_the_original(sizes, flip):
    detector = BrightBoxDetector()
    out = tta(detector, sizes, 1000, flip=flip)([record()])
    assert_found(out[0]["instances"])
    assert out[0]["instances"].image_size == (96, 160)
    assert [len(batch) for batch in detector.batches] == [1 + flip] * len(
        sizes
    )  # the mirror image is in the same batch
    assert [batch[0] for batch in detector.batches] == [(3, s, s * 160 // 96) for s in sizes]


class MirrorOnly(BrightBoxDetector):
    def forward(self, batched_inputs):
        outputs = super().forward(batched_inputs)
        outputs[0]["instances"] = outputs[0]["instances"][:0]
        return outputs


def test_mirrored_boxes_alone():
    assert_found(tta(MirrorOnly(), [96], 1000)([record()])[0]["instances"], tolerance=1e-4)


def test_output_size_is_that_of_the_record():
    out = tta(BrightBoxDetector(), [96, 192], 1000)([record(height=192, width=480)])[0]["instances"]
    assert out.image_size == (192, 480)
    assert_found(out, {k: [3 * x1, 2 * y1, 3 * x2, 2 * y2] for k, (x1, y1, x2, y2) in BOXES.items()}, tolerance=2)


def test_max_size_limits_the_longer_side():
    detector = BrightBoxDetector()
    assert_found(tta(detector, [400], 240, flip=False)([record()])[0]["instances"], tolerance=1)
    assert detector.batches == [[(3, 144, 240)]]


def test_merging_keeps_the_best_of_each_class():
    out = tta(BrightBoxDetector(), [96, 192], 1000)([record()])[0]["instances"]
    assert len(out) == 2  # of 8 boxes
    torch.testing.assert_close(out.scores, torch.full((2,), 0.5 + 192 / 4000))  # the larger scale scores more
    loose = tta(BrightBoxDetector(), [96, 192], 1000, nms_thresh=1.0)([record()])[0]["instances"]
    assert len(loose) == 8 and loose.scores.tolist() == sorted(loose.scores.tolist(), reverse=True)
    detector = BrightBoxDetector()
    detector.max_detections_per_image = 3
    assert len(tta(detector, [96, 192], 1000, nms_thresh=1.0)([record()])[0]["instances"]) == 3


def test_overlapping_boxes_of_two_classes_both_stay():
    image = np.zeros((96, 160, 3), dtype=np.uint8)
    image[20:60, 30:90, :2] = 255
    out = tta(BrightBoxDetector(), [96, 144], 1000)([record(image_original=image)])[0]["instances"]
    assert_found(out, {0: [30, 20, 90, 60], 1: [30, 20, 90, 60]})


def test_single_scale_is_the_plain_model():
    image = torch.from_numpy(picture().transpose(2, 0, 1).copy())
    detector = BrightBoxDetector(jitter=2.0)  # duplicates that another NMS would remove
    plain = detector([{"image": image, "height": 96, "width": 160}])[0]["instances"]
    out = tta(detector, [96], 1000, flip=False)([record()])[0]["instances"]
    assert len(plain) == 4
    for key, value in plain.get_fields().items():
        expected = value.tensor if isinstance(value, Boxes) else value
        actual = out.get(key).tensor if isinstance(value, Boxes) else out.get(key)
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_file_in_the_channel_order_of_the_model(tmp_path, image_format):
    rgb = picture() if image_format == "RGB" else picture()[:, :, ::-1]
    Image.fromarray(np.ascontiguousarray(rgb)).save(tmp_path / "a.png")
    small = torch.zeros(3, 10, 10, dtype=torch.uint8)  # what the mapper made of it is not used
    inputs = [{"file_name": str(tmp_path / "a.png"), "image": small, "height": 96, "width": 160}]
    assert_found(tta(BrightBoxDetector(), [96, 192], 1000, image_format=image_format)(inputs)[0]["instances"])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_falls_back_to_the_tensor(dtype):
    image = torch.from_numpy(picture().transpose(2, 0, 1).copy()).to(dtype)
    assert_found(tta(BrightBoxDetector(), [96, 192], 1000)([{"image": image}])[0]["instances"])


def test_no_detections_and_several_images():
    blank = record(image_original=np.zeros((50, 70, 3), dtype=np.uint8))
    out = tta(BrightBoxDetector(), [96, 192], 1000)([blank, record()])
    assert len(out[0]["instances"]) == 0 and out[0]["instances"].pred_boxes.tensor.shape == (0, 4)
    assert_found(out[1]["instances"])


def test_attributes_of_a_wrapped_model():
    wrapped = nn.Module()
    wrapped.module = BrightBoxDetector()
    assert MultiScaleTTA(wrapped, [96], 1000).nms_thresh == 0.6


def test_refuses_training_and_no_scale():
    with pytest.raises(RuntimeError, match="eval"):
        MultiScaleTTA(BrightBoxDetector(), [96], 1000).train()([record()])
    for sizes in ([], [64, -64]):
        with pytest.raises(ValueError, match="min_sizes is .*; give lengths of the shorter side"):
            MultiScaleTTA(BrightBoxDetector(), sizes, 1000)
