"""The meta-architecture on a network of seconds."""

from dense_d2.errors import UserError
from tests.asff_d2.tiny import batch, tiny_asff

import pytest
import torch

LARGE, SMALL = [10, 10, 70, 60], [40, 20, 58, 35]


def total(model, inputs):
    return sum(model(inputs).values())


@pytest.mark.parametrize("fusion", ["asff", "sum", "concat", "none"])
def test_training_step_without_boxes_keeps_gradients_connected(fusion):
    model = tiny_asff(fusion=fusion).train()
    for inputs in (batch(([], [])), batch(([LARGE], [1]), ([], []))):
        model.zero_grad()
        losses = model(inputs)
        sum(losses.values()).backward()
        assert all(torch.isfinite(value) for value in losses.values())
        assert all(p.grad is not None for p in model.parameters())
    losses = model(batch(([], [])))
    assert losses["loss_obj"] > 0 and sum(v for k, v in losses.items() if k != "loss_obj") == 0


def test_losses_are_sums_over_images_divided_by_their_number():
    model = tiny_asff().eval()  # batch norm on its running statistics, so that images do not see each other
    one, two = batch(([LARGE, SMALL], [1, 2])), batch(([LARGE, SMALL], [1, 2]), ([SMALL], [0]))

    def losses(inputs):
        images = model.preprocess_image(inputs)
        features = model.backbone(images.tensor)
        predictions = model.head([features[name] for name in model.head_in_features])
        return model.forward_training(images, None, predictions, [x["instances"] for x in inputs])

    both, first, second = losses(two), losses(one), losses(two[1:])
    for name, value in both.items():
        assert value.item() == pytest.approx((first[name].item() + second[name].item()) / 2, rel=1e-4), name


def test_switches_of_table_1():
    inputs = batch(([LARGE, SMALL], [1, 2]))
    assert set(tiny_asff().train()(inputs)) == {
        "loss_anchor",
        "loss_iou",
        "loss_xy",
        "loss_wh",
        "loss_obj",
        "loss_cls",
    }
    model = tiny_asff(iou_loss=False, guided_anchor=False, free_slot=False).train()
    losses = model(inputs)
    assert set(losses) == {"loss_xy", "loss_wh", "loss_obj", "loss_cls"}
    sum(losses.values()).backward()
    assert not any("guide" in name or "adaption" in name for name, _ in model.named_parameters())
    assert len(model.eval()(inputs)[0]["instances"]) > 0


def test_box_losses_pull_at_the_anchors_as_released_unless_detached():
    """Of all losses but the shapes' own: with gradient they reach `guide_wh`, and L1 alike through exp(tw) and anchor."""
    inputs = batch(([LARGE, SMALL], [1, 2]))
    for detach in (False, True):
        model = tiny_asff(detach_anchors=detach).train()
        losses = model(inputs)
        guides = [level.guide_wh.bias for level in model.head.levels]
        others = losses["loss_iou"] + losses["loss_wh"] + losses["loss_obj"] + losses["loss_cls"]
        grads = torch.autograd.grad(others, guides, retain_graph=True, allow_unused=True)
        assert (sum(g.abs().sum() for g in grads if g is not None) == 0) == detach
        own = torch.autograd.grad(losses["loss_anchor"], guides)
        assert sum(g.abs().sum() for g in own) > 0
    same = [{k: v.item() for k, v in tiny_asff(detach_anchors=d).train()(inputs).items()} for d in (False, True)]
    assert same[0] == same[1]


def test_gradient_of_the_size_loss_is_the_same_for_anchor_and_box():
    model = tiny_asff().train()
    loss = model(batch(([LARGE], [1])))["loss_wh"]
    for level in model.head.levels:
        shape, box = torch.autograd.grad(loss, [level.guide_wh.bias, level.predict.bias], retain_graph=True)
        torch.testing.assert_close(shape, box.view(4, 8)[:, 2:4].reshape(-1))


def test_weights_of_mixed_images():
    """As released they weigh the objectness only: the loss is linear in the weight of the positive row."""

    def losses(weight, **kwargs):
        return {k: v.item() for k, v in tiny_asff(**kwargs).train()(batch(([LARGE], [1], [weight]))).items()}

    one, half, none = (losses(w) for w in (1.0, 0.5, 0.0))
    assert half["loss_obj"] == pytest.approx((one["loss_obj"] + none["loss_obj"]) / 2, rel=1e-5)
    assert half["loss_obj"] < one["loss_obj"] - 1e-3
    assert all(one[name] == half[name] for name in one if name != "loss_obj")
    weighted = losses(0.5, mixup_weight="all")
    for name in one:
        factor = 1.0 if name == "loss_obj" else 0.5
        assert weighted[name] == pytest.approx(factor * (half if name == "loss_obj" else one)[name], rel=1e-5)


def test_detections():
    model = tiny_asff(test_score_thresh=0.0).eval()
    inputs = batch(([], []))
    images = model.preprocess_image(inputs)
    features = model.backbone(images.tensor)
    predictions = model.head([features[name] for name in model.head_in_features])
    grid, outputs, shapes = model._dense_predictions(predictions)
    model(inputs)
    found = model(inputs)[0]["instances"]
    assert len(found) == 100 and found.image_size == (64, 96)
    scores = outputs[0, :, 4:5].sigmoid() * outputs[0, :, 5:].sigmoid()
    best = scores.max(dim=1).values.argmax().item()
    assert found.scores[0].item() == pytest.approx(scores.max().item())
    assert found.pred_classes[0] == scores[best].argmax()
    assert found.pred_levels[0] == grid.level_idxs[best] and found.pred_slots[0] == best % 4
    height, width = predictions[0][0].shape[-2:]  # of level 0
    assert (grid.level_idxs == 0).sum() == 4 * height * width
    # twice as wide, three times as high: both axes on their own, nothing is cut off
    inputs[0].update(height=192, width=192)
    scaled = model(inputs)[0]["instances"]
    torch.testing.assert_close(scaled.pred_boxes.tensor, found.pred_boxes.tensor * torch.tensor([2.0, 3, 2, 3]))
    assert found.pred_boxes.tensor.min() < 0


def test_one_class_a_row():
    model = tiny_asff(test_score_thresh=0.0, test_nms_thresh=1.0, max_detections_per_image=10**6).eval()
    assert len(model(batch(([], [])))[0]["instances"]) == 4 * (8 * 12 + 4 * 6 + 2 * 3)


@pytest.mark.parametrize("num_classes", [1, 2])
def test_training_few_classes_with_smoothed_labels_is_an_error(num_classes):
    """1 - 1/K is no more than 1/K there; the one class of a data set would learn the target 0."""
    inputs = batch(([LARGE, SMALL], [0, num_classes - 1]))
    with pytest.raises(UserError, match="model.label_smoothing=false"):
        tiny_asff(num_classes).train()(inputs)
    losses = tiny_asff(num_classes, label_smoothing=False).train()(inputs)
    assert all(torch.isfinite(value) for value in losses.values()) and losses["loss_cls"] > 0


def test_a_negative_adjacent_region_is_an_error():
    with pytest.raises(UserError, match="null for off"):
        tiny_asff(adjacent_ignore=-1.0).train()(batch(([LARGE], [1])))


@pytest.mark.parametrize("wrong", [{"num_classes": 4}, {"mixup_weight": "some"}])
def test_errors(wrong):
    model = tiny_asff()
    arguments = dict(
        backbone=model.backbone,
        head=model.head,
        anchors=model.anchors,
        num_classes=3,
        pixel_mean=[0.0] * 3,
        pixel_std=[1.0] * 3,
    )
    type(model)(**arguments)
    with pytest.raises(ValueError):
        type(model)(**{**arguments, **wrong})
