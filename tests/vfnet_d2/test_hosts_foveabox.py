import os

from dense_d2.config import load_config
from dense_d2.errors import UserError
from tests.vfnet_d2 import test_released as released
from tests.vfnet_d2.tiny import STRIDES, TinyPyramid, make_grid
from tests.yolof_d2.tiny import batch
from vfnet_d2.hosts.fovea_assigner import FoveaAssigner
from vfnet_d2.hosts.foveabox import FoveaBox, FoveaHead
from vfnet_d2.released import from_mmdet
from vfnet_d2.varifocal_loss import FocalLoss, QualityFocalLoss, VarifocalLoss

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg, instantiate
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, pairwise_iou

TABLE5 = os.path.join(os.path.dirname(__file__), "..", "..", "configs/vfnet/ablation/table5")
NONE = ([], [])
SOME = ([[10.0, 10, 60, 70], [30.0, 5, 120, 90]], [1, 2])
ONE = ([[33.0, 33, 90, 80]], [0])
NO_AREA = ([[32.0, 32, 32, 32], [10.0, 10, 60, 70]], [0, 1])
LOSSES = [VarifocalLoss(), QualityFocalLoss(), FocalLoss(alpha=0.4, gamma=1.5)]
BASE_LENGTHS = (16, 32, 64, 128, 256)


def tiny_head(**kwargs):
    torch.manual_seed(0)
    return FoveaHead(**{**dict(in_channels=32, feat_channels=8, num_convs=1, num_classes=3), **kwargs})


def tiny_foveabox(**kwargs):
    head = tiny_head()
    options = dict(backbone=TinyPyramid(), head=head, assigner=FoveaAssigner(), cls_loss=FocalLoss(), num_classes=3)
    return FoveaBox(**{**options, **dict(pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3), **kwargs})


def feature_maps(height=96, width=128, seed=1):
    generator = torch.Generator().manual_seed(seed)
    sizes = [(-(-height // stride), -(-width // stride)) for stride in STRIDES]
    return [torch.randn(2, 32, *size, generator=generator) for size in sizes]


def cells(boxes, size=(128, 128)):
    """{box: {level: its (row, column) cells}} for one image."""
    grid = make_grid([size])
    matched = FoveaAssigner()(grid, [torch.tensor(boxes).reshape(-1, 4)])[0]
    found = {}
    for level, (part, (_, width)) in enumerate(zip(matched.split(grid.num_points), grid.sizes), start=3):
        for r in (part >= 0).nonzero().flatten().tolist():
            found.setdefault(part[r].item(), {}).setdefault(level, []).append(divmod(r, width))
    return found


def test_the_fovea_on_both_levels_of_a_box():
    # 48 pixels: P3 takes up to 64, P4 from 32, P5 from 64
    square = [(7, 5), (7, 6), (8, 5), (8, 6)], [(3, 2), (3, 3), (4, 2), (4, 3)]
    assert cells([[24.0, 40, 72, 88]]) == {0: {3: square[0], 4: square[1]}}
    # 16 by 64 pixels, whose root is 32: 0.8 by 3.2 cells of P3 around (5, 6)
    assert cells([[34.0, 20, 50, 84]])[0][3] == [(5, 5), (6, 5), (7, 5)]


def test_the_ranges_of_sizes_are_closed():
    assert list(cells([[8.0, 8, 72, 72]])[0]) == [3, 4, 5]
    assert list(cells([[8.0, 8, 73, 72]])[0]) == [4, 5]
    assert list(cells([[8.0, 8, 71, 72]])[0]) == [3, 4]
    assert cells([[0.0, 0, 0.9, 1]]) == {}


def test_the_smaller_of_two_boxes_takes_the_cell():
    large, small = [24.0, 40, 72, 88], [36.0, 52, 60, 76]  # the same four cells of P3; only the large one is on P4
    for boxes, names in (([large, small], (0, 1)), ([small, large], (1, 0))):
        found = cells(boxes)
        assert {name: list(found[name]) for name in names} == {names[0]: [4], names[1]: [3]}
        assert len(found[names[1]][3]) == 4


def test_a_fovea_between_the_middles_of_cells():
    assert cells([[12.0, 12, 16, 16]]) == {}
    # but beyond the middles at the border of the map it is the cell at the border, as released
    assert cells([[0.0, 0, 4, 4]]) == {0: {3: [(0, 0)]}}
    assert cells([[125.0, 125, 128, 128]]) == {0: {3: [(15, 15)]}}


def test_images_of_a_batch_and_errors():
    grid = make_grid([(96, 128), (64, 64)])
    boxes = [torch.tensor([[24.0, 40, 72, 88]]), torch.zeros(0, 4), torch.tensor([[0.0, 0, 9, 9], [10.0, 10, 50, 60]])]
    matched = FoveaAssigner()(grid, boxes)
    assert matched.shape == (3, len(grid.points)) and matched.dtype == torch.int64
    assert [row.unique().tolist() for row in matched] == [[-1, 0], [-1], [-1, 1, 2]]
    with pytest.raises(ValueError, match="scale_ranges has 1 entries for 5 levels"):
        FoveaAssigner(scale_ranges=[(1, 64)])(grid, boxes)


def test_the_padding_of_a_batch_is_background():
    model, gt = tiny_foveabox(cls_loss=FocalLoss()), [x["instances"] for x in batch(ONE, NONE)]
    labels, _ = model.label_points(make_grid([(96, 128), (32, 32)]), gt)
    assert (labels[0] == 0).any() and (labels[1] == 3).all()


def test_shapes_and_start_of_the_head():
    head, features = tiny_head(), feature_maps()
    predictions = head(features)
    for i, (x, base) in enumerate(zip(features, BASE_LENGTHS)):
        assert predictions.logits[i].shape == (2, 3, *x.shape[2:])
        assert predictions.ltrb[i].shape == (2, 4, *x.shape[2:])
        assert predictions.logits[i].sigmoid().mean().item() == pytest.approx(0.01, rel=0.05)
        assert (predictions.ltrb[i] / base - 1).abs().max() < 0.2
    assert all((tower(features[0]) >= 0).all() for tower in (head.cls_convs, head.reg_convs))
    head.conv_reg.bias.data.fill_(0.6931472)
    torch.testing.assert_close(head(features).ltrb[2], 2 * predictions.ltrb[2])
    head.reg_convs[0].conv.weight.data.neg_()
    assert torch.equal(head(features).logits[0], predictions.logits[0])
    assert predictions.refined_ltrb is None and predictions.centerness is None
    with pytest.raises(ValueError, match="5 strides but got 2"):
        head(features[:2])
    with pytest.raises(ValueError, match="base_lengths has 1 entries"):
        tiny_head(base_lengths=[16])


def restated_losses(model, features, labels, gt_boxes, sizes, beta=0.11):
    """FoveaBox's losses with varifocal classes, one location after the other."""
    head = model.head
    sums, num, first = {"box": 0.0, "cls": 0.0}, 0, 0
    for x, stride, base in zip(features, STRIDES, BASE_LENGTHS):
        logits, exponents = head.conv_cls(head.cls_convs(x)), head.conv_reg(head.reg_convs(x))
        rows, columns = x.shape[2:]
        for n in range(len(x)):
            for row in range(rows):
                for column in range(columns):
                    r = first + row * columns + column
                    p, target = logits[n, :, row, column].sigmoid(), torch.zeros(3)
                    if labels[n, r] < 3:
                        num += 1
                        cx, cy = (column + 0.5) * stride, (row + 0.5) * stride
                        left, top, right, bottom = gt_boxes[n, r]
                        goal = (
                            (torch.stack([cx - left, cy - top, right - cx, bottom - cy]) / base).clamp(1 / 16, 16).log()
                        )
                        error = (exponents[n, :, row, column] - goal).abs()
                        sums["box"] += torch.where(error < beta, error**2 / 2 / beta, error - beta / 2).sum()
                        le, to, ri, bo = (base * exponents[n, :, row, column].detach().exp()).tolist()
                        box = Boxes(torch.tensor([[cx - le, cy - to, cx + ri, cy + bo]]))
                        box.clip((sizes[n][0] - 1, sizes[n][1] - 1))
                        target[labels[n, r]] = pairwise_iou(box, Boxes(gt_boxes[n, r, None])).item()
                    weight = torch.where(target > 0, target, 0.75 * p**2)
                    sums["cls"] += (weight * F.binary_cross_entropy(p, target, reduction="none")).sum()
        first += rows * columns
    return {"loss_cls": sums["cls"] / (num + len(labels)), "loss_box_reg": sums["box"] / num}, num


def test_losses_against_a_restatement():
    model = tiny_foveabox(cls_loss=VarifocalLoss())
    torch.manual_seed(3)
    for layer in (model.head.conv_cls, model.head.conv_reg):
        torch.nn.init.normal_(layer.weight, std=0.3)
    # one is 3 pixels wide: nearer to its left side than a sixteenth of the base length
    gt = [
        x["instances"] for x in batch(([[10.0, 10, 60, 70], [30.0, 5, 120, 90], [3.05, 10, 6.05, 70]], [1, 2, 0]), ONE)
    ]
    sizes = [(96, 128), (80, 100)]
    features = feature_maps()
    predictions = model.head(features)
    images = type("Images", (), {"image_sizes": sizes})
    losses = model.forward_training(images, features, predictions, gt)
    labels, gt_boxes = model.label_points(model.make_grid(predictions, sizes), gt)
    expected, num = restated_losses(model, features, labels, gt_boxes, sizes)
    assert num > 20 and set(losses) == set(expected)
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-4)


def test_distances_count_within_a_sixteenth_and_sixteen_base_lengths():
    model = tiny_foveabox()
    points, units = torch.zeros(1, 2), torch.tensor([16.0])
    gt_boxes = torch.tensor([[[-0.1, -400, 16, 32]]])
    exact = torch.tensor([[[1.0, 256, 16, 32]]], requires_grad=True)
    losses = model.losses(points, units, torch.zeros(1, 1, 3), exact, torch.tensor([[0]]), gt_boxes, [(500, 500)])
    assert losses["loss_box_reg"].item() == pytest.approx(0, abs=1e-9)
    double = 2 * exact
    losses = model.losses(points, units, torch.zeros(1, 1, 3), double, torch.tensor([[0]]), gt_boxes, [(500, 500)])
    assert losses["loss_box_reg"].item() == pytest.approx(4 * (0.6931472 - 0.11 / 2))


def test_quality_is_that_of_the_box_cut_to_its_own_image_and_never_0():
    seen = []
    model = tiny_foveabox(cls_loss=lambda *args: seen.append(args[2]) or args[0].sum())
    points, units, labels = torch.zeros(1, 2) + 8, torch.tensor([16.0]), torch.tensor([[0], [0], [3]])
    gt_boxes = torch.tensor([[[0.0, 0, 16, 16]], [[0.0, 0, 16, 16]], [[0.0, 0, 0, 0]]])
    ltrb = torch.full((3, 1, 4), 24.0, requires_grad=True)
    model.losses(points, units, torch.zeros(3, 1, 3), ltrb, labels, gt_boxes, [(17, 33), (17, 17), (17, 17)])
    # 32 by 16 pixels are left of the first, 16 by 16 of the second
    torch.testing.assert_close(seen[0], torch.tensor([[0.5], [1.0], [0.0]]))
    assert not seen[0].requires_grad
    model.losses(points, units, torch.zeros(3, 1, 3), ltrb, labels, gt_boxes + 100, [(17, 17)] * 3)
    torch.testing.assert_close(seen[1], torch.tensor([[1e-6], [1e-6], [0.0]]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("cls_loss", LOSSES)
@pytest.mark.parametrize("annotations", [(SOME, NONE), (NONE, NONE), (ONE, NO_AREA)])
def test_a_step_with_every_loss(annotations, cls_loss):
    model = tiny_foveabox(cls_loss=cls_loss).train()
    losses = model(batch(*annotations))
    sum(losses.values()).backward()
    assert set(losses) == {"loss_cls", "loss_box_reg"}
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert losses["loss_cls"] > 0 and (losses["loss_box_reg"] > 0) == (annotations != (NONE, NONE))
    if annotations == (SOME, NONE):
        assert all(p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("cls_loss", LOSSES)
def test_autocast_keeps_losses_finite_and_float32(cls_loss):
    model = tiny_foveabox(cls_loss=cls_loss).train()
    model.head.conv_cls.bias.data.copy_(torch.tensor([0.0, 1e4, -1e4]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(ltrb.dtype == torch.float32 for ltrb in model.head(feature_maps()).ltrb)
        losses = model(batch(SOME, NONE))
    sum(losses.values()).backward()
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_detections_are_cut_to_their_image():
    model = tiny_foveabox(test_score_thresh=0.0).eval()
    with torch.no_grad():
        images = model.preprocess_image(batch(NONE))
        predictions = model.head([model.backbone(images.tensor)[f"p{i}"] for i in range(3, 8)])
        (dense,) = model.predict_dense(images, predictions)
        (found,) = model.forward_inference(images, None, predictions)
    assert dense.scores.shape == (12 * 16 + 6 * 8 + 3 * 4 + 2 * 2 + 1, 3) and dense.centerness is None
    # the first cell of P3: its middle is (4, 4), its box 16 pixels to every side
    torch.testing.assert_close(dense.boxes[0], torch.tensor([0.0, 0, 20, 20]), rtol=0.1, atol=0)
    assert dense.boxes.min() == 0 and dense.boxes[:, 2].max() == 127 and dense.boxes[:, 3].max() == 95
    assert len(found) > 0 and found.pred_boxes.tensor[:, 3].max() <= 95


def test_registered_and_says_that_it_has_no_yacs_keys():
    assert META_ARCH_REGISTRY.get("FoveaBox") is FoveaBox
    with pytest.raises(UserError, match="no yacs keys"):
        FoveaBox(get_cfg())


def model_of(row):
    cfg = load_config(os.path.join(TABLE5, f"{row}.py"))
    with torch.device("meta"):
        return cfg, instantiate(cfg.model)


def test_mmdetections_foveabox_fits():
    names = released.Names()
    released.resnet(names, depth=50)
    for i, channels in enumerate((512, 1024, 2048)):
        names.conv(f"neck.lateral_convs.{i}.conv", 256, channels, 1, bias=True)
    for i, channels in enumerate((256, 256, 256, 2048, 256)):
        names.conv(f"neck.fpn_convs.{i}.conv", 256, channels, 3, bias=True)
    for i in range(4):
        for tower in ("cls_convs", "reg_convs"):
            names.conv(f"bbox_head.{tower}.{i}.conv", 256, 256, 3, bias=True)
    for name, channels in (("cls", 80), ("reg", 4)):
        names.conv(f"bbox_head.conv_{name}", channels, 256, 3, bias=True)
    state = released.meta(names)
    renamed = from_mmdet(state)
    released.check_fit(renamed, model_of("foveabox_focal")[1])
    assert renamed["head.reg_convs.3.conv.bias"] is state["bbox_head.reg_convs.3.conv.bias"]


@pytest.mark.parametrize(
    "row, loss", [("focal", FocalLoss), ("quality_focal", QualityFocalLoss), ("varifocal", VarifocalLoss)]
)
def test_rows_differ_in_the_loss(row, loss):
    cfg, model = model_of(f"foveabox_{row}")
    assert isinstance(model.cls_loss, loss)
    assert vars(model.assigner) == vars(FoveaAssigner()) and model.test_nms_thresh == 0.5
    if row == "focal":
        assert vars(model.cls_loss) == dict(alpha=0.4, gamma=1.5)
    assert model.backbone.top_block.in_feature == "res5" and not model.backbone.top_block.relu_before_p7
    cfg.optimizer.params.model = model
    assert [(g["lr"], g["weight_decay"]) for g in instantiate(cfg.optimizer).param_groups] == [(0.01, 1e-4)]
    assert cfg.lr_multiplier.warmup_factor == 0.1
