import re

from dense_d2.modeling.dense_detector import DenseDetector, log_scalar, select_candidates, select_detections

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from omegaconf import ListConfig
from torch import nn


class Pass(Backbone):
    def forward(self, x):
        return {"p3": x}

    def output_shape(self):
        return {"p3": ShapeSpec(channels=3, stride=1)}


def detector(**kwargs):
    return DenseDetector(
        **{
            "backbone": Pass(),
            "head": nn.Identity(),
            "num_classes": 2,
            "pixel_mean": ListConfig([10.0, 20.0, 30.0]),
            "pixel_std": ListConfig([1.0, 2.0, 1.0]),
            "test_score_thresh": 0.05,
            "test_nms_thresh": 0.6,
            "test_topk_candidates": 1000,
            "max_detections_per_image": 100,
            **kwargs,
        }
    )


@pytest.mark.parametrize("names", [["p3", "p4"], [], "p3"])
def test_features_that_the_backbone_does_not_give_are_refused(names):
    with pytest.raises(ValueError, match=re.escape(f"head_in_features is {names}, but the backbone gives ['p3']")):
        detector(head_in_features=names)


def test_padding_is_the_mean_colour():
    images = [torch.full((3, 2, 3), 50, dtype=torch.uint8), torch.full((3, 4, 2), 40.0)]
    batch = detector().preprocess_image([{"image": image} for image in images])
    assert batch.tensor.shape == (2, 3, 4, 3) and batch.image_sizes == [(2, 3), (4, 2)]
    assert batch.tensor[0, :, 0, 0].tolist() == [40, 15, 20]
    assert not batch.tensor[0, :, 2:].any() and not batch.tensor[1, :, :, 2:].any()


def test_padding_of_a_given_value_is_normalised_with_the_image():
    image = torch.full((3, 2, 3), 50.0)
    (padded, _) = detector(pad_value=114).preprocess_image([{"image": image}, {"image": image[:, :1].mT}]).tensor
    assert padded[:, 0, 0].tolist() == [40, 15, 20] and padded[:, 2, 0].tolist() == [104, 47, 84]


def layout(**kwargs):
    """The memory format of the network's input in training and in inference."""
    model, images = detector(**kwargs), [{"image": torch.zeros(3, 4, 4)}]
    tensors = [model.train(mode).preprocess_image(images).tensor for mode in (True, False)]
    formats = {True: "channels_last", False: "contiguous"}
    return [formats[x.is_contiguous(memory_format=torch.channels_last)] for x in tensors]


def test_memory_format():
    assert layout() == ["channels_last", "channels_last"]
    assert layout(channels_last=False) == ["contiguous", "contiguous"]


def test_no_channels_last_where_the_gradient_would_overrun_its_buffer():
    assert layout(head=nn.Conv2d(15, 8, 1, stride=2)) == ["contiguous", "channels_last"]
    for harmless in (nn.Conv2d(16, 8, 1, stride=2), nn.Conv2d(15, 8, 1), nn.Conv2d(15, 8, 3, stride=2)):
        assert layout(head=nn.Sequential(harmless)) == ["channels_last", "channels_last"]


def test_pixel_statistics_are_no_state():
    assert not detector().state_dict()


def test_candidates_are_the_best_pairs_above_the_threshold():
    scores = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.3, 0.05], [0.0, 0.7]])
    kept, anchors, classes = select_candidates(scores, score_thresh=0.1, topk=4)
    torch.testing.assert_close(kept, torch.tensor([0.9, 0.8, 0.7, 0.3]))
    assert anchors.tolist() == [0, 1, 3, 2] and classes.tolist() == [0, 1, 1, 0]
    assert len(select_candidates(scores, score_thresh=0.1, topk=1000)[0]) == 5
    assert [len(x) for x in select_candidates(scores, score_thresh=0.95, topk=4)] == [0, 0, 0]


def test_nms_is_class_wise_and_boxes_are_not_clipped():
    boxes = torch.tensor([[-5.0, 0, 10, 10], [-5.0, 0, 10, 9], [-5.0, 0, 10, 10], [50.0, 50, 60, 60]])
    scores, classes = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([0, 0, 1, 0])
    kept = select_detections(boxes, scores, classes, (40, 40), nms_thresh=0.6, max_detections=10)
    assert kept.pred_boxes.tensor.tolist() == boxes[[0, 2, 3]].tolist()
    assert kept.pred_classes.tolist() == [0, 1, 0] and kept.image_size == (40, 40)
    assert len(select_detections(boxes, scores, classes, (40, 40), nms_thresh=0.6, max_detections=2)) == 2
    # IoU 0.9 exactly: only a higher one is dropped
    assert len(select_detections(boxes, scores, classes, (40, 40), nms_thresh=0.95, max_detections=10)) == 4


def test_detections_are_scaled_to_the_original_image_and_cut_by_default():
    boxes = torch.tensor([[-5.0, 5, 10, 10], [50.0, 5, 60, 10]])  # the second is outside
    sample = {"height": 40, "width": 60}

    def found(sample, **kwargs):
        result = Instances((20, 20), pred_boxes=Boxes(boxes.clone()), scores=torch.tensor([0.9, 0.8]))
        original = detector(**kwargs).to_original_image(result, sample)
        if kwargs:
            assert torch.equal(result.pred_boxes.tensor, boxes)
        return original.image_size, original.pred_boxes.tensor.tolist()

    assert found(sample) == ((40, 60), [[0, 10, 30, 20]])
    assert found(sample, clip_boxes=False) == ((40, 60), [[-15, 10, 30, 20], [150, 10, 180, 20]])
    assert found({}, clip_boxes=False) == ((20, 20), boxes.tolist())


def test_scalars_are_logged_only_when_writers_look():
    log_scalar("count", torch.tensor(3.0))  # no storage: nothing happens
    with EventStorage(18) as storage:
        log_scalar("count", torch.tensor(3.0))
        assert "count" not in storage.latest()
        storage.step()
        log_scalar("count", torch.tensor(3.0))
        assert storage.latest()["count"] == (3.0, 19)
