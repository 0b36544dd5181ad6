import os

from dense_d2.config import load_config
from tests.vfnet_d2.tiny import make_grid, tiny_head, tiny_vfnet
from tests.yacs import load_yaml, settings
from tests.yolof_d2.tiny import batch, instances
from vfnet_d2 import add_vfnet_config, vfnet
from vfnet_d2.atss import ATSSAssigner
from vfnet_d2.fcos_assigner import FCOSAssigner
from vfnet_d2.head import VFNetPredictions
from vfnet_d2.varifocal_loss import FocalLoss, QualityFocalLoss, VarifocalLoss, varifocal_loss
from vfnet_d2.vfnet import DensePrediction

import pytest
import torch
from detectron2.config import get_cfg, instantiate
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
NONE = ([], [])
SOME = ([[10.0, 10, 60, 70], [30.0, 5, 120, 90]], [1, 2])
TINY_BOX = ([[33.0, 33, 34, 34]], [0])
NO_AREA = ([[32.0, 32, 32, 32], [10.0, 10, 60, 70]], [0, 1])
RAW = dict(star_conv=False, refine=False)


def test_yaml_builds_the_same_model_and_touches_no_global():
    before = get_cfg()
    cfg = load_yaml(add_vfnet_config, "vfnet")
    cfg.MODEL.DEVICE = "meta"
    row = load_config(os.path.join(ROOT, "configs/vfnet/vfnet_r50_1x.py"))
    with torch.device("meta"):
        model = build_model(cfg)
        lazy = instantiate(row.model)
    shapes = [{name: value.shape for name, value in m.state_dict().items()} for m in (model, lazy)]
    assert shapes[0] == shapes[1]
    trained = [{name for name, p in m.named_parameters() if p.requires_grad} for m in (model, lazy)]
    assert trained[0] == trained[1]

    assert settings(model) == settings(lazy) and "box_loss_weight" in settings(lazy)
    assert settings(model.head) == settings(lazy.head) and settings(lazy.head)["gradient_mul"] == 0.1
    assert row.model.head.prior_prob == cfg.MODEL.VFNET.PRIOR_PROB == 0.01
    assert vars(model.assigner) == vars(lazy.assigner) and vars(model.cls_loss) == vars(lazy.cls_loss)
    assert [type(m) for m in model.modules()] == [type(m) for m in lazy.modules()]
    strides = [[m.stride for m in x.modules() if isinstance(m, nn.Conv2d)] for x in (model, lazy)]
    assert strides[0] == strides[1] and lazy.backbone.bottom_up.res3[0].conv2.stride == (2, 2)
    assert [row.model.pixel_mean, row.model.pixel_std] == [cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD]

    solver, sgd, schedule = cfg.SOLVER, row.optimizer, row.lr_multiplier
    assert (row.dataloader.train.total_batch_size, row.train.max_iter) == (solver.IMS_PER_BATCH, solver.MAX_ITER)
    assert (sgd.lr, sgd.momentum, sgd.weight_decay) == (solver.BASE_LR, solver.MOMENTUM, solver.WEIGHT_DECAY)
    assert (sgd.params.bias_lr_factor, sgd.params.weight_decay_bias) == (
        solver.BIAS_LR_FACTOR,
        solver.WEIGHT_DECAY_BIAS,
    )
    assert solver.WEIGHT_DECAY_NORM == solver.WEIGHT_DECAY and sgd.params.weight_decay_norm is None
    assert (schedule.warmup_iters, schedule.warmup_factor) == (solver.WARMUP_ITERS, solver.WARMUP_FACTOR)
    assert list(solver.STEPS) == schedule.milestones
    assert get_cfg() == before


YACS = {  # values other than the defaults, and where they arrive
    "FEAT_CHANNELS": (64, lambda m: m.head.vfnet_reg.in_channels),
    "NUM_CONVS": (2, lambda m: len(m.head.reg_convs)),
    "NUM_CLASSES": (7, lambda m: m.num_classes),
    "BBOX_NORM": ("stride", lambda m: "stride" if m.head.box_units == [8, 16, 32, 64, 128] else None),
    "DEFORM_LAST_CONV": (True, lambda m: hasattr(m.head.cls_convs[-1].conv, "conv_offset")),
    "ATSS_TOPK": (5, lambda m: m.assigner.topk),
    "VFL_ALPHA": (0.5, lambda m: m.cls_loss.alpha),
    "VFL_GAMMA": (1.0, lambda m: m.cls_loss.gamma),
    "VFL_IOU_WEIGHTED": (False, lambda m: m.cls_loss.iou_weighted),
    "BOX_LOSS_WEIGHT": (1.25, lambda m: m.box_loss_weight),
    "REFINE_LOSS_WEIGHT": (1.75, lambda m: m.refine_loss_weight),
    "SCORE_THRESH_TEST": (0.1, lambda m: m.test_score_thresh),
    "TOPK_CANDIDATES_TEST": (50, lambda m: m.test_topk_candidates),
    "NMS_THRESH_TEST": (0.3, lambda m: m.test_nms_thresh),
    "DETECTIONS_PER_IMAGE": (9, lambda m: m.max_detections_per_image),
    "SOFT_NMS": (True, lambda m: m.soft_nms),
}


def test_every_yacs_key_is_read():
    cfg = get_cfg()
    add_vfnet_config(cfg)
    assert set(cfg.MODEL.VFNET) - set(YACS) == {"IN_FEATURES", "PRIOR_PROB"}
    cfg.merge_from_file(os.path.join(ROOT, "configs/yacs/vfnet.yaml"))
    cfg.MODEL.VFNET.update({key: value for key, (value, _) in YACS.items()})
    cfg.MODEL.VFNET.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    assert {key: find(model) for key, (_, find) in YACS.items()} == {key: value for key, (value, _) in YACS.items()}


def test_optimizer_groups_of_r50():
    cfg = load_config(os.path.join(ROOT, "configs/vfnet/vfnet_r50_1x.py"))
    cfg.model.head.deform_last_conv = True
    with torch.device("meta"):
        model = cfg.optimizer.params.model = instantiate(cfg.model)
    groups = {(g["lr"], g["weight_decay"]): g["params"] for g in instantiate(cfg.optimizer).param_groups}
    assert set(groups) == {(0.01, 1e-4), (0.02, 0.0)}
    fast = {name for name, p in model.named_parameters() if any(p is q for q in groups[0.02, 0.0])}
    pyramid = [f"fpn_{kind}{i}" for kind in ("lateral", "output") for i in (3, 4, 5)] + ["top_block.p6", "top_block.p7"]
    expected = {f"backbone.{name}.bias" for name in pyramid}
    assert fast == expected | {f"head.{name}.bias" for name in ("vfnet_reg", "vfnet_reg_refine", "vfnet_cls")}
    # 181 tensors of the network without the two offset predictors: scale and shift of the norms of res3 to res5 are trained
    assert len(groups[0.01, 1e-4]) == 170 + 4


def test_schedule_of_the_1x():
    schedule = instantiate(load_config(os.path.join(ROOT, "configs/vfnet/vfnet_r50_1x.py")).lr_multiplier)
    found = [schedule(i / 87960) for i in (0, 250, 500, 58639, 58640, 80629, 80630)]
    assert found == pytest.approx([0.1, 0.55, 1, 1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize("head", [{}, dict(refine=False), RAW, dict(RAW, centerness=True), dict(deform_last_conv=True)])
@pytest.mark.parametrize("annotations", [(SOME, NONE), (NONE, NONE), (TINY_BOX, NO_AREA)])
def test_losses_are_finite_and_every_parameter_has_a_gradient(annotations, head):
    model = tiny_vfnet(head=tiny_head(**head)).train()
    losses = model(batch(*annotations))
    sum(losses.values()).backward()
    names = {"loss_cls", "loss_box_reg"}
    names |= {"loss_box_refine"} if model.head.refine else set()
    names |= {"loss_centerness"} if model.head.centerness else set()
    assert set(losses) == names
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert losses["loss_cls"] > 0 and (losses["loss_box_reg"] > 0) == (annotations != (NONE, NONE))


def test_losses_add_up_by_hand():
    """Four locations: two positives, a background, an ignored one."""
    model = tiny_vfnet(num_classes=2, cls_loss=VarifocalLoss())
    points = torch.tensor([[0.0, 0], [8.0, 0], [0.0, 8], [8.0, 8]])
    logits = torch.tensor([[[0.5, -1.0], [0.0, 2.0], [1.0, -2.0], [3.0, 3.0]]])
    gt_labels = torch.tensor([[0, 1, 2, -1]])
    gt_boxes = torch.tensor([[[-4.0, -4, 4, 4], [4.0, -4, 12, 4], [0.0, 0, 0, 0], [0.0, 0, 0, 0]]])
    # initial: half of the first box, IoU 1/2; three quarters of the second. Refined: the whole first; a quarter of the second
    ltrb = torch.tensor([[[4.0, 4, 4, 0], [4.0, 4, 2, 4], [9.0, 9, 9, 9], [9.0, 9, 9, 9]]])
    refined = torch.tensor([[[4.0, 4, 4, 4], [4.0, 4, -2, 4], [9.0, 9, 9, 9], [9.0, 9, 9, 9]]])
    losses = model.losses(points, logits, ltrb, refined, None, gt_labels, gt_boxes)
    # boxes inside the ground truth: GIoU is IoU. Weights sum up to 1.25 each
    assert losses["loss_box_reg"].item() == pytest.approx(1.5 * (0.5 * 0.5 + 0.75 * 0.25) / 1.25)
    assert losses["loss_box_refine"].item() == pytest.approx(2.0 * (1 * 0 + 0.25 * 0.75) / 1.25, rel=1e-5)
    targets = torch.tensor([[1.0, 0], [0, 0.25], [0, 0]])
    expected = varifocal_loss(logits[0, :3], targets).sum() / 2
    assert losses["loss_cls"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_small_sums_are_not_divided_by_and_ranks_are_averaged(monkeypatch):
    points, gt_boxes = torch.zeros(1, 2), torch.tensor([[[-4.0, -4, 4, 4]]])
    arguments = dict(logits=torch.zeros(1, 1, 2), ltrb=torch.tensor([[[4.0, 4, 4, 0]]]), centerness=None)
    arguments.update(refined_ltrb=torch.tensor([[[4.0, 4, 4, 4]]]), gt_labels=torch.tensor([[0]]), gt_boxes=gt_boxes)
    model = tiny_vfnet(num_classes=2)
    # one positive of weight 1/2: divided by 1, not by the weight
    assert model.losses(points, **arguments)["loss_box_reg"].item() == pytest.approx(1.5 * 0.25)
    calls = []
    monkeypatch.setattr(vfnet, "mean_over_ranks", lambda x: calls.append(x) or torch.tensor([4.0, 2.0, 8.0]))
    losses = model.losses(points, **arguments)
    torch.testing.assert_close(torch.stack(calls), torch.tensor([[1.0, 0.5, 1.0]]))
    assert losses["loss_box_reg"].item() == pytest.approx(1.5 * 0.25 / 2)
    expected = varifocal_loss(torch.zeros(2), torch.tensor([1.0, 0.0])).sum() / 4
    assert losses["loss_cls"].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("head, count", [({}, 3), (RAW, 2), (dict(RAW, centerness=True), 2)])
@pytest.mark.parametrize("annotations", [(SOME, NONE), (NONE, NONE)])
def test_one_reduction_whatever_the_images_hold(monkeypatch, annotations, head, count):
    calls = []
    monkeypatch.setattr(vfnet, "mean_over_ranks", lambda x: calls.append(x) or x)
    tiny_vfnet(head=tiny_head(**head)).train()(batch(*annotations))
    assert [x.shape for x in calls] == [(count,)] and not calls[0].requires_grad


def test_quality_and_weights_are_constants():
    model = tiny_vfnet(num_classes=2)
    ltrb = torch.tensor([[[4.0, 4, 4, 1]]], requires_grad=True)
    refined = torch.tensor([[[4.0, 4, 4, 2]]], requires_grad=True)
    points, gt_boxes = torch.zeros(1, 2), torch.tensor([[[-4.0, -4, 4, 4]]])
    losses = model.losses(points, torch.zeros(1, 1, 2), ltrb, refined, None, torch.tensor([[0]]), gt_boxes)
    assert not losses["loss_cls"].requires_grad
    # only the bottom side is wrong: d(1 - IoU) is -1/8 a pixel, times the weight IoU and the factor
    (gradient,) = torch.autograd.grad(losses["loss_box_reg"], ltrb)
    torch.testing.assert_close(gradient[0, 0, 3], torch.tensor(-1.5 * 0.625 / 8))
    (gradient,) = torch.autograd.grad(losses["loss_box_refine"], refined)
    torch.testing.assert_close(gradient[0, 0, 3], torch.tensor(-2.0 * 0.75 / 8))


def test_a_positive_far_from_its_box_stays_a_positive():
    seen = []
    model = tiny_vfnet(num_classes=2, cls_loss=lambda *args: seen.append(args) or args[0].sum())
    points, gt_boxes = torch.zeros(1, 2), torch.tensor([[[-4.0, -4, 4, 4]]])
    away = torch.tensor([[[-50.0, -50, 60, 60]]])
    model.losses(points, torch.zeros(1, 1, 2), away, away, None, torch.tensor([[0]]), gt_boxes)
    assert seen[0][2].item() == pytest.approx(1e-6)


def test_centerness_is_target_and_weight_of_the_baseline():
    model = tiny_vfnet(num_classes=2, head=tiny_head(2, **RAW, centerness=True), box_loss_weight=3.0)
    points, gt_boxes = torch.zeros(2, 2), torch.tensor([[[-1.0, -2, 4, 8], [0.0, 0, 0, 0]]])
    ltrb = torch.tensor([[[1.0, 2, 4, 0], [9.0, 9, 9, 9]]])  # IoU 1/5, and a background
    centerness = torch.full((1, 2, 1), 2.0)
    losses = model.losses(points, torch.zeros(1, 2, 2), ltrb, None, centerness, torch.tensor([[0, 2]]), gt_boxes)
    target = (1 / 4 * 2 / 8) ** 0.5
    assert losses["loss_box_reg"].item() == pytest.approx(3.0 * 0.8 * target)
    expected = nn.functional.binary_cross_entropy_with_logits(torch.tensor(2.0), torch.tensor(target))
    assert losses["loss_centerness"].item() == pytest.approx(expected.item())


@pytest.mark.parametrize("cls_loss", [VarifocalLoss(), QualityFocalLoss(), FocalLoss()])
def test_losses_are_finite_and_float32_under_autocast(cls_loss):
    model = tiny_vfnet(cls_loss=cls_loss, head=tiny_head(max_exponent=10.0)).train()
    nn.init.constant_(model.head.vfnet_cls.bias, 1e4)
    model.head.vfnet_cls.bias.data[1] = -1e4
    seen = []
    assigner = model.assigner

    def spy(grid, boxes):
        seen.append(torch.is_autocast_enabled("cpu"))
        return assigner(grid, boxes)

    spy.offset, spy.ignores_padding = assigner.offset, assigner.ignores_padding
    model.assigner = spy
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(batch(SOME, NO_AREA))
    sum(losses.values()).backward()
    assert seen == [False]
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.eval()(batch(NONE, NONE))[0]["instances"].scores.dtype == torch.float32


def test_boxes_without_area_on_both_sides_are_harmless():
    model = tiny_vfnet(num_classes=2)
    ltrb = torch.zeros(1, 1, 4, requires_grad=True)
    points, gt_boxes = torch.zeros(1, 2), torch.zeros(1, 1, 4)
    losses = model.losses(points, torch.zeros(1, 1, 2), ltrb, ltrb, None, torch.tensor([[0]]), gt_boxes)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values()) and ltrb.grad.isfinite().all()


@pytest.mark.parametrize(
    "cls_loss, ignored", [(VarifocalLoss(), False), (QualityFocalLoss(), True), (FocalLoss(), True)]
)
def test_padding_of_the_batch_counts_as_released(cls_loss, ignored):
    model = tiny_vfnet(cls_loss=cls_loss)
    grid = make_grid([(40, 70), (128, 128)])
    gt = [instances([[2.0, 3, 70, 40]], [1], (40, 70)), instances(*NONE, size=(128, 128))]
    labels, boxes = model.label_points(grid, gt)
    padding = ~grid.is_valid()
    assert (labels[padding] == (-1 if ignored else 3)).all() and (labels[~padding] != -1).all()
    assert labels[0].max() == 3 and (labels[0] == 1).any() and (labels[1, ~padding[1]] == 3).all()
    assert (boxes[labels == 1] == torch.tensor([2.0, 3, 70, 40])).all() and (boxes[labels != 1] == 0).all()
    model.assigner = FCOSAssigner()
    assert (model.label_points(grid, gt)[0] != -1).all()


def dense(scores, boxes, num_points, centerness=None):
    return DensePrediction(torch.tensor(scores), torch.tensor(boxes), centerness, num_points)


def test_locations_are_chosen_by_level_before_the_threshold():
    model = tiny_vfnet(num_classes=2, test_topk_candidates=1, test_nms_thresh=0.5)
    scores = [[0.3, 0.9], [0.8, 0.2], [0.05, 0.04], [0.06, 0.050001]]
    boxes = [[i * 20.0, 0, i * 20.0 + 10, 10] for i in range(4)]
    found = model.select(dense(scores, boxes, [2, 2]), (100, 100))
    # the best location of either level, all of its classes above the threshold
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.3, 0.06, 0.050001]))
    assert found.pred_classes.tolist() == [1, 0, 0, 1]
    assert found.pred_boxes.tensor[:, 0].tolist() == [0, 0, 60, 60]
    model.test_topk_candidates = 1000
    found = model.select(dense(scores, boxes, [2, 2]), (100, 100))
    assert len(found) == 6  # 0.05 itself is not above 0.05
    model.max_detections_per_image = 2
    assert model.select(dense(scores, boxes, [2, 2]), (100, 100)).scores.tolist() == pytest.approx([0.9, 0.8])


def test_boxes_are_cut_before_nms_which_is_per_class():
    model = tiny_vfnet(num_classes=2)
    # inside the image of 20 x 30 both are the same box; as predicted, their IoU is 1/3
    boxes = [[0.0, 0, 30, 20], [0.0, 0, 90, 20], [0.0, 0, 30, 20]]
    found = model.select(dense([[0.9, 0], [0.8, 0], [0, 0.7]], boxes, [3]), (20, 30))
    assert found.scores.tolist() == pytest.approx([0.9, 0.7]) and found.pred_classes.tolist() == [0, 1]
    assert found.pred_boxes.tensor.tolist() == [[0, 0, 30, 20]] * 2 and found.image_size == (20, 30)


def test_centerness_multiplies_after_the_threshold_and_ranks():
    model = tiny_vfnet(num_classes=2, test_topk_candidates=1)
    prediction = dense(
        [[0.9, 0.04], [0.5, 0.06]], [[0.0, 0, 9, 9], [20.0, 0, 29, 9]], [2], centerness=torch.tensor([0.1, 0.5])
    )
    found = model.select(prediction, (50, 50))
    assert found.scores.tolist() == pytest.approx([0.25, 0.03]) and found.pred_classes.tolist() == [0, 1]


def test_soft_nms_keeps_decayed_scores():
    boxes = [[0.0, 0, 10, 10], [2.0, 0, 12, 10]]  # IoU 2/3
    model = tiny_vfnet(num_classes=2, soft_nms=True, test_nms_thresh=0.65)
    found = model.select(dense([[0.9, 0.0], [0.8, 0.0]], boxes, [2]), (50, 50))
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.8 / 3]))
    assert len(model.select(dense([[0.0, 0.0]] * 2, boxes, [2]), (50, 50))) == 0
    model.soft_nms = False
    assert len(model.select(dense([[0.9, 0.0], [0.8, 0.0]], boxes, [2]), (50, 50))) == 1


def test_detections_use_refined_boxes_and_fit_the_original_image():
    model = tiny_vfnet(num_classes=2).eval()
    sample = {"image": torch.zeros(3, 60, 90, dtype=torch.uint8), "height": 120, "width": 180}
    assert model.preprocess_image([sample]).tensor.shape == (1, 3, 64, 96)

    def predictions(features):
        sizes = [x.shape[-2:] for x in features]
        logits = [torch.full((1, 2, *size), -9.0) for size in sizes]
        logits[1][0, 1, 2, 3] = 2.0  # of stride 16: at (48, 32)
        ltrb = [torch.full((1, 4, *size), 1.0) for size in sizes]
        refined = [x.clone() for x in ltrb]
        refined[1][0, :, 2, 3] = torch.tensor([10.0, 20, 30, 90])
        return VFNetPredictions(logits, ltrb, refined, None)

    model.head.forward = predictions
    (output,) = model([sample])
    found = output["instances"]
    torch.testing.assert_close(found.scores, torch.tensor([2.0]).sigmoid())
    # (38, 12, 78, 122), cut at row 60, twice as large
    assert found.pred_boxes.tensor.tolist() == [[76, 24, 156, 120]] and found.pred_classes.tolist() == [1]


@pytest.mark.parametrize("assigner", [ATSSAssigner(), FCOSAssigner()])
def test_locations_follow_the_assigner(assigner):
    model = tiny_vfnet(assigner=assigner)
    maps = [torch.zeros(1, 3, 2, 2), *(torch.zeros(1, 3, 1, 1) for _ in range(4))]
    grid = model.make_grid(VFNetPredictions(maps, maps, maps, None), [(16, 16)])
    assert grid.points[3].tolist() == ([8, 8] if assigner.offset == 0 else [12, 12])


def test_an_image_of_one_cell_trains_and_detects():
    # torch refuses to normalise a group of one number: two channels a group
    model = tiny_vfnet(head=tiny_head(feat_channels=64)).train()
    sample = batch(NONE)[0]
    sample.update(image=sample["image"][:, :1, :1], height=1, width=1)
    sample["instances"] = instances([[0.0, 0, 1, 1]], [0], (1, 1))
    sum(model([sample]).values()).backward()
    assert model.eval()([sample])[0]["instances"].image_size == (1, 1)


def test_count_is_logged_where_there_is_a_storage():
    model = tiny_vfnet().train()
    with EventStorage(19) as storage:
        counts = []
        for annotations in ((SOME, NONE), (SOME, NONE, NONE, NONE)):
            model(batch(*annotations))
            counts.append(storage.latest()["num_fg_per_image"][0])
        assert counts[0] == 2 * counts[1] > 0


def test_what_does_not_fit_together_is_an_error():
    with pytest.raises(ValueError, match="num_classes is 4 .* is 3"):
        tiny_vfnet(num_classes=4, head=tiny_head(3))
