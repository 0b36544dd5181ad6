"""Values of the config that cannot work: one error that names the setting, before training starts."""

import yolox_d2  # noqa: F401  (its yacs keys)
from dense_d2.config import ConfigError, load_config
from dense_d2.engine import LazyTrainer, YacsTrainer
from dense_d2.engine.build import build, check_settings
from dense_d2.errors import UserError

import pytest
from omegaconf import OmegaConf

YOLOX = "configs/yolox/yolox_nano.py"


def toy_config(toy_coco, folder, *overrides):
    images, annotations = toy_coco
    files = [f"dataset.{split}.{key}" for split in ("train", "test") for key in ("images", "annotations")]
    data = [f"{key}={value}" for key, value in zip(files, (images, annotations) * 2)]
    return load_config(YOLOX, [*data, "train.device=cpu", f"train.output_dir={folder}", *overrides])


@pytest.mark.parametrize(
    "override, message",
    [
        ("model.assigner.radius=-1", "model: radius is -1"),
        ("model.assigner.radius=null", "model: radius is None; it must be above 0$"),
        ("model.assigner._target_=yolox_d2.simota.SimOTTA", "model: .*'SimOTTA' is importable"),
        ("model.test_topk_candidates=0", "model: test_topk_candidates is 0 and .*at least 1"),
        ("model.max_detections_per_image=-1", "model: .*max_detections_per_image -1; give at least 1"),
        ("model.pixel_mean=[0,0]", r"model: pixel_mean is \[0, 0\].*one number a channel"),
        ("model.pixel_std=[1,0,1]", r"model: .*pixel_std \[1, 0, 1\].*above 0"),
    ],
)
def test_a_value_that_a_constructor_refuses_is_an_error_of_its_section(override, message):
    with pytest.raises(UserError, match=f"(?s){message}"):
        build(load_config(YOLOX, [override]).model, "model")


@pytest.mark.parametrize(
    "row, override, message",
    [
        ("vfnet/vfnet_thin_bccd", "backbone.in_features=[res3,res4]", r"strides \[8, 16\].*list the maps of strides 8"),
        ("vfnet/vfnet_thin_bccd", "backbone.top_in_feature=p9", "top_in_feature is 'p9'; .*'p5' or the last of them"),
        ("asff/asff_thin_bccd", "backbone.widen={p9:64}", r"widen names \['p3', 'p9'\], but in_features"),
        ("yolof/yolof_thin_shapes", "matcher.topk=0", "topk is 0; it must be above 0"),
        ("yolof/yolof_thin_shapes", "head.decoder.prior_prob=2", "prior_prob is 2; a probability"),
        ("vfnet/vfnet_thin_bccd", "head.prior_prob=0", "prior_prob is 0; a probability"),
        ("vfnet/vfnet_thin_bccd", "assigner.topk=-1", "topk is -1; it must be above 0"),
        ("vfnet/vfnet_thin_bccd", "assigner.anchor_scale=0", "anchor_scale is 0; it must be above 0"),
        ("asff/asff_thin_bccd", "anchors.priors.2.2.1=-150", r"\(120, -150\).*; sides are above 0"),
        ("yolof/yolof_thin_shapes", "head_in_features=[res5]", r"\['res5'\], but the backbone gives \['res4'\]"),
        (
            "yolof/yolof_thin_shapes",
            "anchor_generator.strides=[32]",
            r"strides \[16\], but anchor_generator.strides is \[32\]",
        ),
        (
            "yolof/yolof_thin_shapes",
            "head.encoder.in_channels=64",
            "res4 has 128 channels, but head.encoder.in_channels is 64",
        ),
        ("vfnet/vfnet_thin_bccd", "head_in_features=[p3,p4]", r"strides \[8, 16\], but head.strides is \[8, 16, 32"),
        (
            "asff/asff_thin_bccd",
            "anchors.strides=[8,16,64]",
            r"strides \[8, 16, 32\], but anchors.strides is \[8, 16, 64\]",
        ),
        (
            "asff/retinanet_r50_1x",
            "anchor_generator.strides=[8,16,32,64,64]",
            r"but anchor_generator.strides is \[8, .*64\]",
        ),
    ],
)
def test_values_and_parts_that_a_detector_refuses(row, override, message):
    with pytest.raises(UserError, match=f"model: .*{message}"):
        build(load_config(f"configs/{row}.py", [f"model.{override}"]).model, "model")


@pytest.mark.parametrize("name", ["test_score_thresh", "test_nms_thresh"])
@pytest.mark.parametrize("value", [-0.1, 2])
def test_thresholds_are_from_0_to_1(name, value):
    with pytest.raises(UserError, match=f"model: {name} is {value}; give a number from 0 to 1"):
        build(load_config(YOLOX, [f"model.{name}={value}"]).model, "model")


@pytest.mark.parametrize("key", ["max_iter", "log_period", "checkpointer.period", "checkpointer.max_to_keep"])
def test_what_is_counted_from_1_is_not_0(key):
    train = load_config(YOLOX, ["train.device=cpu"]).train
    check_settings(train)
    OmegaConf.update(train, key, 0)
    with pytest.raises(UserError, match=f"train.{key}=0: give 1 or more"):
        check_settings(train)


def test_a_message_that_was_not_written_for_users_says_where_it_comes_from():
    cfg = OmegaConf.create({"_target_": "statistics.NormalDist", "mu": 0.0, "sigma": None})
    with pytest.raises(UserError, match=r"model: '<' not supported .* \(.*statistics.py, line \d+\)$"):
        build(cfg, "model")
    with pytest.raises(UserError, match="model: sigma must be non-negative$"):
        build({**cfg, "sigma": -1.0}, "model")


def test_a_device_that_is_not_there_is_an_error():
    with pytest.raises(UserError, match="train.device=gpu is not there .*; give cuda on a GPU, else cpu"):
        check_settings(load_config(YOLOX, ["train.device=gpu"]).train)


@pytest.mark.parametrize("setting", ["total_batch_size=0", "num_workers=-1"])
def test_settings_of_the_loader(toy_coco, tmp_path, setting):
    cfg = toy_config(toy_coco, tmp_path, f"dataloader.train.{setting}")
    with pytest.raises(UserError, match="dataloader.train: " + setting.replace("=", " is ")):
        LazyTrainer.build_train_loader(cfg)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["dataloader.test.mapper.augmentations.0.size=-32"], "dataloader.test: size is -32"),
        (["tta.enabled=true", "tta.min_sizes=[320,416]"], "tta: max_size has 5 values for 2 min_sizes"),
    ],
)
def test_what_only_the_evaluation_reads_is_refused_before_training(toy_coco, tmp_path, monkeypatch, overrides, message):
    cfg = toy_config(toy_coco, tmp_path, *overrides)
    monkeypatch.setattr(LazyTrainer, "build_optimizer", lambda *args: pytest.fail("too late"))
    with pytest.raises(UserError, match=message):
        LazyTrainer(cfg)


def test_values_of_a_yacs_file():
    yaml = "configs/yacs/yolox.yaml"
    with pytest.raises(UserError, match="MODEL: radius is -1"):
        YacsTrainer.build_model(load_config(yaml, ["MODEL.DEVICE=cpu", "MODEL.YOLOX.CENTER_RADIUS=-1.0"]))
    with pytest.raises(ConfigError, match="Type mismatch.*SOLVER.MAX_ITER"):
        load_config(yaml, ["SOLVER.MAX_ITER=ten"])
