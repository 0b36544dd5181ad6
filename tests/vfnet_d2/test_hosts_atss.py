import os

from dense_d2.config import load_config
from dense_d2.errors import UserError
from tests.vfnet_d2 import test_released as released
from tests.vfnet_d2.tiny import STRIDES, TinyPyramid
from tests.yolof_d2.tiny import batch
from vfnet_d2 import vfnet
from vfnet_d2.atss import ATSSAssigner
from vfnet_d2.hosts.atss import ATSS, ATSSHead, deltas_to_ltrb
from vfnet_d2.released import from_mmdet
from vfnet_d2.varifocal_loss import FocalLoss, QualityFocalLoss, VarifocalLoss

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg, instantiate
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes, pairwise_iou
from fvcore.nn import giou_loss

TABLE5 = os.path.join(os.path.dirname(__file__), "..", "..", "configs/vfnet/ablation/table5")
NONE = ([], [])
SOME = ([[10.0, 10, 60, 70], [30.0, 5, 120, 90]], [1, 2])
ONE = ([[33.0, 33, 90, 80]], [0])
NO_AREA = ([[32.0, 32, 32, 32], [10.0, 10, 60, 70]], [0, 1])
LOSSES = [VarifocalLoss(), QualityFocalLoss(), FocalLoss()]


def tiny_head(**kwargs):
    torch.manual_seed(0)
    return ATSSHead(**{**dict(in_channels=32, feat_channels=32, num_convs=1, num_classes=3), **kwargs})


def tiny_atss(**kwargs):
    head = tiny_head()
    options = dict(backbone=TinyPyramid(), head=head, assigner=ATSSAssigner(), cls_loss=FocalLoss(), num_classes=3)
    return ATSS(**{**options, **dict(pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3), **kwargs})


def feature_maps(height=96, width=128, seed=1):
    generator = torch.Generator().manual_seed(seed)
    sizes = [(-(-height // stride), -(-width // stride)) for stride in STRIDES]
    return [torch.randn(2, 32, *size, generator=generator) for size in sizes]


def test_shapes_and_start_of_the_head():
    head, features = tiny_head(), feature_maps()
    predictions = head(features)
    for i, x in enumerate(features):
        shapes = [tuple(maps[i].shape) for maps in predictions if maps is not None]
        assert shapes == [(2, channels, *x.shape[2:]) for channels in (3, 4, 1)]
        assert predictions.logits[i].sigmoid().mean().item() == pytest.approx(0.01, rel=0.05)
        # boxes begin as the anchors
        assert (predictions.ltrb[i] / (4 * STRIDES[i]) - 1).abs().max() < 0.2
    assert predictions.refined_ltrb is None
    assert len(head.cls_convs) == 1 and len(ATSSHead().reg_convs) == 4
    with pytest.raises(ValueError, match="5 strides but got 2"):
        head(features[:2])


def test_scale_of_the_level_and_towers():
    """The scale multiplies the deltas of its level; the centerness follows the box tower, the classes do not."""
    head, features = tiny_head(), feature_maps()
    before = head(features)
    head.scales[1].data.fill_(0.0)
    after = head(features)
    assert (after.ltrb[1] == 64).all() and torch.equal(after.ltrb[0], before.ltrb[0])
    head.reg_convs[0].conv.weight.data.neg_()
    other = head(features)
    assert torch.equal(other.logits[0], before.logits[0])
    assert not torch.equal(other.centerness[0], before.centerness[0])


def test_deltas_typed_out():
    weights = (10.0, 10.0, 5.0, 5.0)
    deltas = torch.tensor([2.5, -5.0, 5 * 0.6931472, 0.0]).view(1, 4, 1, 1)
    # a 64-pixel anchor, 16 to the right, 32 up, 128 wide
    found = deltas_to_ltrb(deltas, 64, weights).flatten()
    torch.testing.assert_close(found, torch.tensor([64.0 - 16, 32 + 32, 64 + 16, 32 - 32]), rtol=1e-5, atol=1e-4)
    # at most 62.5 times larger or smaller than the anchor
    extreme = torch.tensor([0.0, 0, 1e4, -1e4]).view(1, 4, 1, 1)
    expected = torch.tensor([2000.0, 0.512, 2000, 0.512])
    torch.testing.assert_close(deltas_to_ltrb(extreme, 64, weights).flatten(), expected)


def restated_losses(model, features, instances):
    """ATSS's losses with Detectron2's anchors and boxes, a list of positives, and fvcore's GIoU."""
    head = model.head
    logits, centerness, boxes = [], [], []
    generator = DefaultAnchorGenerator(
        sizes=[[8 * s] for s in STRIDES], aspect_ratios=[[1.0]], strides=STRIDES, offset=0.0
    )
    for i, (x, anchors) in enumerate(zip(features, generator(features))):
        flat = [layer(tower(x)).flatten(2).transpose(1, 2) for layer, tower in (
            (head.atss_cls, head.cls_convs), (head.atss_reg, head.reg_convs), (head.atss_centerness, head.reg_convs)
        )]  # fmt: skip
        logits.append(flat[0])
        centerness.append(flat[2])
        transform = Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0))
        boxes.append(torch.stack([transform.apply_deltas(d * head.scales[i], anchors.tensor) for d in flat[1]]))
    logits, centerness, boxes = (torch.cat(parts, dim=1) for parts in (logits, centerness, boxes))
    centers = torch.cat([a.get_centers() for a in generator(features)])

    grid = model.make_grid(head(features), [(96, 128)] * 2)
    labels, gt_boxes = model.label_points(grid, instances)
    total = {"box": 0.0, "weight": 0.0, "centerness": 0.0}
    targets = torch.zeros_like(logits)
    for n, r in (labels < 3).nonzero().tolist():
        gt = gt_boxes[n, r]
        left, top, right, bottom = (*(centers[r] - gt[:2]), *(gt[2:] - centers[r]))
        target = torch.sqrt(min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom))
        total["box"] += target * giou_loss(boxes[n, r], gt)
        total["weight"] += target
        total["centerness"] += F.binary_cross_entropy_with_logits(centerness[n, r, 0], target)
        targets[n, r, labels[n, r]] = pairwise_iou(Boxes(boxes[n, r, None].detach()), Boxes(gt[None])).item()
    counts = [(row < 3).sum().item() for row in labels]
    num = sum(max(count, 1) for count in counts)
    p = logits.sigmoid()
    weight = torch.where(targets > 0, targets, 0.75 * p**2)
    cls = (weight * F.binary_cross_entropy(p, targets, reduction="none")).sum()
    return {
        "loss_cls": cls / num,
        "loss_box_reg": 2.0 * total["box"] / total["weight"],
        "loss_centerness": total["centerness"] / num,
    }, counts


def test_losses_against_a_restatement():
    model = tiny_atss(cls_loss=VarifocalLoss())
    torch.manual_seed(3)
    for layer in (model.head.atss_cls, model.head.atss_reg, model.head.atss_centerness):
        torch.nn.init.normal_(layer.weight, std=0.05)
    features, gt = feature_maps(), [sample["instances"] for sample in batch(SOME, NONE)]
    images = type("Images", (), {"image_sizes": [(96, 128)] * 2})
    losses = model.forward_training(images, features, model.head(features), gt)
    expected, counts = restated_losses(model, features, gt)
    assert counts[0] > 2 and counts[1] == 0  # the image without boxes counts as one positive
    assert set(losses) == set(expected)
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-4)


@pytest.mark.parametrize("cls_loss", LOSSES)
@pytest.mark.parametrize("annotations", [(SOME, NONE), (NONE, NONE), (ONE, NO_AREA)])
def test_a_step_with_every_loss(annotations, cls_loss):
    model = tiny_atss(cls_loss=cls_loss).train()
    losses = model(batch(*annotations))
    sum(losses.values()).backward()
    assert set(losses) == {"loss_cls", "loss_box_reg", "loss_centerness"}
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert losses["loss_cls"] > 0 and (losses["loss_box_reg"] > 0) == (annotations != (NONE, NONE))


@pytest.mark.parametrize("annotations, count", [((SOME, NONE), 19.0), ((NONE, NONE), 2.0)])
def test_one_reduction_of_the_counts(monkeypatch, annotations, count):
    calls = []
    monkeypatch.setattr(vfnet, "mean_over_ranks", lambda x: calls.append(x) or x)
    tiny_atss().train()(batch(*annotations))
    assert [x.shape for x in calls] == [(2,)] and calls[0][0] == count


@pytest.mark.parametrize("cls_loss", LOSSES)
def test_autocast_keeps_losses_finite_and_float32(cls_loss):
    model = tiny_atss(cls_loss=cls_loss).train()
    model.head.atss_reg.bias.data.copy_(torch.tensor([0.0, 0.0, 1e4, -1e4]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(ltrb.dtype == torch.float32 for ltrb in model.head(feature_maps()).ltrb)
        losses = model(batch(SOME, NONE))
    sum(losses.values()).backward()
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_the_threshold_sees_the_class_alone_and_the_score_is_the_product():
    model = tiny_atss(test_score_thresh=0.5).eval()
    with torch.no_grad():
        images = model.preprocess_image(batch(NONE, NONE))
        predictions = model.head([model.backbone(images.tensor)[f"p{i}"] for i in range(3, 8)])
        dense, _ = model.predict_dense(images, predictions)
    assert dense.scores.shape == (sum(dense.num_points), 3) and dense.centerness.shape == (sum(dense.num_points),)
    scores = torch.zeros_like(dense.scores)
    scores[3, 1], scores[9, 2] = 0.6, 0.4
    centerness = torch.full_like(dense.centerness, 0.5)
    found = model.select(dense._replace(scores=scores, centerness=centerness), (96, 128))
    assert found.scores.tolist() == pytest.approx([0.3]) and found.pred_classes.tolist() == [1]


def test_registered_and_says_that_it_has_no_yacs_keys():
    assert META_ARCH_REGISTRY.get("ATSS") is ATSS
    with pytest.raises(UserError, match="no yacs keys"):
        ATSS(get_cfg())


def model_of(row):
    cfg = load_config(os.path.join(TABLE5, f"{row}.py"))
    with torch.device("meta"):
        return cfg, instantiate(cfg.model)


def test_mmdetections_atss_fits():
    names = released.Names()
    released.resnet(names, depth=50)
    released.fpn(names)
    for i in range(4):
        for tower in ("cls_convs", "reg_convs"):
            names.conv_gn(f"bbox_head.{tower}.{i}", 256, 256)
    for name, channels in (("cls", 80), ("reg", 4), ("centerness", 1)):
        names.conv(f"bbox_head.atss_{name}", channels, 256, 3, bias=True)
    names.update({f"bbox_head.scales.{i}.scale": () for i in range(5)})
    state = released.meta(names)
    renamed = from_mmdet(state)
    released.check_fit(renamed, model_of("atss_focal")[1])
    assert renamed["head.scales.3"] is state["bbox_head.scales.3.scale"]
    assert renamed["head.reg_convs.3.norm.bias"] is state["bbox_head.reg_convs.3.gn.bias"]


@pytest.mark.parametrize(
    "row, loss", [("focal", FocalLoss), ("quality_focal", QualityFocalLoss), ("varifocal", VarifocalLoss)]
)
def test_rows_differ_in_the_loss(row, loss):
    for host, (rate, warmup) in {"atss": (0.01, 0.001), "vfnet": (0.02, 0.1)}.items():
        cfg, model = model_of(f"{host}_{row}")
        assert isinstance(model.cls_loss, loss)
        assert model.head_in_features == ["p3", "p4", "p5", "p6", "p7"]
        assert model.backbone.top_block.relu_before_p7 == (host == "vfnet")
        cfg.optimizer.params.model = model
        groups = instantiate(cfg.optimizer).param_groups
        assert max(group["lr"] for group in groups) == rate and len(groups) == (1 if host == "atss" else 2)
        assert cfg.lr_multiplier.warmup_factor == warmup
