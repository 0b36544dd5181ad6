"""YOLOF's rows against the released recipe, and the paper where nothing was released."""

import pathlib

from dense_d2.config import load_config
from dense_d2.data import RandomDistortion, RandomJitterCrop, RandomShift, SquareResize

import pytest
from detectron2.config import instantiate
from detectron2.data.transforms import RandomFlip, ResizeShortestEdge

ROOT = pathlib.Path(__file__).parents[2]


def c5(**changes):
    """Iterations, images a batch, and whether the training size is drawn; smallest anchor and stride; dilations of the
    encoder; matches a box; thresholds of ignored positives and negatives."""
    row = dict(iters=22500, batch=64, multi_scale=False, anchor=32, stride=32, dilations=[2, 4, 6, 8], topk=4, pos=0.15)
    return {**row, "neg": 0.7, **changes}


def dc5(**changes):
    return c5(anchor=16, stride=16, dilations=[4, 8, 12, 16], topk=8, pos=0.1, **changes)


def csp(**changes):
    return {**dc5(**changes), "dilations": [1, 2, 3, 4, 5, 6, 7, 8]}


RESNET = {
    "r50_c5_1x": c5(),
    "r101_c5_1x": c5(),
    "x101_64x4d_c5_1x": c5(iters=45000, batch=32),
    "r50_dc5_1x": dc5(),
    "r101_dc5_1x": dc5(iters=45000, batch=32),
    "r50_c5_ms_6x": c5(iters=135000, multi_scale=True),
    "r101_c5_ms_6x": c5(iters=135000, multi_scale=True),
    "x101_64x4d_c5_ms_3x": c5(iters=135000, batch=32, multi_scale=True),
}
CSP = {
    "csp_d53_dc5_3x": csp(iters=67500),
    "csp_d53_dc5_9x": csp(iters=202500),
    "csp_d53_dc5_9x_stage2_3x": csp(iters=67500, neg=0.8),
    "csp_d53_dc5_swa_3x": csp(iters=67500, neg=0.8),
}
ROWS = {**RESNET, **CSP}
# what the training starts from, of the longest name that fits
STARTS = {
    "r50": "detectron2://ImageNetPretrained/MSRA/R-50.pkl",
    "r101": "detectron2://ImageNetPretrained/MSRA/R-101.pkl",
    "x101": "catalog://ImageNetPretrained/FAIR/X-101-64x4d",
    "csp": "cspdarknet53.pth",
    "csp_d53_dc5_9x_stage2": "output/yolof_csp_d53_dc5_9x/model_final.pth",
    "csp_d53_dc5_swa": "output/yolof_csp_d53_dc5_9x_stage2_3x/model_final.pth",
}
# of the rate's decay, for a number of iterations and images a batch
MILESTONES = {
    (22500, 64): [15000, 20000],
    (67500, 64): [52500, 62500],
    (135000, 64): [120000, 130000],
    (202500, 64): [187500, 197500],
    (45000, 32): [30000, 40000],
    (135000, 32): [105000, 125000],
}


def load(row):
    return load_config(ROOT / "configs" / "yolof" / f"yolof_{row}.py")


@pytest.mark.parametrize("row", ROWS)
def test_model(row):
    expected, model = ROWS[row], load(row).model
    anchors = model.anchor_generator
    sizes = [size for size in (16, 32, 64, 128, 256, 512) if size >= expected["anchor"]]
    assert (anchors.sizes, anchors.aspect_ratios, anchors.offset) == ([sizes], [[1.0]], 0)
    assert anchors.strides == [expected["stride"]] and model.head.decoder.num_anchors == len(sizes)
    assert model.head.encoder.block_dilations == expected["dilations"] and model.head.encoder.shortcut
    assert (model.head.decoder.cls_num_convs, model.head.decoder.reg_num_convs) == (2, 4)
    assert (model.matcher.topk, model.box2box_transform.center_clamp) == (expected["topk"], 32)
    assert (model.pos_ignore_thresh, model.neg_ignore_thresh) == (expected["pos"], expected["neg"])
    assert (model.focal_loss_alpha, model.focal_loss_gamma, model.head.decoder.prior_prob) == (0.25, 2, 0.01)
    assert (model.test_score_thresh, model.test_nms_thresh) == (0.05, 0.6)
    assert (model.test_topk_candidates, model.max_detections_per_image) == (1000, 100)
    assert (model.input_format, model.pixel_mean, model.pixel_std) == ("BGR", [103.53, 116.28, 123.675], [1, 1, 1])
    assert model.backbone.freeze_at == 2
    kind = (model.head.encoder.norm, model.head.encoder.activation)
    assert kind == (("SyncBN", "LeakyReLU") if row in CSP else ("BN", "ReLU"))
    start = [file for name, file in STARTS.items() if row.startswith(name)][-1]
    assert load(row).train.init_checkpoint == start
    if row in CSP:
        backbone = model.backbone
        assert (backbone.norm, backbone.norm_eps, backbone.norm_momentum, backbone.res5_dilation) == (
            "SyncBN",
            1e-4,
            0.03,
            2,
        )
    else:
        assert model.backbone.stages.res5_dilation == 32 // expected["stride"]
        assert model.backbone.stages.norm == "FrozenBN"
        assert model.backbone.stages.stride_in_1x1 == (not row.startswith("x101"))


@pytest.mark.parametrize("row", ROWS)
def test_schedule(row):
    """Half the batch has half the rate."""
    cfg, iters, batch = load(row), ROWS[row]["iters"], ROWS[row]["batch"]
    data = cfg.dataloader.train
    assert (cfg.train.max_iter, data.total_batch_size) == (iters, batch)
    assert data.filter_empty and data.aspect_ratio_grouping
    assert (cfg.optimizer.momentum, cfg.optimizer.weight_decay, cfg.optimizer.params.weight_decay_norm) == (
        0.9,
        1e-4,
        0,
    )
    assert cfg.optimizer.lr == (0.04 if row in CSP else 0.12 * batch / 64)
    assert cfg.optimizer.params.lr_factors == ({} if row in CSP else {"backbone": 0.334})
    assert (cfg.train.clip_grad_norm, cfg.train.amp.enabled) == (0, False)
    schedule = instantiate(cfg.lr_multiplier)
    if "swa" in row:
        assert (schedule.cycle_iters, cfg.train.hooks.swa.cycle_iters, schedule.end_factor) == (
            iters / 12,
            iters / 12,
            0.01,
        )
        return
    assert schedule.milestones == MILESTONES[iters, batch] and schedule.gamma == 0.1
    warmup = (schedule.warmup_iters, schedule.warmup_factor)
    assert warmup == ((1500, 0.00066667) if batch == 64 else (3000, 0.000334))


@pytest.mark.parametrize("row", RESNET)
def test_data(row):
    data = load(row).dataloader
    resize, flip, shift = instantiate(data.train.mapper).augmentations.augs
    assert isinstance(resize, ResizeShortestEdge) and isinstance(flip, RandomFlip) and isinstance(shift, RandomShift)
    edges = ([400, 1400], 1600, True) if ROWS[row]["multi_scale"] else ([800], 1333, False)
    assert (resize.short_edge_length, resize.max_size, resize.is_range) == edges
    assert (flip.prob, flip.horizontal) == (0.5, True)
    assert (shift.max_shift, shift.prob) == (32, 0.5)
    assert "composition" not in data.train
    (resize,) = instantiate(data.test.mapper).augmentations.augs
    assert (resize.short_edge_length, resize.max_size) == ((800, 800), 1333)


@pytest.mark.parametrize("row", CSP)
def test_data_of_csp(row):
    data = load(row).dataloader
    crop, resize, colour, flip, shift = instantiate(data.train.mapper).augmentations.augs
    assert isinstance(crop, RandomJitterCrop) and crop.ratio == 0.3
    assert isinstance(resize, SquareResize) and (resize.size, resize.jitter) == (640, (0.8, 1.2))
    assert isinstance(colour, RandomDistortion) and (colour.hue, colour.saturation, colour.exposure) == (0.1, 1.5, 1.5)
    assert isinstance(flip, RandomFlip) and (flip.prob, flip.horizontal) == (0.5, True)
    assert isinstance(shift, RandomShift) and (shift.max_shift, shift.prob) == (32, 0.5)
    mosaic = instantiate(data.train.composition)
    assert (mosaic.size, mosaic.prob, mosaic.cut_range) == (640, 0.5, (128, 512))
    (resize,) = instantiate(data.test.mapper).augmentations.augs
    assert (resize.size, resize.jitter) == (608, (1.0, 1.0))
