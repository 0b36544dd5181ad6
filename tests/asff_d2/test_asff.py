"""The meta-architecture on a network of seconds."""

import math

from asff_d2.anchors import Anchors
from asff_d2.targets import gather_ground_truth
from dense_d2.errors import UserError
from tests.asff_d2.tiny import PRIORS, batch, tiny_asff

import pytest
import torch
from detectron2.utils.events import EventStorage

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


def test_losses_by_hand():
    """Two images of 64 x 96, one without boxes; all logits 0 but in the row of the prior (62, 45), level 1, cell (2, 1)."""
    model, inputs = tiny_asff(), batch(([[9, 1.5, 71, 46.5]], [1], [0.5]), ([], []))
    grid = model.anchors([(8, 12), (4, 6), (2, 3)])
    outputs, shapes = torch.zeros(2, 504, 8), torch.zeros(2, 504, 2)
    row = 4 * 96 + 4 * (1 * 6 + 2) + 1
    shapes[0, row, 0] = -math.log(2)  # guided to (31, 45)
    outputs[0, row] = torch.tensor([1.0, 0, math.log(2), math.log(2), 0, 0, 2, 0])  # of 62 x 90, right of the centre
    gt = gather_ground_truth([x["instances"] for x in inputs])
    targets = model._assign(grid, outputs, shapes, gt)
    assert targets.rows.tolist() == [row]
    losses = {
        name: 2 * loss.item() for name, loss in model.losses(grid, outputs, shapes, gt, targets, (64, 96)).items()
    }
    scale = 2 - 62 * 45 / (64 * 96)
    inside = (62 - 16 * (1 / (1 + math.exp(-1)) - 0.5)) * 45
    softplus = [math.log(1 + math.exp(x)) for x in range(3)]
    assert losses == pytest.approx(
        {
            "loss_anchor": 1 - 0.5**2 + 1 - (62 * 45 / 64**2) ** 2,  # of the prior and of the free slot, 64 x 64
            "loss_iou": scale * (1 - (inside / (62 * 45 + 62 * 90 - inside)) ** 2),
            "loss_xy": scale * (softplus[1] - 0.5 + math.log(2)),
            "loss_wh": scale * math.log(2),
            "loss_obj": (2 * 504 - 0.5) * math.log(2),
            "loss_cls": 2 * math.log(2) + softplus[2] - 2 * 2 / 3,
        },
        rel=1e-5,
    )
    targets = targets._replace(boxes=targets.boxes + 100)  # as if a later box had claimed the cell
    with EventStorage(19) as storage:
        moved = model.losses(grid, outputs, shapes, gt, targets, (64, 96))
        assert storage.latest()["num_fg_per_image"][0] == 0.5
    assert {name: 2 * loss.item() for name, loss in moved.items()} == {**losses, "loss_iou": pytest.approx(scale)}


@pytest.mark.parametrize("guided_anchor", [True, False])
def test_predictions_in_half_precision_go_on_in_float32(guided_anchor):
    model = tiny_asff(guided_anchor=guided_anchor)
    predictions = model.head([torch.randn(1, 8, n, n) for n in (8, 4, 2)])
    halves = [[None if x is None else x.bfloat16() for x in maps] for maps in predictions]
    _, *dense = model._dense_predictions(halves)
    assert {x.dtype for x in dense} == {torch.float32}


def test_initial_weights():
    """Of prediction layers too, for the slope that the model is told."""
    for slope in (0.1, 1.0):
        model = tiny_asff(init_slope=slope)
        for conv in (model.head.levels[0].predict, model.backbone.levels[0].expand.conv):
            expected = math.sqrt(2 / (1 + slope**2) / conv.weight[0].numel())
            assert conv.weight.std().item() == pytest.approx(expected, rel=0.15)
    assert not tiny_asff(uniform_start=True).backbone.levels[0].weight_logits.weight.any()


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


@pytest.mark.parametrize(
    "settings, count",
    [
        ({}, 3),
        ({"test_score_thresh": 0.26}, 0),
        ({"test_nms_thresh": 0.3}, 2),
        ({"test_topk_candidates": 1}, 1),
        ({"max_detections_per_image": 2}, 2),
    ],
)
def test_settings_of_the_inference(settings, count):
    """Three rows of score 1/4: two of one class with an IoU of 23/39, and one of another class on one of them."""
    model = tiny_asff(**{"test_score_thresh": 0.25, **settings}).eval()
    outputs = [torch.full((1, 32, height, width), -9.0) for height, width in ((8, 12), (4, 6), (2, 3))]
    for row in outputs:
        row.view(1, 4, 8, *row.shape[-2:])[:, :, :4] = 0
    level = outputs[1].view(1, 4, 8, 4, 6)
    level[0, 1, [4, 5], 1, 2] = level[0, 1, [4, 5], 1, 3] = level[0, 3, [4, 6], 1, 2] = 0.0
    images = model.preprocess_image(batch(([], [])))
    (found,) = model.forward_inference(images, None, (outputs, [torch.zeros(1, 8, *x.shape[-2:]) for x in outputs]))
    assert len(found) == count


def test_a_box_that_a_later_one_replaced_labels_nothing():
    model, inputs = tiny_asff().eval(), batch(([LARGE, LARGE, SMALL], [1, 2, 0]))
    images = model.preprocess_image(inputs)
    features = model.backbone(images.tensor)
    predictions = model.head([features[name] for name in model.head_in_features])
    (labels,) = model.label_dense(images, predictions, [inputs[0]["instances"]])
    found = labels.classes < 3
    assert sorted(zip(labels.classes[found].tolist(), labels.boxes[found].tolist())) == [(0, SMALL), (2, LARGE)]


def test_settings_of_the_assignment():
    inputs = batch(([LARGE, SMALL], [1, 2]))
    losses = [
        tiny_asff(**s).train()(inputs)["loss_obj"] for s in ({}, {"adjacent_ignore": 0.0}, {"ignore_thresh": 0.0})
    ]
    assert losses[0] > losses[1] > losses[2]  # without the rows that are ignored


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


def test_class_layers_are_those_that_the_number_of_classes_shapes():
    few, many = tiny_asff(3), tiny_asff(4)
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in (few, many)]
    changed = {name.rsplit(".", 1)[0] for name in shapes[0] if shapes[0][name] != shapes[1][name]}
    assert changed == set(few.class_layers)


def test_a_negative_adjacent_region_is_an_error():
    with pytest.raises(UserError, match="null for off"):
        tiny_asff(adjacent_ignore=-1.0).train()(batch(([LARGE], [1])))


@pytest.mark.parametrize(
    "wrong",
    [{"num_classes": 4}, {"mixup_weight": "some"}, {"anchors": Anchors(priors=PRIORS, strides=(4, 8, 16))}],
)
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
