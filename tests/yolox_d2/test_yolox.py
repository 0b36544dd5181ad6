import copy
import math
import os
import re

from dense_d2.checkpoint import DenseCheckpointer
from dense_d2.engine.optim import param_groups
from dense_d2.errors import UserError
from tests.yolof_d2.tiny import batch, instances
from tests.yolox_d2.tiny import tiny_coupled_head, tiny_head, tiny_yolox
from yolox_d2 import add_yolox_config
from yolox_d2.assignment import IGNORED, Assignment, make_priors
from yolox_d2.box_coder import GridBoxCoder
from yolox_d2.cspdarknet import Focus
from yolox_d2.head import CoupledHead, HeadOutputs
from yolox_d2.yolox import YOLOX

import pytest
import torch
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
NONE = ([], [])
SOME = ([[10.0, 10, 60, 70], [30.0, 5, 120, 90]], [1, 2])


def test_yaml_builds_the_same_model_and_touches_no_global():
    before = get_cfg()
    cfg = get_cfg()
    add_yolox_config(cfg)
    cfg.merge_from_file(os.path.join(ROOT, "configs/yacs/yolox.yaml"))
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
        lazy = instantiate(LazyConfig.load(os.path.join(ROOT, "configs/yolox/yolox_s.py")).model)
    shapes = [{name: value.shape for name, value in m.state_dict().items()} for m in (model, lazy)]
    assert shapes[0] == shapes[1]

    def settings(m):
        return {k: v for k, v in vars(m).items() if isinstance(v, (int, float, str, list)) and not k.startswith("_")}

    assert settings(model) == settings(lazy) and "box_loss_weight" in settings(lazy)
    assert vars(model.assigner) == vars(lazy.assigner) and vars(model.box_coder) == vars(lazy.box_coder)
    assert get_cfg() == before


def test_norms_and_first_biases_are_those_of_the_released_models():
    model = instantiate(LazyConfig.load(os.path.join(ROOT, "configs/yolox/yolox_nano.py")).model)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.03)}
    for level in range(3):
        for layer in (model.head.cls_preds[level], model.head.obj_preds[level]):
            torch.testing.assert_close(layer.bias, torch.full_like(layer.bias, -4.595120), atol=1e-5, rtol=0)
        assert model.head.reg_preds[level].bias.abs().max() < 0.2


def test_optimizer_groups_of_nano():
    with torch.device("meta"):
        model = instantiate(LazyConfig.load(os.path.join(ROOT, "configs/yolox/yolox_nano.py")).model)
    rules = dict(weight_decay=5e-4, weight_decay_norm=0.0, weight_decay_bias=0.0)
    groups = param_groups(model, lr=0.01, batch_size=128, lr_batch_size=64, **rules)
    found = {(g["lr"], g["weight_decay"]): len(g["params"]) for g in groups}
    assert found == {(0.02, 5e-4): 113, (0.02, 0.0): 104 + 113}


def test_focus_moves_patches_into_channels():
    seen = []
    focus = Focus(4, lambda *args: seen.append)
    focus(torch.arange(3 * 4 * 4.0).view(1, 3, 4, 4))
    # red, green, blue of each corner of the first patch: top left, bottom left, top right, bottom right
    assert seen[0][0, :, 0, 0].tolist() == [0, 16, 32, 4, 20, 36, 1, 17, 33, 5, 21, 37]


def test_boxes_from_cells():
    priors = make_priors([(2, 3)], [8])
    coder = GridBoxCoder()
    deltas = torch.zeros(6, 4)
    deltas[4] = torch.tensor([0.5, -0.25, math.log(2.0), math.log(4.0)])
    boxes = coder.apply_deltas(deltas, priors)
    assert boxes[5].tolist() == [12, 4, 20, 12]  # column 2, row 1: the corner of the cell, without half a cell
    torch.testing.assert_close(boxes[4], torch.tensor([12.0 - 8, 6 - 16, 12 + 8, 6 + 16]))
    torch.testing.assert_close(coder.get_deltas(boxes, priors), deltas, atol=1e-6, rtol=1e-6)


def test_boxes_from_anchors_stay_in_their_cell():
    priors = make_priors([(1, 1)], [16], anchor_sizes=[[(10, 20), (40, 30)]])
    coder = GridBoxCoder(sigmoid_centers=True)
    boxes = coder.apply_deltas(torch.tensor([[0.0, 0, 0, 0], [99.0, -99, 0, 0]]), priors)
    assert boxes.tolist() == [[3, -2, 13, 18], [-4, -15, 36, 15]]


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
    boxes = model.box_coder.apply_deltas(deltas, priors)  # (-4, -4, 4, 4), then 8 to the right, below, both
    obj_logits = torch.tensor([[1.0, 0.0, -2.0, 7.0]])
    cls_logits = torch.tensor([[[0.5, -1.0]] * 4])
    gt = torch.tensor([[[-4.0, -4, 4, 4], [4.0, -4, 12, 0]]])
    assignment = Assignment(torch.tensor([[-1, 1, -1, IGNORED]]), torch.tensor([[0.0, 0.5, 0, 0]]))
    losses = model.losses(priors, deltas, boxes, obj_logits, cls_logits, gt, torch.tensor([[0, 1]]), assignment)

    def entropy(logit, target):
        p = 1 / (1 + math.exp(-logit))
        return -target * math.log(p) - (1 - target) * math.log(1 - p)

    assert losses["loss_box_reg"].item() == pytest.approx(5 * (1 - 0.5**2))
    assert losses["loss_obj"].item() == pytest.approx(entropy(1, 0) + entropy(0, 1) + entropy(-2, 0))
    assert losses["loss_cls"].item() == pytest.approx(entropy(0.5, 0) + entropy(-1, 0.5))
    assert losses["loss_l1"].item() == pytest.approx(0.25 + math.log(2))  # centre 2 pixels higher, half the height


def test_batch_is_resized_with_its_boxes():
    seen = []
    model = tiny_yolox().train()
    assigner = model.assigner
    model.assigner = lambda priors, *args: seen.append((priors, args)) or assigner(priors, *args)
    sample = batch(SOME)[0]
    sample.update(image=torch.zeros(3, 64, 64, dtype=torch.uint8), input_size=(96, 128))
    sample["instances"] = instances([[8.0, 16, 32, 48]], [1], (64, 64))
    model([sample])
    priors, (_, _, _, gt_boxes, gt_classes, gt_valid) = seen[0]
    assert [shape[:2] for shape in priors.shapes] == [(12, 16), (6, 8), (3, 4)]
    assert gt_boxes.tolist() == [[[16, 24, 64, 72]]] and gt_classes.tolist() == [[1]] and gt_valid.tolist() == [[True]]


@pytest.mark.parametrize("size, nearest", [((80, 80), (64, 64)), ((60, 60), (64, 64)), ((96, 10), (96, 32))])
def test_a_training_size_that_the_strides_do_not_divide_is_an_error(size, nearest):
    sample = {**batch(SOME)[0], "input_size": size}
    with pytest.raises(UserError, match=re.escape(f"{size} pixels, but sides must be multiples of 32")) as raised:
        tiny_yolox().train()([sample])
    assert f"the nearest are {nearest}" in str(raised.value)
    images = tiny_yolox().eval().preprocess_image([{"image": torch.zeros(3, *size, dtype=torch.uint8)}])
    assert images.tensor.shape[2:] == (math.ceil(max(size) / 32) * 32,) * 2


def test_images_are_padded_to_a_square_and_boxes_fit_the_original():
    model = tiny_yolox(num_classes=2, test_score_thresh=0.5).eval()
    # 427 x 640 fitted into 96: 64.05 rows, cut down to 64
    sample = {"image": torch.zeros(3, 64, 96, dtype=torch.uint8), "height": 427, "width": 640}
    images = model.preprocess_image([sample])
    assert images.tensor.shape == (1, 3, 96, 96)
    assert images.tensor[0, :, :64].unique().tolist() == [0] and images.tensor[0, :, 64:].unique().tolist() == [114]

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


def test_assignment_and_losses_are_float32_under_autocast():
    seen = []
    model = tiny_yolox(use_l1=True).train()
    assigner = model.assigner

    def spy(priors, *args):
        seen.append((torch.is_autocast_enabled("cpu"), {x.dtype for x in args if x.is_floating_point()}))
        return assigner(priors, *args)

    model.assigner = spy
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(batch(SOME, SOME))
    assert seen == [(False, {torch.float32})]
    assert {loss.dtype for loss in losses.values()} == {torch.float32}


def test_count_is_logged_where_there_is_a_storage():
    model = tiny_yolox().train()
    with EventStorage(19) as storage:
        model(batch(SOME, NONE))
        assert storage.latest()["num_pos_per_image"][0] > 0


def test_coupled_head_splits_its_channels_by_anchor():
    torch.manual_seed(0)
    head = CoupledHead(in_channels=[4], num_classes=2, num_anchors=3).eval()
    head.preds[0] = nn.Conv2d(8, 21, 1)
    nn.init.zeros_(head.preds[0].weight)
    head.preds[0].bias.data = torch.arange(21.0)
    outputs = head([torch.zeros(1, 4, 1, 1)])
    assert outputs.deltas[0].flatten().tolist() == [0, 1, 2, 3, 7, 8, 9, 10, 14, 15, 16, 17]
    assert outputs.obj_logits[0].flatten().tolist() == [4, 11, 18]
    assert outputs.cls_logits[0].flatten().tolist() == [5, 6, 12, 13, 19, 20]


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
    with pytest.raises(ValueError, match="selector"):
        tiny_yolox(head=tiny_head(selector=True))
    for names in (["p3", "p4"], ["p3", "p4", "p6"]):
        with pytest.raises(ValueError, match=re.escape(f"head_in_features is {names} of {{'p3': 8, ")):
            tiny_yolox(head_in_features=names)
    for probability in (0, 1):
        with pytest.raises(ValueError, match=f"prior_prob is {probability};"):
            tiny_head(prior_prob=probability)


def test_any_width_fits_backbone_and_head():
    cfg = LazyConfig.load(os.path.join(ROOT, "configs/yolox/yolox_s.py")).model
    cfg.backbone.bottom_up.width = 0.35  # 22 units of 64: 88 channels, where 256 * 0.35 is 89
    yaml = get_cfg()
    add_yolox_config(yaml)
    yaml.merge_from_file(os.path.join(ROOT, "configs/yacs/yolox.yaml"))
    yaml.MODEL.DEVICE, yaml.MODEL.YOLOX.WIDTH = "meta", 0.35
    with torch.device("meta"):
        for model in (instantiate(cfg), build_model(yaml)):
            assert model.head.in_channels == [88, 176, 352]
            assert {tower[0].conv.out_channels for tower in model.head.cls_convs} == {88}


def test_yaml_that_names_other_maps_is_refused():
    yaml = get_cfg()
    add_yolox_config(yaml)
    yaml.merge_from_file(os.path.join(ROOT, "configs/yacs/yolox.yaml"))
    for names in (["p3", "p4", "p6"], ["dark3"]):
        yaml.MODEL.YOLOX.IN_FEATURES = names
        with torch.device("meta"), pytest.raises(
            ValueError, match=re.escape(f"head_in_features is {names} of {{'p3': 128")
        ):
            YOLOX(yaml)


def test_model_can_be_copied_after_inference_and_trained():
    model = tiny_yolox().eval()
    with torch.inference_mode():
        model(batch(NONE))
    model = copy.deepcopy(model).train()
    sum(model(batch(SOME)).values()).backward()
