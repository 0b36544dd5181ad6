import os

from dense_d2.config import load_config
from dense_d2.errors import UserError
from tests.vfnet_d2.tiny import STRIDES, TinyPyramid, make_grid
from tests.yolof_d2.tiny import batch, instances
from vfnet_d2.hosts.max_iou_assigner import MaxIoUAssigner
from vfnet_d2.hosts.point_assigner import PointAssigner
from vfnet_d2.hosts.reppoints import RepPoints
from vfnet_d2.hosts.reppoints_head import RepPointsHead, points_to_ltrb, points_to_offsets
from vfnet_d2.released import from_mmdet
from vfnet_d2.varifocal_loss import FocalLoss, QualityFocalLoss, VarifocalLoss, varifocal_loss

import pytest
import torch
from detectron2.config import get_cfg, instantiate

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
NONE = ([], [])
SOME = ([[10.0, 10, 60, 70], [30.0, 5, 120, 90]], [1, 2])
NO_AREA = ([[32.0, 32, 32, 32], [10.0, 10, 60, 70]], [0, 1])
LOSSES = [FocalLoss(), QualityFocalLoss(), VarifocalLoss()]


def tiny_head(num_classes=3, **kwargs):
    torch.manual_seed(0)
    options = dict(in_channels=32, feat_channels=64, point_channels=16, num_convs=1, num_classes=num_classes)
    return RepPointsHead(**{**options, **kwargs})


def tiny_reppoints(num_classes=3, **kwargs):
    torch.manual_seed(0)
    options = dict(
        backbone=TinyPyramid(),
        head=tiny_head(num_classes),
        assigner=PointAssigner(),
        refine_assigner=MaxIoUAssigner(),
        cls_loss=VarifocalLoss(),
        num_classes=num_classes,
        pixel_mean=[0.0, 0.0, 0.0],
        pixel_std=[1.0, 1.0, 1.0],
    )
    return RepPoints(**{**options, **kwargs})


def test_box_of_points_by_hand():
    # three points, (down, right): means 2 and 5, standard deviations 1 and 3 (divisor 2)
    points = torch.tensor([1.0, 2, 2, 5, 3, 8]).view(1, 6, 1, 1)
    ltrb = points_to_ltrb(points, torch.zeros(2))
    assert ltrb.flatten().tolist() == [3 - 5, 1 - 2, 3 + 5, 1 + 2]
    ltrb = points_to_ltrb(points, torch.tensor([2.0, 4.0]).log())  # twice as wide, four times as high
    torch.testing.assert_close(ltrb.flatten(), torch.tensor([6.0 - 5, 4 - 2, 6 + 5, 4 + 2]))


def test_half_sides_learn_slowly():
    points = torch.tensor([1.0, 2, 2, 5, 3, 8]).view(1, 6, 1, 1)
    head = tiny_head(moment_mul=0.25)
    transfer = head._log_ratio()
    points_to_ltrb(points, transfer).sum().backward()
    # d(2 * 3 e^x) and d(2 * 1 e^y), a quarter
    torch.testing.assert_close(head.moment_transfer.grad, torch.tensor([1.5, 0.5]))


def test_points_that_coincide_have_a_finite_gradient():
    points = torch.full((1, 18, 1, 1), 3.0, requires_grad=True)
    ltrb = points_to_ltrb(points, torch.zeros(2))
    ltrb.square().sum().backward()
    assert ltrb.flatten().tolist() == [-3, -3, 3, 3] and points.grad.isfinite().all()


def test_offsets_take_the_taps_to_the_points():
    grid = torch.tensor([-1.0, -1, -1, 0, -1, 1, 0, -1, 0, 0, 0, 1, 1, -1, 1, 0, 1, 1]).view(1, 18, 1, 1)
    assert (points_to_offsets(grid, 3) == 0).all()  # points on the regular grid: a plain convolution
    assert (points_to_offsets(torch.zeros(1, 18, 2, 3), 3) == -grid).all()
    points = torch.ones(1, 18, 1, 1, requires_grad=True)
    points_to_offsets(points, 3, gradient_mul=0.1).sum().backward()
    torch.testing.assert_close(points.grad, torch.full((1, 18, 1, 1), 0.1))


def test_every_tap_looks_at_its_point():
    head = tiny_head()
    x = torch.arange(15.0).view(1, 1, 3, 5).expand(1, 64, 3, 5)
    points = torch.tensor([1.0, 2.0]).repeat(9).view(1, 18, 1, 1).expand(1, 18, 3, 5)
    with torch.no_grad():
        head.reppoints_cls_conv.weight.zero_()[0, 0, 2, 0] = 1
        y = head.reppoints_cls_conv(x, points_to_offsets(points, 3))
    assert y[0, 0, :2, :3].tolist() == [[7, 8, 9], [12, 13, 14]]  # one down, two to the right


def test_head_step_by_step():
    head, x = tiny_head(), torch.randn(1, 32, 4, 5)
    for weight in (p for p in head.parameters() if p.ndim == 4):
        torch.nn.init.normal_(weight, std=0.1)
    predictions = head([x] * 5)
    cls_features, reg_features = head.cls_convs(x), head.reg_convs(x)
    points = head.reppoints_pts_init_out(head.reppoints_pts_init_conv(reg_features).relu())
    offsets = points_to_offsets(points, 3)
    logits = head.reppoints_cls_out(head.reppoints_cls_conv(cls_features, offsets).relu())
    moved = head.reppoints_pts_refine_out(head.reppoints_pts_refine_conv(reg_features, offsets).relu())
    torch.testing.assert_close(predictions.logits[1], logits)
    torch.testing.assert_close(predictions.ltrb[1], 16 * points_to_ltrb(points, torch.zeros(2)))
    torch.testing.assert_close(predictions.refined_ltrb[1], 16 * points_to_ltrb(points + moved, torch.zeros(2)))


@pytest.mark.parametrize("cls_loss", LOSSES)
@pytest.mark.parametrize("annotations", [(SOME, NONE), (NONE, NONE), (NO_AREA, SOME)])
def test_losses_are_finite_and_every_parameter_has_a_gradient(annotations, cls_loss):
    model = tiny_reppoints(cls_loss=cls_loss).train()
    losses = model(batch(*annotations))
    sum(losses.values()).backward()
    assert set(losses) == {"loss_cls", "loss_box_reg", "loss_box_refine"}
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert losses["loss_cls"] > 0
    if annotations == (NONE, NONE):
        assert losses["loss_box_reg"] == 0 and losses["loss_box_refine"] == 0
    else:
        assert all((p.grad != 0).any() for p in model.parameters())


@pytest.mark.parametrize("cls_loss", LOSSES)
def test_a_few_steps_learn(cls_loss):
    model = tiny_reppoints(cls_loss=cls_loss).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    history = []
    for _ in range(12):
        losses = model(batch(SOME))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append(losses["loss_box_reg"].item())
    assert history[-1] < 0.7 * history[0]


@pytest.mark.parametrize("cls_loss", LOSSES)
def test_losses_are_finite_and_float32_under_autocast(cls_loss):
    model = tiny_reppoints(cls_loss=cls_loss).train()
    torch.nn.init.constant_(model.head.reppoints_cls_out.bias, 1e4)
    seen = []
    assigner = model.refine_assigner
    model.refine_assigner = lambda *args: seen.append(torch.is_autocast_enabled("cpu")) or assigner(*args)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(batch(SOME, NONE))
    sum(losses.values()).backward()
    assert seen == [False]
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_points_are_float32_under_autocast():
    head = tiny_head()
    torch.nn.init.constant_(head.reppoints_pts_init_out.bias, 100.2)  # bfloat16 has 100 and 100.5
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predictions = head([torch.ones(1, 32, 2, 2)] * 5)
    for ltrb in (predictions.ltrb[0], predictions.refined_ltrb[0]):
        assert ltrb.dtype == torch.float32 and (ltrb[:, 2] / 8 - 100.2).abs().max() < 0.1
    assert predictions.centerness is None


def test_losses_add_up_by_hand():
    """Two images of three locations; the second image holds nothing."""
    model = tiny_reppoints(num_classes=2)
    strides = torch.tensor([8, 8, 16])
    logits = torch.tensor([[[0.5, -1.0], [0.0, 2.0], [3.0, 3.0]], [[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0]]])
    boxes = torch.zeros(2, 3, 4)
    gt_boxes = boxes.clone()
    # first stage: one location, off by 32 pixels (one unit) at one side and by 1.6 (0.05 units, quadratic) at another
    gt_boxes[0, 0] = torch.tensor([0.0, 0, 32, 1.6])
    targets = (torch.tensor([[1, 2, 2], [2, 2, 2]]), gt_boxes)
    # second stage: three quarters of one box, none of another; an ignored location
    refined_boxes = torch.tensor([[[0.0, 0, 8, 6], [50.0, 0, 58, 8], [9.0, 9, 9, 9]], [[9.0, 9, 9, 9]] * 3])
    refined_gt_boxes = torch.tensor([[[0.0, 0, 8, 8], [82.0, 0, 90, 8], [0.0, 0, 0, 0]], [[0.0, 0, 0, 0]] * 3])
    refined_targets = (torch.tensor([[0, 1, -1], [2, 2, -1]]), refined_gt_boxes)
    losses = model.losses(strides, logits, boxes, refined_boxes, targets, refined_targets)
    # divisors: 1 + 1 (the empty image counts) and 2 + 1
    assert losses["loss_box_reg"].item() == pytest.approx(0.5 * ((1 - 0.055) + 0.05**2 / 0.22) / 2)
    assert losses["loss_box_refine"].item() == pytest.approx(((2 / 32) ** 2 / 0.22 + 2 * (1 - 0.055)) / 3)
    # an IoU of 0 makes a background of a positive: nothing clamps it
    flat = torch.cat([logits[0, :2], logits[1, :2]])
    expected = varifocal_loss(flat, torch.tensor([[0.75, 0], [0, 0], [0, 0], [0, 0]])).sum() / 3
    assert losses["loss_cls"].item() == pytest.approx(expected.item())


def test_errors_count_in_the_unit_of_their_level():
    model = tiny_reppoints().train()
    model.losses = lambda strides, *_: strides.tolist()
    assert model(batch(NONE)) == 192 * [8] + 48 * [16] + 12 * [32] + 4 * [64] + [128]


def test_the_second_stage_is_assigned_by_the_first_boxes():
    model = tiny_reppoints(num_classes=3)
    assigner, seen = model.refine_assigner, []
    model.refine_assigner = lambda boxes, *args: seen.append(boxes) or assigner(boxes, *args)
    torch.nn.init.constant_(model.head.reppoints_pts_init_out.bias, 1.0)
    torch.nn.init.constant_(model.head.reppoints_pts_refine_out.bias, 50.0)
    model.train()(batch(SOME))
    assert seen[0][0, 0].abs().max() < 16 and not seen[0].requires_grad  # around (8, 8)
    grid = make_grid([(40, 70), (128, 128)])
    gt = [instances([[2.0, 3, 34, 35]], [1], (40, 70)), instances(*NONE, size=(128, 128))]
    boxes = torch.zeros(2, len(grid.points), 4)
    boxes[:, 5] = torch.tensor([2.0, 3, 34, 30])
    labels, gt_boxes = model.label_boxes(grid, boxes, gt)
    assert labels[0, 5] == 1 and gt_boxes[0, 5].tolist() == [2, 3, 34, 35]
    is_valid = grid.is_valid()
    # the whole of the second image is its own, padding of the batch is left out
    assert (labels[1] == 3).all() and not is_valid[0].all() and (labels[~is_valid] == -1).all()
    assert (labels[0] == 1).sum() == 1 and (labels[0, is_valid[0]] != -1).all()


def test_gradients_that_are_cut():
    head = tiny_head(gradient_mul=0.0)
    predictions = head([torch.randn(1, 32, 4, 4)] * 5)
    first = head.reppoints_pts_init_out.weight
    for outputs in (predictions.logits, predictions.refined_ltrb):
        (gradient,) = torch.autograd.grad(outputs[0].sum(), first, retain_graph=True, allow_unused=True)
        assert gradient is None or (gradient == 0).all()  # refined points start from detached ones
    (gradient,) = torch.autograd.grad(predictions.ltrb[0].sum(), first)
    assert (gradient != 0).any()


def test_detections_are_the_refined_boxes():
    model = tiny_reppoints(test_nms_thresh=0.5).eval()
    head = model.head
    with torch.no_grad():
        for conv in (head.reppoints_pts_init_out, head.reppoints_pts_refine_out, head.reppoints_cls_out):
            conv.weight.zero_()
        # the first points lie at (1, 2), the refined ones around (3, 2.5) with a deviation of 1.5 at right angles
        head.reppoints_pts_init_out.bias.copy_(torch.tensor([1.0, 2.0]).repeat(9))
        head.reppoints_pts_refine_out.bias.copy_(torch.tensor([2.0, 0.5]).repeat(9))
        spread = torch.tensor([-1.0] * 4 + [0.0] + [1.0] * 4) * 1.5
        head.reppoints_pts_refine_out.bias.view(9, 2).add_(spread[:, None])
        head.reppoints_cls_out.bias.fill_(5.0)
        sample = {"image": torch.zeros(3, 64, 64, dtype=torch.uint8)}
        images = model.preprocess_image([sample])
        predictions = head(list(model.backbone(images.tensor).values()))
        (dense,) = model.predict_dense(images, predictions)
        (labels,) = model.label_dense(images, predictions, [instances([[8.0, 16, 20, 24]], [2], (64, 64))])
    # stride 8, location (8, 0): x = 8 + 8 * (2.5 +- 1.5), y = 8 * (3 +- 1.5)
    torch.testing.assert_close(dense.boxes[1], torch.tensor([16.0, 12, 40, 36]))
    torch.testing.assert_close(dense.boxes[64 + 1], torch.tensor([32.0, 24, 80, 72]))  # stride 16, location (16, 0)
    # by the first boxes, which have no area: all are as far from the one box
    assert (labels.classes == 2).all() and labels.boxes.unique(dim=0).tolist() == [[8, 16, 20, 24]]
    (output,) = model([sample])
    assert len(output["instances"]) > 0 and output["instances"].scores[0] > 0.99


def test_row_of_the_paper():
    cfg = load_config(os.path.join(ROOT, "configs/vfnet/ablation/table5/reppoints_varifocal.py"))
    with torch.device("meta"):
        model = cfg.optimizer.params.model = instantiate(cfg.model)
    assert sum(p.numel() for p in model.head.parameters()) == 5_341_558
    assert model.backbone.top_block.in_feature == "res5" and not model.backbone.top_block.relu_before_p7
    weights = [p for p in tiny_head().parameters() if p.ndim == 4]
    assert len(weights) == 8 and all(0.008 < p.std() < 0.012 for p in weights)
    assert len(instantiate(cfg.optimizer).param_groups) == 1  # no rule for biases
    assert cfg.dataloader.train.total_batch_size == 16 and model.test_nms_thresh == 0.5
    parts = ["cls_convs.2.gn.weight", "reppoints_pts_init_conv.bias", "reppoints_cls_conv.weight", "moment_transfer"]
    names = ["neck.lateral_convs.0.conv.weight", "neck.lateral_convs.2.gn.bias", "neck.fpn_convs.3.gn.weight"]
    released = dict.fromkeys(names + [f"bbox_head.{part}" for part in parts])  # mmdetection's
    assert set(from_mmdet(released)) < set(model.state_dict())


def test_what_does_not_fit_together_is_an_error():
    with pytest.raises(UserError, match="yacs"):
        RepPoints(get_cfg())
    with pytest.raises(ValueError, match="odd"):
        tiny_head(kernel_size=2)
    with pytest.raises(ValueError, match="5 strides"):
        tiny_head()([torch.zeros(1, 32, 2, 2)] * (len(STRIDES) - 1))
