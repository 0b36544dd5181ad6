"""Against Detectron2's own RetinaNet with the same weights, and what ours can do beyond it."""

import copy

from dense_d2.modeling.retinanet import BestOfBoxMatcher, DenseRetinaNet

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, build_model
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import RetinaNet
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

STRIDES = {"p3": 8, "p4": 16, "p5": 32}
NONE = ([], [])
SOME = ([[10.0, 10, 60, 70], [30.0, 5, 120, 90]], [1, 2])
SMALL = ([[3.0, 40, 9, 50]], [0])  # overlaps no anchor by half
BOX_LOSSES = [("smooth_l1", 0.0), ("smooth_l1", 0.1), ("giou", 0.0)]


class TinyPyramid(Backbone):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleDict({name: nn.Conv2d(3, 8, stride, stride) for name, stride in STRIDES.items()})

    @property
    def size_divisibility(self):
        return 32

    def forward(self, x):
        return {name: conv(x / 255) for name, conv in self.convs.items()}

    def output_shape(self):
        return {name: ShapeSpec(channels=8, stride=stride) for name, stride in STRIDES.items()}


def tiny(arch=DenseRetinaNet, num_classes=3, head_classes=None, **kwargs):
    torch.manual_seed(0)
    shape = ShapeSpec(channels=8)
    head = RetinaNetHead(
        input_shape=[shape] * 3,
        num_classes=head_classes or num_classes,
        num_anchors=2,
        conv_dims=[8, 8],
        prior_prob=0.2,
    )
    for weight in head.parameters():
        if weight.dim() == 4:
            nn.init.normal_(weight, std=0.15)  # scores and boxes that differ
    return arch(
        backbone=TinyPyramid(),
        head=head,
        anchor_generator=DefaultAnchorGenerator(
            sizes=[[4 * s] for s in STRIDES.values()], aspect_ratios=[[0.5, 1.0]], strides=list(STRIDES.values())
        ),
        box2box_transform=Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0)),
        anchor_matcher=Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=True),
        num_classes=num_classes,
        head_in_features=list(STRIDES),
        pixel_mean=[100.0, 110.0, 120.0],
        pixel_std=[1.0, 1.0, 1.0],
        **kwargs,
    )


def batch(*annotations, sizes=((96, 128), (64, 96), (96, 128))):
    generator = torch.Generator().manual_seed(1)
    result = []
    for (boxes, classes), size in zip(annotations, sizes):
        instances = Instances(size)
        instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
        instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
        image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
        result.append({"image": image, "instances": instances, "height": 2 * size[0], "width": size[1]})
    return result


@pytest.mark.parametrize("kind, beta", BOX_LOSSES)
def test_losses_and_gradients_are_detectron2s(kind, beta):
    options = dict(box_reg_loss_type=kind, smooth_l1_beta=beta, focal_loss_alpha=0.3, focal_loss_gamma=1.5)
    ours, theirs = tiny(**options).train(), tiny(RetinaNet, **options).train()
    with EventStorage():
        for annotations in ((SOME, NONE, SMALL), (NONE, NONE, NONE), (SOME, SMALL, SOME)):  # the average moves along
            losses, expected = ours(batch(*annotations)), theirs(batch(*annotations))
            assert sorted(losses) == sorted(expected)
            for name, loss in losses.items():
                torch.testing.assert_close(loss, expected[name])
                assert loss.requires_grad
            for model, terms in ((ours, losses), (theirs, expected)):
                model.zero_grad()
                sum(terms.values()).backward()
            for (name, p), (_, q) in zip(ours.named_parameters(), theirs.named_parameters()):
                torch.testing.assert_close(p.grad, q.grad, msg=name)
    assert ours.loss_normalizer.item() == pytest.approx(theirs.loss_normalizer) and ours.loss_normalizer < 90


def rows(instances):
    """One (score, class, box) a detection, in one order even where scores are equal."""
    fields = (instances.scores[:, None], instances.pred_classes[:, None], instances.pred_boxes.tensor)
    return torch.tensor(sorted(torch.cat(fields, dim=1).tolist()))


def test_detections_are_detectron2s():
    for options in (
        *(dict(), dict(test_score_thresh=0.23), dict(test_score_thresh=0.9), dict(test_topk_candidates=7)),
        *(dict(test_nms_thresh=0.2), dict(max_detections_per_image=3)),
    ):
        # channels_last would round differently, and let close scores change places
        models = tiny(channels_last=False, **options), tiny(RetinaNet, **options)
        outputs = [model.eval()(batch(NONE, NONE)) for model in models]
        for ours, theirs in zip(*outputs):
            ours, theirs = ours["instances"], theirs["instances"]
            assert ours.image_size == theirs.image_size and (ours.scores.diff() <= 0).all()
            assert (len(ours) == 0) == (options.get("test_score_thresh") == 0.9)
            torch.testing.assert_close(rows(ours), rows(theirs))


def test_names_are_detectron2s_but_for_the_average():
    assert set(tiny().state_dict()) - set(tiny(RetinaNet).state_dict()) == {"loss_normalizer"}
    assert set(tiny(RetinaNet).state_dict()) <= set(tiny().state_dict())
    assert list(tiny(loss_normalizer="batch").state_dict()) == list(tiny(RetinaNet).state_dict())


def test_detectron2s_yacs_keys_build_it():
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[size] for size in (32, 64, 128, 256, 512)]
    cfg.MODEL.DEVICE = "meta"
    cfg.MODEL.META_ARCHITECTURE = "DenseRetinaNet"
    with torch.device("meta"):
        model = build_model(cfg)
    assert type(model) is DenseRetinaNet and model.smooth_l1_beta == cfg.MODEL.RETINANET.SMOOTH_L1_LOSS_BETA


def test_a_resumed_run_goes_on_with_the_average():
    model, resumed = tiny().train(), tiny().train()
    model(batch(SOME, NONE))
    resumed.load_state_dict(model.state_dict())
    assert torch.equal(resumed.loss_normalizer, model.loss_normalizer) and resumed.loss_normalizer != 100


def test_quality_is_the_iou_of_the_decoded_box():
    seen = {}

    def spy(logits, labels, quality):
        seen.update(labels=labels, quality=quality)
        return logits.sum() * 0

    model = tiny(cls_loss=spy).train()
    nn.init.zeros_(model.head.bbox_pred.weight)
    model.head.bbox_pred.bias.data.copy_(torch.tensor([0.25, 0.0, 0.0, 0.0] * 2))
    inputs = batch(SOME, NONE)
    model(inputs)["loss_cls"].backward()
    labels, quality = seen["labels"], seen["quality"]
    assert labels.shape == quality.shape and not quality.requires_grad
    is_fg = (labels >= 0) & (labels < 3)
    assert not quality[~is_fg].any() and not is_fg[1].any() and is_fg.any()
    # all anchors move to the right by a quarter of their width: the typed-out IoU of the first foreground one and its box
    features = [torch.zeros(1, 8, 96 // s, 128 // s) for s in STRIDES.values()]
    anchors = torch.cat([boxes.tensor for boxes in model.anchor_generator(features)])
    idx = is_fg[0].nonzero()[0, 0]
    x1, y1, x2, y2 = (anchors[idx] + (anchors[idx, 2] - anchors[idx, 0]) / 4 * torch.tensor([1, 0, 1, 0])).tolist()
    gt = SOME[0][SOME[1].index(labels[0, idx].item())]
    overlap = (min(x2, gt[2]) - max(x1, gt[0])) * (min(y2, gt[3]) - max(y1, gt[1]))
    union = (x2 - x1) * (y2 - y1) + (gt[2] - gt[0]) * (gt[3] - gt[1]) - overlap
    assert quality[0, idx].item() == pytest.approx(overlap / union)


def test_batch_normalizer_counts_at_least_one_an_image():
    model = tiny(loss_normalizer="batch").train()
    is_fg = torch.tensor([[True, True, True, False], [False] * 4, [True] + [False] * 3])
    assert model._normalizer(is_fg) == 5 and model._normalizer(is_fg[1:2]) == 1


@pytest.mark.parametrize("kind, beta", BOX_LOSSES)
def test_a_box_without_area_is_none(kind, beta):
    boxes, classes = SOME
    for empty in ([40.0, 40, 40, 40], [40.0, 10, 40, 60]):
        found, expected = (
            tiny(box_reg_loss_type=kind, smooth_l1_beta=beta).train()(batch(annotations, NONE))
            for annotations in (([*boxes, empty], [*classes, 0]), SOME)
        )
        assert found == expected


def test_padding_takes_no_part_where_asked_for():
    """The second image has 64 x 96 of 96 x 128 pixels."""
    model = tiny(ignore_padding=True).train()
    features = [torch.zeros(2, 8, 96 // s, 128 // s) for s in STRIDES.values()]
    inside = model._in_image(features, [(96, 128), (50, 70)])  # 50 x 70 makes 64 x 96
    assert inside.shape == (2, 2 * (12 * 16 + 6 * 8 + 3 * 4)) and inside[0].all()
    p3, p4, p5 = (x.view(-1, 2).all(dim=1) for x in inside[1].split([384, 96, 24]))
    assert p3.view(12, 16)[:8, :12].all() and p3.sum() == 96
    assert p4.view(6, 8)[:4, :6].all() and p4.sum() == 24
    assert p5.view(3, 4)[:2, :3].all() and p5.sum() == 6
    anchors = torch.cat([boxes.tensor for boxes in model.anchor_generator(features)])
    inputs = batch(SOME, ([[50.0, 20, 96, 64]], [1]))
    gt = [x["instances"] for x in inputs]
    everywhere, _ = model.label_anchors(anchors, gt)
    labels, _ = model.label_anchors(anchors, gt, inside)
    assert torch.equal(labels[0], everywhere[0])
    assert (labels[1][~inside[1]] == -1).all() and (labels[1] == 1).any()
    assert torch.equal(labels[1][inside[1]], everywhere[1][inside[1]])
    model.cls_loss = lambda logits, found, quality: logits.sum() * torch.equal(found, labels)
    assert model(inputs)["loss_cls"] != 0
    model.anchor_generator.strides = [64]  # a cell that the image covers in part is its own
    assert model._in_image([torch.zeros(1, 8, 2, 3)], [(50, 70)]).tolist() == [[True] * 4 + [False] * 8]


def test_the_best_anchor_of_a_box_may_overlap_another_more():
    iou = torch.tensor([[0.9, 0.6, 0.0, 0.45], [0.1, 0.3, 0.0, 0.2], [0.1, 0.3, 0.0, 0.1]])
    options = dict(thresholds=[0.4, 0.5], labels=[0, -1, 1], allow_low_quality_matches=True)
    for matcher, expected in ((Matcher, [0, 0, 0, 0]), (BestOfBoxMatcher, [0, 2, 0, 0])):
        matched, labels = matcher(**options)(iou)
        assert matched.tolist() == expected and labels.tolist() == [1, 1, 0, -1]
        assert [x.shape for x in matcher(**options)(iou[:0])] == [(4,), (4,)]
    options.update(allow_low_quality_matches=False)
    assert BestOfBoxMatcher(**options)(iou)[0].tolist() == [0, 0, 0, 0]


def test_losses_are_float32_under_autocast():
    seen = []
    model = tiny().train()
    matcher = model.anchor_matcher

    def spy(iou):
        seen.append((torch.is_autocast_enabled("cpu"), iou.dtype))
        return matcher(iou)

    expected = model(batch(SOME, NONE))
    model = tiny().train()
    model.anchor_matcher = spy
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(batch(SOME, NONE))
        assert model.eval()(batch(SOME))[0]["instances"].scores.dtype == torch.float32
    assert seen == [(False, torch.float32)] * 2
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[name], rtol=0.1, atol=0)


def test_parts_that_do_not_fit_are_errors():
    with pytest.raises(ValueError, match="num_classes is 3 .*makes \\[2, 2, 2\\] anchors"):
        tiny(head_classes=4)
    with pytest.raises(ValueError, match="box_reg_loss_type='ciou'"):
        tiny(box_reg_loss_type="ciou")
    with pytest.raises(ValueError, match="loss_normalizer='sum'"):
        tiny(loss_normalizer="sum")
    assert len(copy.deepcopy(tiny()).eval()(batch(NONE))) == 1
