import copy
import os

import dense_d2.modeling.dense_detector as dense_detector
from tests.yacs import load_yaml, settings
from tests.yolof_d2.tiny import SIZES, TinyBackbone, batch, tiny_yolof
from yolof_d2 import add_yolof_config
from yolof_d2.decoder import YOLOFDecoder
from yolof_d2.encoder import DilatedEncoder
from yolof_d2.head import YOLOFHead
from yolof_d2.yolof import YOLOF

import pytest
import torch
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
NONE = ([], [])
SOME = ([[10.0, 10, 60, 70], [30.0, 5, 120, 90]], [1, 2])


def network(file="yolof.py"):
    return LazyConfig.load(os.path.join(ROOT, "configs/common/models", file)).model


def dc5(model):
    model.backbone.stages.res5_dilation = 2
    model.head.decoder.num_anchors = 6
    model.anchor_generator.update(sizes=[[16, 32, 64, 128, 256, 512]], strides=[16])


def r101(model):
    model.backbone.stages.depth = 101


def r101_dc5(model):
    dc5(model)
    r101(model)


def x101(model):
    model.backbone.stages.update(depth=101, num_groups=64, width_per_group=4, stride_in_1x1=False)


@pytest.mark.parametrize(
    "file, edit, total, backbone, encoder, decoder, stride",
    [
        ("yolof.py", None, 44.113, 23.455, 4.534, 16.124, 32),
        ("yolof.py", dc5, 44.505, 23.455, 4.534, 16.516, 16),
        ("yolof.py", r101, 63.053, 42.395, 4.534, 16.124, 32),
        ("yolof.py", r101_dc5, 63.445, 42.395, 4.534, 16.516, 16),
        ("yolof.py", x101, 101.861, 81.203, 4.534, 16.124, 32),
        ("yolof_csp.py", None, 48.266, 26.617, 5.133, 16.516, 16),
    ],
)
def test_parameters_in_millions(file, edit, total, backbone, encoder, decoder, stride):
    cfg = network(file)
    if edit:
        edit(cfg)
    with torch.device("meta"):
        model = instantiate(cfg)
    parts = (model, model.backbone, model.head.encoder, model.head.decoder)
    counts = [round(sum(p.numel() for p in part.parameters()) / 1e6, 3) for part in parts]
    assert counts == [total, backbone, encoder, decoder]
    assert model.backbone.output_shape()["res5"].stride == stride == model.anchor_generator.strides[0]


def test_yaml_builds_the_same_model_and_touches_no_global():
    before = get_cfg()
    cfg = get_cfg()
    add_yolof_config(cfg)
    defaults = cfg.MODEL.YOLOF.clone()
    cfg.merge_from_file(os.path.join(ROOT, "configs/yacs/yolof.yaml"))
    assert defaults == cfg.MODEL.YOLOF  # of R50-C5, as the file
    solver, given = cfg.SOLVER, network()
    assert given.head.decoder.prior_prob == defaults.DECODER.PRIOR_PROB
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.WEIGHT_DECAY, solver.WEIGHT_DECAY_NORM) == (64, 0.12, 1e-4, 0)
    assert (solver.STEPS, solver.MAX_ITER, solver.WARMUP_ITERS) == ((15000, 20000), 22500, 1500)
    assert (given.pixel_mean, given.pixel_std, "BGR") == (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, cfg.INPUT.FORMAT)
    assert (0, given.anchor_generator.sizes) == (cfg.MODEL.ANCHOR_GENERATOR.OFFSET, cfg.MODEL.ANCHOR_GENERATOR.SIZES)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model, lazy = build_model(cfg), instantiate(network())
    shapes = [{name: value.shape for name, value in m.state_dict().items()} for m in (model, lazy)]
    assert shapes[0] == shapes[1]
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == [
        name for name, p in lazy.named_parameters() if not p.requires_grad
    ]

    assert settings(model) == settings(lazy) and "neg_ignore_thresh" in settings(lazy)
    assert model.matcher.topk == lazy.matcher.topk
    assert vars(model.box2box_transform) == vars(lazy.box2box_transform)
    assert all(block.shortcut for m in (model, lazy) for block in m.head.encoder.dilated_encoder_blocks)
    assert get_cfg() == before


def test_every_yacs_key_reaches_the_model():
    cfg = load_yaml(add_yolof_config, "yolof")
    yolof, cfg.MODEL.DEVICE = cfg.MODEL.YOLOF, "meta"
    yolof.ENCODER.update(NUM_CHANNELS=64, BLOCK_MID_CHANNELS=32, NUM_RESIDUAL_BLOCKS=2, BLOCK_DILATIONS=[1, 3])
    yolof.ENCODER.update(SHORTCUT=False, NORM="GN", ACTIVATION="LeakyReLU")
    yolof.DECODER.update(NUM_CLASSES=7, CLS_NUM_CONVS=1, REG_NUM_CONVS=3, NORM="SyncBN", PRIOR_PROB=0.1)
    yolof.BOX_TRANSFORM.CTR_CLAMP, yolof.MATCHER.TOPK = 16, 2
    yolof.POS_IGNORE_THRESHOLD, yolof.NEG_IGNORE_THRESHOLD = 0.2, 0.8
    yolof.LOSSES.update(FOCAL_LOSS_GAMMA=1.5, FOCAL_LOSS_ALPHA=0.5)
    yolof.SCORE_THRESH_TEST, yolof.NMS_THRESH_TEST = 0.1, 0.5
    yolof.TOPK_CANDIDATES_TEST, yolof.DETECTIONS_PER_IMAGE = 50, 10
    with torch.device("meta"):
        model = build_model(cfg)
    blocks, decoder = model.head.encoder.dilated_encoder_blocks, model.head.decoder
    assert [(b.conv2[0].dilation[0], b.conv2[0].in_channels, b.shortcut) for b in blocks] == [
        (1, 32, False),
        (3, 32, False),
    ]
    kinds = [type(layer).__name__ for tower in (blocks[0].conv1, decoder.cls_subnet) for layer in tower]
    assert kinds == ["Conv2d", "GroupNorm", "LeakyReLU", "Conv2d", "SyncBatchNorm", "ReLU"]
    assert (len(decoder.bbox_subnet), decoder.cls_score.out_channels, decoder.bbox_pred.in_channels) == (9, 35, 64)
    assert (model.box2box_transform.center_clamp, model.matcher.topk) == (16, 2)
    assert (model.pos_ignore_thresh, model.neg_ignore_thresh) == (0.2, 0.8)
    assert (model.focal_loss_gamma, model.focal_loss_alpha) == (1.5, 0.5)
    assert (model.test_score_thresh, model.test_nms_thresh) == (0.1, 0.5)
    assert (model.test_topk_candidates, model.max_detections_per_image) == (50, 10)
    shape = ShapeSpec(channels=16)
    bias = YOLOFHead(cfg, shape, 5).decoder.cls_score.bias
    torch.testing.assert_close(bias.sigmoid(), torch.full((35,), 0.1))
    for wrong in (1, 3):
        yolof.ENCODER.NUM_RESIDUAL_BLOCKS = wrong
        with pytest.raises(ValueError, match="one dilation per block"):
            YOLOFHead(cfg, shape, 5)


def test_class_layers_are_those_that_the_number_of_classes_shapes():
    few, many = (tiny_yolof(num_classes=k).state_dict() for k in (3, 4))
    changed = {name.rsplit(".", 1)[0] for name in few if few[name].shape != many[name].shape}
    assert changed == set(YOLOF.class_layers)


def test_anchors_sit_on_multiples_of_the_stride():
    model = tiny_yolof()
    anchors = model.anchor_generator([torch.zeros(1, 1, 2, 3)])[0].tensor
    assert anchors[0].tolist() == [-16, -16, 16, 16]
    assert anchors[len(SIZES)].tolist() == [16, -16, 48, 16]  # next column first
    assert anchors[3 * len(SIZES) + 1].tolist() == [-32, 0, 32, 64]  # next row, second size


def test_predictions_are_in_the_order_of_the_anchors():
    model = tiny_yolof(num_classes=2)
    logits = torch.arange(1 * 6 * 2 * 3.0).view(1, 6, 2, 3)  # channel a * K + k
    deltas = torch.arange(1 * 12 * 2 * 3.0).view(1, 12, 2, 3)
    anchors, flat_logits, flat_deltas = model._dense_predictions((logits, deltas))
    y, x, a = 1, 2, 1
    row = (y * 3 + x) * 3 + a
    assert ((anchors[row, :2] + anchors[row, 2:]) / 2).tolist() == [32 * x, 32 * y]
    assert (anchors[row, 2] - anchors[row, 0]) == SIZES[a]
    assert flat_logits[0, row].tolist() == logits[0, [a * 2, a * 2 + 1], y, x].tolist()
    assert flat_deltas[0, row].tolist() == deltas[0, [a * 4 + j for j in range(4)], y, x].tolist()


@pytest.mark.parametrize("annotations", [(SOME, NONE), (NONE, NONE), (SOME, SOME)])
def test_losses_are_finite_and_every_parameter_has_a_gradient(annotations):
    model = tiny_yolof().train()
    losses = model(batch(*annotations))
    assert sorted(losses) == ["loss_box_reg", "loss_cls"]
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert (losses["loss_box_reg"] > 0) == (annotations != (NONE, NONE))


def test_losses_add_up_by_hand():
    """Two anchors of one class logit: the numbers are those of the formulas, with a pair that counts twice."""
    model = tiny_yolof(num_classes=1)
    logits = torch.tensor([[[0.0], [2.0], [9.0]]])
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0.0, 0, 4, 4], [0.0, 0, 4, 4]]])
    labels = torch.tensor([[0, 1, -1]])
    pairs = torch.tensor([0, 0, 1])
    gt = torch.tensor([[0.0, 0, 10, 5], [0.0, 0, 10, 5], [0.0, 0, 9, 9]])
    losses = model.losses(logits, boxes, labels, pairs, gt, torch.tensor([1.0, 1.0, 0.0]))
    p = 1 / (1 + torch.exp(torch.tensor(-2.0)))
    expected = 0.25 * 0.5**2 * torch.log(torch.tensor(2.0)) - 0.75 * p**2 * torch.log(1 - p)
    torch.testing.assert_close(losses["loss_cls"], expected)
    torch.testing.assert_close(losses["loss_box_reg"], torch.tensor(2 * 0.5))


def test_normalizer_is_the_mean_over_ranks_which_every_rank_asks_for(monkeypatch):
    alone = [tiny_yolof().train()(batch(*annotations)) for annotations in ((SOME, SOME), (NONE, NONE))]
    counted = []

    def other_rank_has_nine(tensor):
        counted.append(tensor.item())
        tensor += 9

    monkeypatch.setattr(dense_detector.comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(dense_detector.dist, "all_reduce", other_rank_has_nine)
    together = [tiny_yolof().train()(batch(*annotations)) for annotations in ((SOME, SOME), (NONE, NONE))]
    assert len(counted) == 2 and counted[0] > 1 and counted[1] == 0
    for count, one, two in zip(counted, alone, together):
        for name in one:
            torch.testing.assert_close(two[name] * (count + 9) / 2, one[name] * max(count, 1))


def test_matching_and_losses_are_float32_under_autocast():
    seen = []
    model = tiny_yolof().train()
    matcher = model.matcher

    def spy(*boxes):
        seen.append((torch.is_autocast_enabled("cpu"), {b.dtype for b in boxes}))
        return matcher(*boxes)

    model.matcher = spy
    expected = model(batch(SOME, SOME))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(batch(SOME, SOME))
        model.eval()(batch(SOME))
    assert seen[2:] == [(False, {torch.float32})] * 2
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[name], rtol=0.1, atol=0)


def test_count_is_logged_where_there_is_a_storage():
    model = tiny_yolof().train()
    with EventStorage(19) as storage:
        model(batch(SOME, NONE))
        assert storage.latest()["num_fg_per_image"][0] > 0
        no_pairs = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), torch.zeros(0)
        labels = torch.tensor([[0, 3, -1], [1, 2, 3]])
        model.losses(torch.zeros(2, 3, 3), torch.zeros(2, 3, 4), labels, *no_pairs)
        assert storage.latest()["num_fg_per_image"][0] == 1.5


def test_inference_keeps_the_predictions_and_finds_what_scores():
    model = tiny_yolof(num_classes=2, test_score_thresh=0.5).eval()
    images = model.preprocess_image(batch(NONE))
    features = [torch.zeros(1, 8, 3, 4)]
    logits, deltas = torch.full((1, 6, 3, 4), -9.0), torch.zeros(1, 12, 3, 4)
    logits[0, 3, 1, 2] = 2.0  # anchor 1 (64 pixels), class 1, at (64, 32)
    logits[0, 0, 2, 2] = 1.0  # anchor 0 (32 pixels), class 0, at (64, 64)
    before = logits.clone(), deltas.clone()
    (result,) = model.forward_inference(images, features, (logits, deltas))
    assert torch.equal(before[0], logits) and torch.equal(before[1], deltas)
    assert result.pred_boxes.tensor.tolist() == [[32, 0, 96, 64], [48, 48, 80, 80]]
    assert result.pred_classes.tolist() == [1, 0]
    torch.testing.assert_close(result.scores, torch.tensor([2.0, 1.0]).sigmoid())
    (result,) = model.forward_inference(images, features, (logits - 9, deltas))
    assert len(result) == 0 and result.pred_boxes.tensor.shape == (0, 4)


@pytest.mark.parametrize(
    "settings, count",
    [({}, 2), ({"test_nms_thresh": 0.3}, 1), ({"test_topk_candidates": 1}, 1), ({"max_detections_per_image": 1}, 1)],
)
def test_settings_of_the_inference(settings, count):
    """Two boxes of one class with an IoU of 1/3, in each of two images of different sizes."""
    model = tiny_yolof(num_classes=2, test_score_thresh=0.5, **settings).eval()
    inputs = batch(NONE, NONE)
    inputs[1]["image"] = inputs[1]["image"][:, :64, :96]
    images = model.preprocess_image(inputs)
    logits, deltas = torch.full((2, 6, 3, 4), -9.0), torch.zeros(2, 12, 3, 4)
    logits[:, 3, 1, 1:3] = 2.0
    results = model.forward_inference(images, None, (logits, deltas))
    assert [len(result) for result in results] == [count] * 2
    assert [tuple(result.image_size) for result in results] == [(96, 128), (64, 96)]


def test_detections_are_scaled_to_the_size_asked_for():
    model = tiny_yolof(test_score_thresh=0.0, max_detections_per_image=7).eval()
    inputs = batch(NONE, NONE)
    inputs[1].update(height=192, width=384)
    first, second = (output["instances"] for output in model(inputs))
    assert first.image_size == (96, 128) and second.image_size == (192, 384)
    assert 0 < len(first) <= 7
    assert second.pred_boxes.tensor[:, 2].max() > 128


def test_a_head_that_does_not_fit_is_an_error():
    model = tiny_yolof()
    parts = dict(
        backbone=TinyBackbone(),
        anchor_generator=model.anchor_generator,
        box2box_transform=model.box2box_transform,
        matcher=model.matcher,
        pixel_mean=[0.0],
        pixel_std=[1.0],
    )

    def head(**kwargs):
        return YOLOFHead(encoder=DilatedEncoder(in_channels=8), decoder=YOLOFDecoder(**kwargs))

    with pytest.raises(ValueError, match=r"makes \[3\] anchors.*predicts 5"):
        type(model)(head=head(num_classes=3), num_classes=3, **parts)
    with pytest.raises(ValueError, match="num_classes is 4 .* is 3"):
        type(model)(head=head(num_classes=3, num_anchors=3), num_classes=4, **parts)


def test_model_can_be_copied():
    model = copy.deepcopy(tiny_yolof()).eval()
    assert len(model(batch(NONE))) == 1
