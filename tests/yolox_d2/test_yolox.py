import copy
import math
import os
import re

from dense_d2.checkpoint import DenseCheckpointer
from dense_d2.engine.optim import param_groups
from dense_d2.errors import UserError
from dense_d2.modeling.dense_prediction import DensePrediction
from tests.yolof_d2.tiny import batch, instances
from tests.yolox_d2.tiny import tiny_coupled_head, tiny_head, tiny_yolox
from yolox_d2.assignment import IGNORED, Assignment, GroundTruth, Predictions, make_priors
from yolox_d2.box_coder import GridBoxCoder
from yolox_d2.head import HeadOutputs
from yolox_d2.simota import SimOTA

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.utils.events import EventStorage

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
NONE = ([], [])
SOME = ([[10.0, 10, 60, 70], [30.0, 5, 120, 90]], [1, 2])


def test_optimizer_groups_of_nano():
    with torch.device("meta"):
        model = instantiate(LazyConfig.load(os.path.join(ROOT, "configs/yolox/yolox_nano.py")).model)
    rules = dict(weight_decay=5e-4, weight_decay_norm=0.0, weight_decay_bias=0.0)
    groups = param_groups(model, lr=0.01, batch_size=128, lr_batch_size=64, **rules)
    found = {(g["lr"], g["weight_decay"]): len(g["params"]) for g in groups}
    assert found == {(0.02, 5e-4): 113, (0.02, 0.0): 104 + 113}


def test_boxes_from_cells():
    priors = make_priors([(2, 3)], [8])
    coder = GridBoxCoder()
    deltas = torch.zeros(6, 4)
    deltas[4] = torch.tensor([0.5, -0.25, math.log(2.0), math.log(4.0)])
    boxes = coder.apply_deltas(deltas, priors)
    assert boxes[5].tolist() == [12, 4, 20, 12]  # column 2, row 1: the corner of the cell, without half a cell
    torch.testing.assert_close(boxes[4], torch.tensor([12.0 - 8, 6 - 16, 12 + 8, 6 + 16]))
    torch.testing.assert_close(coder.get_deltas(boxes, priors), deltas, atol=1e-6, rtol=1e-6)
    point = torch.tensor([[4.0, 4, 4, 4]])
    assert coder.get_deltas(point, priors.at([0]))[0].tolist() == pytest.approx([0.5, 0.5, -18.420681, -18.420681])
    assert coder.apply_deltas(torch.full((6, 4), 12.0).half(), priors).isfinite().all()  # exp(12) is no half


def test_boxes_from_anchors_stay_in_their_cell():
    priors = make_priors([(1, 1)], [16], anchor_sizes=[[(10, 20), (40, 30)]])
    coder = GridBoxCoder(sigmoid_centers=True)
    boxes = coder.apply_deltas(torch.tensor([[0.0, 0, 0, 0], [99.0, -99, 0, 0]]), priors)
    assert boxes.tolist() == [[3, -2, 13, 18], [-4, -15, 36, 15]]
    assert coder.get_deltas(boxes, priors).tolist() == [[0.5, 0.5, 0, 0], [1, 0, 0, 0]]


@pytest.mark.parametrize("use_l1", [False, True])
@pytest.mark.parametrize("annotations", [(SOME, NONE), (NONE, NONE), (SOME, SOME)])
def test_losses_are_finite_and_every_parameter_has_a_gradient(annotations, use_l1):
    model = tiny_yolox(use_l1=use_l1).train()
    losses = model(batch(*annotations))
    assert sorted(losses) == ["loss_box_reg", "loss_cls"] + ["loss_l1"] * use_l1 + ["loss_obj"]
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert (losses["loss_box_reg"] > 0) == (annotations != (NONE, NONE))


def test_losses_add_up_by_hand():
    """Four predictions: a positive, two that are background, one that is ignored."""
    model = tiny_yolox(num_classes=2, use_l1=True)
    priors = make_priors([(2, 2)], [8])
    deltas = torch.zeros(1, 4, 4)
    # boxes (-4, -4, 4, 4), then 8 to the right, below, both
    obj_logits = torch.tensor([[1.0, 0.0, -2.0, 7.0]])
    cls_logits = torch.tensor([[[0.5, -1.0]] * 4])
    gt = GroundTruth(torch.tensor([[[-4.0, -4, 4, 4], [4.0, -4, 12, 0]]]), torch.tensor([[0, 1]]), None)
    assignment = Assignment(torch.tensor([[-1, 1, -1, IGNORED]]), torch.tensor([[0.0, 0.5, 0, 0]]))
    losses = model.losses(priors, deltas, obj_logits, cls_logits, gt, assignment)

    def entropy(logit, target):
        p = 1 / (1 + math.exp(-logit))
        return -target * math.log(p) - (1 - target) * math.log(1 - p)

    assert losses["loss_box_reg"].item() == pytest.approx(5 * (1 - 0.5**2))
    assert losses["loss_obj"].item() == pytest.approx(entropy(1, 0) + entropy(0, 1) + entropy(-2, 0))
    assert losses["loss_cls"].item() == pytest.approx(entropy(0.5, 0) + entropy(-1, 0.5))
    assert losses["loss_l1"].item() == pytest.approx(0.25 + math.log(2))  # centre 2 pixels higher, half the height


def test_l1_compares_with_the_anchor_of_each_prediction():
    anchors = [[(8, 8), (16, 32)]]
    model = tiny_yolox(num_classes=2, use_l1=True, box_coder=GridBoxCoder(sigmoid_centers=True))
    priors = make_priors([(1, 2)], [8], anchors)
    # the second anchor of the second cell, whose prediction is 16 x 32 about (12, 4): the box is twice as wide
    gt = GroundTruth(torch.tensor([[[-4.0, -12, 28, 20]]]), torch.tensor([[0]]), None)
    assignment = Assignment(torch.tensor([[-1, -1, -1, 0]]), torch.tensor([[0.0, 0, 0, 0.5]]))
    losses = model.losses(priors, torch.zeros(1, 4, 4), torch.zeros(1, 4), torch.zeros(1, 4, 2), gt, assignment)
    assert losses["loss_l1"].item() == pytest.approx(math.log(2))


def test_an_overflow_in_the_background_leaves_gradients_finite():
    model = tiny_yolox(num_classes=2)
    deltas = torch.zeros(1, 2, 4)
    deltas[0, 1] = 200.0  # its exponential is infinite
    deltas.requires_grad_()
    gt = GroundTruth(torch.tensor([[[0.0, 0, 9, 9]]]), torch.tensor([[0]]), None)
    assignment = Assignment(torch.tensor([[0, -1]]), torch.tensor([[0.5, 0]]))
    losses = model.losses(make_priors([(1, 2)], [8]), deltas, torch.zeros(1, 2), torch.zeros(1, 2, 2), gt, assignment)
    losses["loss_box_reg"].backward()
    assert deltas.grad[0, 0].abs().min() > 0 and (deltas.grad[0, 1] == 0).all()


def test_the_selectors_loss_by_hand():
    """Four predictions of two classes: two are chosen, for class 1 and 0; of the other two the best class counts."""
    model = tiny_yolox(num_classes=2)
    cls_logits = torch.tensor([[[0.5, -1.0], [2.0, 1.0], [-3.0, -2.0], [9.0, 99.0]]])
    obj_logits, select_logits = torch.tensor([[1.0, 0.0, -2.0, 99.0]]), torch.tensor([[0.0, 3.0, 0.5, 99.0]])
    pred = Predictions(None, cls_logits, obj_logits)
    args = select_logits, pred, torch.tensor([[1, 0]]), torch.tensor([[-1, 0, 1, -1]])
    loss = model._select_loss(*args)

    def score(*logits):
        return math.prod(1 / (1 + math.exp(-logit)) for logit in logits)

    expected = -math.log(1 - score(0.5, 1, 0)) - math.log(score(1, 0, 3)) - math.log(score(-3, -2, 0.5))
    expected += 6 * math.log(10)  # a score is at most 1 - 1e-6
    assert loss.item() == pytest.approx(expected / 2, rel=2e-3)
    model.select_loss_weight = 3.0
    assert model._select_loss(*args).item() == pytest.approx(3 * loss.item())


def test_batch_is_resized_with_its_boxes():
    seen = []
    model = tiny_yolox().train()
    assigner = model.assigner
    model.assigner = lambda priors, *args: seen.append((priors, args)) or assigner(priors, *args)
    sample = batch(SOME)[0]
    sample.update(image=torch.zeros(3, 64, 64, dtype=torch.uint8), input_size=(96, 128))
    sample["instances"] = instances([[8.0, 16, 32, 48]], [1], (64, 64))
    model([sample])
    priors, (_, (gt_boxes, gt_classes, gt_valid)) = seen[0]
    assert [shape[:2] for shape in priors.shapes] == [(12, 16), (6, 8), (3, 4)]
    assert gt_boxes.tolist() == [[[16, 24, 64, 72]]] and gt_classes.tolist() == [[1]] and gt_valid.tolist() == [[True]]
    sample["image"] = torch.arange(64.0).expand(3, 64, 64)
    row = model.preprocess_image([sample]).tensor[0, 0, 0]
    assert row[:3].tolist() == [0, 0.25, 0.75] and row[-1] == 63  # linear, between centres of pixels
    assert model.eval().preprocess_image([sample]).tensor.shape == (1, 3, 64, 64)


@pytest.mark.parametrize("size, nearest", [((80, 80), (64, 64)), ((60, 60), (64, 64)), ((96, 10), (96, 32))])
def test_a_training_size_that_the_strides_do_not_divide_is_an_error(size, nearest):
    sample = {**batch(SOME)[0], "input_size": size}
    with pytest.raises(UserError, match=re.escape(f"{size} pixels, but sides must be multiples of 32")) as raised:
        tiny_yolox().train()([sample])
    assert f"the nearest are {nearest}" in str(raised.value)
    images = tiny_yolox().eval().preprocess_image([{"image": torch.zeros(3, *size, dtype=torch.uint8)}])
    assert images.tensor.shape[2:] == (math.ceil(max(size) / 32) * 32,) * 2


def test_images_are_padded_to_a_square_and_boxes_fit_the_original():
    pixels = dict(pixel_mean=[14.0, 10.0, 0.0], pixel_std=[1.0, 2.0, 4.0])
    model = tiny_yolox(num_classes=2, test_score_thresh=0.5, **pixels).eval()
    # 427 x 640 fitted into 96: 64.05 rows, cut down to 64
    sample = {"image": torch.zeros(3, 64, 96, dtype=torch.uint8), "height": 427, "width": 640}
    images = model.preprocess_image([sample])
    assert images.tensor.shape == (1, 3, 96, 96)
    assert images.tensor[0, :, :64].flatten(1).unique(dim=1).tolist() == [[-14], [-5], [0]]
    assert images.tensor[0, :, 64:].flatten(1).unique(dim=1).tolist() == [[100], [52], [28.5]]
    assert images.tensor.is_contiguous(memory_format=torch.channels_last)

    def outputs(features):
        sizes = [feature.shape[-2:] for feature in features]
        obj, cls = [torch.full((1, 1, *s), -9.0) for s in sizes], [torch.full((1, 2, *s), -9.0) for s in sizes]
        obj[1][..., 1, 4], cls[1][0, 1, 1, 4] = 2.0, 3.0  # row 1, column 4 of stride 16
        return HeadOutputs([torch.zeros(1, 4, *s) for s in sizes], obj, cls)

    model.head.forward = outputs
    (output,) = model([sample])
    found = output["instances"]
    assert found.image_size == (427, 640) and found.pred_classes.tolist() == [1]
    torch.testing.assert_close(found.scores, torch.tensor([2.0]).sigmoid() * torch.tensor([3.0]).sigmoid())
    torch.testing.assert_close(found.pred_boxes.tensor, torch.tensor([[56.0, 8, 72, 24]]) * (640 / 96))


def test_images_of_a_batch_get_the_detections_that_each_gets_alone():
    model = tiny_yolox(test_score_thresh=0.0, max_detections_per_image=20).eval()
    samples = batch(NONE, NONE)
    with torch.no_grad():
        together, alone = model(samples), [model([sample])[0] for sample in samples]
    for ours, expected in zip(together, alone):
        torch.testing.assert_close(ours["instances"].scores, expected["instances"].scores)
        torch.testing.assert_close(ours["instances"].pred_boxes.tensor, expected["instances"].pred_boxes.tensor)
    assert not torch.allclose(alone[0]["instances"].scores, alone[1]["instances"].scores)


def test_one_detection_a_prediction_and_classes_that_overlap():
    def found(**kwargs):
        model = tiny_yolox(num_classes=2, test_score_thresh=0.3, **kwargs).eval()

        def outputs(features):
            sizes = [feature.shape[-2:] for feature in features]
            deltas, obj, cls = ([torch.full((1, n, *s), -9.0) for s in sizes] for n in (4, 1, 2))
            for column, (first, second) in ((1, (3.0, 2.5)), (2, (1.0, 2.0))):
                deltas[0][0, :, 0, column] = torch.tensor([1.0 - column, 0, 3, 3])  # both the same box
                obj[0][0, 0, 0, column], cls[0][0, :, 0, column] = 4.0, torch.tensor([first, second])
            return HeadOutputs(deltas, obj, cls)

        model.head.forward = outputs
        return model(batch(NONE))[0]["instances"].pred_classes.tolist()

    assert found() == [0, 1]
    assert found(class_agnostic_nms=True) == [0]


def test_candidates_reach_the_threshold_and_the_best_are_kept():
    scores = torch.tensor([[0.5, 0.125], [0.25, 0.375], [0.875, 0.25], [0.625, 0.75]])
    boxes = torch.tensor([[0.0, 0, 9, 9]]) + 20 * torch.arange(4)[:, None]

    def found(**kwargs):
        model = tiny_yolox(num_classes=2, test_score_thresh=0.5, **kwargs)
        result = model.select(DensePrediction(scores, boxes, torch.ones(4), [4]), (96, 96))
        return list(zip(result.pred_boxes.tensor[:, 0].tolist(), result.pred_classes.tolist(), result.scores.tolist()))

    best = [(40, 0, 0.875), (60, 1, 0.75), (0, 0, 0.5)]
    assert found() == best
    assert found(test_topk_candidates=2) == found(max_detections_per_image=2) == best[:2]


def test_priors_are_kept_for_a_few_sizes(monkeypatch):
    monkeypatch.setattr("yolox_d2.yolox.MAX_CACHED_SIZES", 2)
    model = tiny_yolox()
    for width in (1, 2, 3):
        sizes = ((2, width), (1, width), (1, 1))
        priors = model._cached_priors(sizes, torch.device("cpu"))
        assert tuple(shape[:2] for shape in priors.shapes) == sizes and len(priors.grid) == 3 * width + 1
        assert model._cached_priors(sizes, torch.device("cpu")) is priors and len(model._priors) <= 2


def test_assignment_and_losses_are_float32_under_autocast():
    seen = []
    model = tiny_yolox(use_l1=True).train()
    assigner = model.assigner

    def spy(priors, pred, gt):
        seen.append((torch.is_autocast_enabled("cpu"), {x.dtype for x in (*pred, gt.boxes)}))
        return assigner(priors, pred, gt)

    model.assigner = spy
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(batch(SOME, SOME))
    assert seen == [(False, {torch.float32})]
    assert {loss.dtype for loss in losses.values()} == {torch.float32}


def test_count_is_logged_where_there_is_a_storage():
    model = tiny_yolox().train()

    def assigner(priors, pred, gt):
        matched_idxs = torch.full(pred.obj_logits.shape, -1)
        matched_idxs[0, :3] = 1
        return Assignment(matched_idxs, torch.zeros(pred.obj_logits.shape))

    model.assigner = assigner
    with EventStorage(19) as storage:
        model(batch(SOME, NONE))
        assert storage.latest()["num_pos_per_image"][0] == 1.5


@pytest.mark.parametrize("make_head", [tiny_head, tiny_coupled_head])
def test_weights_of_another_number_of_classes(make_head, tmp_path):
    trained, model = (tiny_yolox(classes, head=make_head(classes)) for classes in (3, 5))
    path = tmp_path / "model.pth"
    torch.save({"model": {name: value + 1 for name, value in trained.state_dict().items()}}, path)
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    DenseCheckpointer(model).load(str(path), reinit_head=True)
    unchanged = {name.split(".")[1] for name, value in model.state_dict().items() if torch.equal(value, fresh[name])}
    assert unchanged == {"cls_preds" if make_head is tiny_head else "preds"}


def test_what_does_not_fit_together_is_an_error():
    with pytest.raises(ValueError, match="num_classes is 4 .* is 3"):
        tiny_yolox(num_classes=4, head=tiny_head(3))
    with pytest.raises(ValueError, match="num_anchors is 3"):
        tiny_yolox(head=tiny_head(num_anchors=3))
    for half in (dict(head=tiny_head(selector=True)), dict(select_assigner=SimOTA())):
        with pytest.raises(ValueError, match="selector"):
            tiny_yolox(**half)
    with pytest.raises(ValueError, match=re.escape("head_in_features is ['p3', 'p4'] of {'p3': 8, ")):
        tiny_yolox(head_in_features=["p3", "p4"])
    for probability in (0, 1):
        with pytest.raises(ValueError, match=f"prior_prob is {probability};"):
            tiny_head(prior_prob=probability)


def test_model_can_be_trained_and_copied_after_inference():
    model = tiny_yolox().eval()
    with torch.inference_mode():
        model(batch(NONE))
    for trained in (model, copy.deepcopy(model)):
        sum(trained.train()(batch(SOME)).values()).backward()
