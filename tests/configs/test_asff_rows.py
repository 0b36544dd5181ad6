"""ASFF's rows against the released recipe, and the paper where nothing was released."""

import pathlib

from dense_d2.config import load_config
from dense_d2.data import BetaMixUp, Expand, MinIoUCrop, PhotometricDistortion, RandomAffine, RandomFlip, Stretch

import pytest
from detectron2.config import instantiate

ROOT = pathlib.Path(__file__).parents[2]
EPOCH = 1848  # of 118287 images, 64 an iteration; the last one is not filled


def row(fusion="none", guided=True, iou_loss=True, adjacent=None, compress=16, rfb=False, epochs=301, side=608):
    """What differs between rows; epochs in training, side of the test images."""
    return dict(
        fusion=fusion,
        guided=guided,
        iou_loss=iou_loss,
        adjacent=adjacent,
        compress=compress,
        rfb=rfb,
        epochs=epochs,
        side=side,
    )


def mobile(fusion):
    return row(fusion, side=416)


def star(**changes):
    return row("asff", compress=8, rfb=True, epochs=451, **changes)


ROWS = {
    "asff_darknet53_baseline": row(),
    "asff_darknet53_asff": row("asff"),
    "asff_darknet53_asff_star": star(),
    "asff_darknet53_asff_star_800": star(side=800),
    "asff_mobilenetv2": mobile("none"),
    "asff_mobilenetv2_asff": mobile("asff"),
    "ablation/table1/no_bag_of_freebies": row(guided=False, iou_loss=False),
    "ablation/table1/bag_of_freebies": row(guided=False, iou_loss=False),
    "ablation/table1/guided_anchor": row(iou_loss=False),
    "ablation/table1/iou_loss": row(guided=False),
    "ablation/table2/ignore_center": row(adjacent=0),
    "ablation/table2/ignore_20_percent": row(adjacent=0.2),
    "ablation/table2/ignore_50_percent": row(adjacent=0.5),
    "ablation/table3/sum": row("sum"),
    "ablation/table3/concat": row("concat"),
}


def load(name):
    return load_config(ROOT / "configs" / "asff" / f"{name}.py")


@pytest.mark.parametrize("name", ROWS)
def test_model(name):
    expected, model = ROWS[name], load(name).model
    plain, on_mobile = "no_bag" in name, "mobile" in name
    last = [373, 326] if on_mobile else [121, 240]
    assert model.anchors.priors == [
        [[10, 13], [16, 30], [33, 23]],
        [[30, 61], [62, 45], [42, 119]],
        [[116, 90], [156, 198], last],
    ]
    neck, head = model.backbone, model.head
    assert (neck.fusion, neck.compress_channels) == (expected["fusion"], expected["compress"])
    assert not neck.bottom_up.bottom_up.get("freeze_at")
    assert (neck.norm, neck.activation) == ("BN" if plain else "SyncBN", "ReLU6" if on_mobile else "LeakyReLU")
    assert (head.guided_anchor, model.anchors.free_slot, head.rfb) == (*[expected["guided"]] * 2, expected["rfb"])
    assert (head.adaption, head.deformable_groups, model.init_slope) == (not on_mobile, 4, 0.0 if on_mobile else 0.1)
    assert (model.iou_loss, model.adjacent_ignore, model.ignore_thresh) == (
        expected["iou_loss"],
        expected["adjacent"],
        0.7,
    )
    assert (model.label_smoothing, model.mixup_weight, model.detach_anchors) == (not plain, "obj", False)
    assert (model.test_score_thresh, model.test_nms_thresh, model.clip_boxes) == (0.001, 0.65, False)
    assert model.input_format == "RGB"
    assert (model.pixel_mean, model.pixel_std) == ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    assert ("drop_block" in load(name).train.hooks) == bool(neck.bottom_up.drop_blocks) == ("star" in name)


@pytest.mark.parametrize("name", ROWS)
def test_data(name):
    cfg, side, plain = load(name), ROWS[name]["side"], "no_bag" in name
    data = cfg.dataloader.train
    assert (data.total_batch_size, data.close_iters) == (64, 29 * EPOCH)
    assert (data.filter_empty, data.mapper.keep_crowds, data.mapper.last_pixel_boxes) == (False, True, True)
    composition, scales = instantiate(data.composition), instantiate(data.multi_scale)
    largest = 800 if side == 800 else 608
    assert scales.sizes == list(range(480 if side == 800 else 320, largest + 1, 32))
    assert (scales.first, scales.period, scales.in_pipeline) == ((largest, largest), 10, True)
    assert scales.fixed_from == cfg.train.max_iter - 10 * EPOCH
    assert cfg.dataloader.test.mapper.augmentations[0].size == side
    assert (composition.min_box_side, composition.max_boxes, composition.strong_prob) == (6, 50, 1)
    assert [(type(step), step.alpha) for step in composition.strong] == [(BetaMixUp, 1.5)] * (not plain)
    kinds = [PhotometricDistortion, Expand, MinIoUCrop, RandomFlip, RandomAffine, Stretch]
    assert [type(step) for step in composition.final] == [
        kind for kind in kinds if not (plain and kind is RandomAffine)
    ]
    colour, expand, crop, flip = composition.final[:4]
    assert (colour.brightness, colour.contrast, colour.hue, colour.saturation) == (32, (0.5, 1.5), 18, (0.5, 1.5))
    assert (expand.most, crop.min_ious, crop.scale) == (4, [None, 0.1, 0.3, 0.5, 0.7, 0.9, 0], (0.3, 1))
    assert [step.prob for step in (colour, expand, flip)] == [0.5] * 3
    assert len(set(composition.final[-1].interpolations)) == (1 if plain else 5)
    if not plain:
        affine = composition.final[4]
        assert (affine.degrees, affine.translate, affine.scale, affine.shear) == (10, 0.1, (0.9, 1.1), 2)
        assert affine.prob == 0.5
    (stretch,) = composition.fallback
    assert isinstance(stretch, Stretch)


@pytest.mark.parametrize("name", ROWS)
def test_schedule(name):
    cfg, total = load(name), ROWS[name]["epochs"]
    assert (cfg.train.max_iter, cfg.train.eval_period) == (total * EPOCH, 10 * EPOCH)
    assert (cfg.train.clip_grad_norm, cfg.train.amp.enabled) == (0, False)
    sgd = cfg.optimizer
    assert (sgd.momentum, sgd.get("nesterov", False), sgd.weight_decay) == (0.9, False, 5e-4)
    assert sgd.params.weight_decay_norm is None  # as everything else
    schedule = instantiate(cfg.lr_multiplier)
    epochs = [0, 2.5, 5, 20, total - 31, total - 1]
    rates = [sgd.lr * schedule(epoch / total) for epoch in epochs]
    if "no_bag" in name:
        assert rates == pytest.approx([0, 5e-4, 1e-3, 1e-3, 1e-5, 1e-5])
        assert cfg.lr_multiplier.milestones == [180 * EPOCH, 240 * EPOCH]
    else:
        assert rates == pytest.approx([0, 1e-3 / 2**4, 1e-3, 1e-3, 1e-5, 1e-5])


@pytest.mark.parametrize(
    "name", ["retinanet_r50_1x", "retinanet_r101_1x", "retinanet_r50_asff_1x", "retinanet_r101_asff_1x"]
)
def test_retinanet(name):
    """Detectron2's 1x."""
    cfg = load(name)
    assert (cfg.train.max_iter, cfg.dataloader.train.total_batch_size, cfg.optimizer.lr) == (90000, 16, 0.01)
    assert cfg.lr_multiplier.milestones == [60000, 80000]
    assert cfg.train.init_checkpoint.endswith("R-101.pkl" if "r101" in name else "R-50.pkl")
    train, test = (cfg.dataloader[split].mapper.augmentations[0] for split in ("train", "test"))
    assert (train.short_edge_length, train.max_size) == ([640, 672, 704, 736, 768, 800], 1333)
    assert (test.short_edge_length, test.max_size) == (800, 1333)
    if "asff" in name:
        neck = cfg.model.backbone
        assert (neck.in_features, neck.fusion, neck.norm, neck.activation) == (["p3", "p4", "p5"], "asff", "GN", "ReLU")
        assert (neck.compress_channels, neck.compress_equal) == (16, True)
