"""Detectron2's weights in a detector whose pyramid lies below a fusion."""

import logging
import os
import pickle

from asff_d2.fusion import ASFFNeck
from dense_d2.checkpoint import CheckpointError, DenseCheckpointer, read_checkpoint

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from omegaconf import OmegaConf

MODEL = os.path.join(os.path.dirname(__file__), "..", "..", "configs", "common", "models", "retinanet.py")
THIN = {
    "backbone.bottom_up.stages": {"depth": 18, "base_channels": 8},
    "backbone.bottom_up.stem.out_channels": 8,
    "backbone.top_block.in_channels": 64,
    "backbone.out_channels": 16,
    "head.input_shape.0.channels": 16,
    "head.conv_dims": [16],
}


def detector(necks=0, num_classes=3, **options):
    """RetinaNet on a thin ResNet-18 below so many fusions; with none, its parameters are Detectron2's."""
    cfg = LazyConfig.load(MODEL).model
    for key, value in {**THIN, "num_classes": num_classes, **options}.items():
        OmegaConf.update(cfg, key, value, force_add=True)
    for _ in range(necks):
        cfg.backbone = L(ASFFNeck)(bottom_up=cfg.backbone, compress_channels=4, norm="GN")
    return instantiate(cfg)


def zoo_file(model, path, **extra):
    """As Detectron2's model zoo stores a detector: arrays, pixel statistics and anchors, no average."""
    state = {key: value.numpy() for key, value in model.state_dict().items() if key != "loss_normalizer"}
    state.update({"pixel_mean": model.pixel_mean.numpy(), "anchor_generator.cell_anchors.0": torch.zeros(9, 4).numpy()})
    path.write_bytes(pickle.dumps({"model": {**state, **extra}, "__author__": "Detectron2 Model Zoo"}))
    return str(path)


def inner(model, necks):
    """State of the detector without its necks, by Detectron2's names."""
    backbone = model.backbone
    for _ in range(necks):
        backbone = backbone.bottom_up
    state = {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    return {**state, **{f"head.{key}": value for key, value in model.head.state_dict().items()}}


@pytest.mark.parametrize("necks", [0, 1, 2])
def test_a_zoo_detector_fills_all_but_the_necks(tmp_path, caplog, necks):
    path = zoo_file(detector(), tmp_path / "zoo.pkl")
    model = detector(necks)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with caplog.at_level(logging.INFO, "dense_d2.checkpoint"):
        DenseCheckpointer(model).load(path)
    stored = read_checkpoint(path)["model"]
    found = inner(model, necks)
    assert set(found) == {key for key in stored if key.startswith(("backbone.", "head."))}
    assert all(torch.equal(value, stored[key]) for key, value in found.items())
    filled = {"backbone." + "bottom_up." * necks + key[len("backbone.") :] for key in found if "head." not in key}
    rest = set(before) - filled - set(stored)
    assert all(torch.equal(model.state_dict()[key], before[key]) for key in rest)
    assert {key for key in rest if "levels" not in key} == {"loss_normalizer"}
    assert ("of a neck around that backbone start afresh" in caplog.text) == bool(necks)


def test_other_gaps_and_leftovers_are_errors(tmp_path):
    source = detector()
    path = zoo_file(source, tmp_path / "zoo.pkl", **{"head.extra.weight": torch.zeros(1).numpy()})
    with pytest.raises(CheckpointError, match="not in the model: head.extra.weight"):
        DenseCheckpointer(detector()).load(path)
    state = source.state_dict()
    del state["backbone.fpn_lateral4.weight"]
    torch.save(state, path := str(tmp_path / "gap.pth"))
    with pytest.raises(CheckpointError, match="1 keys .* not in the file: backbone.bottom_up.fpn_lateral4.weight"):
        DenseCheckpointer(detector(1)).load(path)
    with pytest.raises(CheckpointError, match="pixel_mean"):
        DenseCheckpointer(detector(1, pixel_mean=[1.0, 2.0, 3.0])).load(zoo_file(source, tmp_path / "zoo.pkl"))


def test_other_classes_and_the_other_normalizer(tmp_path):
    path = str(tmp_path / "ours.pth")
    torch.save({"model": detector().state_dict()}, path)
    model = detector(1, num_classes=2, loss_normalizer="batch")
    with pytest.raises(CheckpointError, match="train.reinit_head=true"):
        DenseCheckpointer(model).load(path)
    scores = model.head.cls_score.weight.clone()
    DenseCheckpointer(model).load(path, reinit_head=True)
    assert torch.equal(model.head.cls_score.weight, scores)
    assert torch.equal(model.head.bbox_pred.weight, read_checkpoint(path)["model"]["head.bbox_pred.weight"])


def caffe2_name(key):
    """res2.0.conv1.norm.weight as MSRA's files name it: res2_0_branch2a_bn_gamma."""
    layer, _, entry = key.rpartition(".")
    entry = {"weight": "gamma", "bias": "beta"}.get(entry, entry) if layer.endswith(".norm") else "w"
    layer = layer.replace(".norm", "_bn")
    if layer.startswith("stem."):
        return layer.replace("stem.", "res_" if "bn" in layer else "") + "_" + entry
    for ours, theirs in (("conv1", "branch2a"), ("conv2", "branch2b"), ("shortcut", "branch1"), (".", "_")):
        layer = layer.replace(ours, theirs)
    return f"{layer}_{entry}"


@pytest.mark.parametrize("necks", [0, 1, 2])
@pytest.mark.parametrize("kind", ["MSRA", "torchvision"])
def test_imagenet_weights_fill_the_trunk(tmp_path, kind, necks):
    trunk = {key: torch.rand_like(value) for key, value in detector().backbone.bottom_up.state_dict().items()}
    if kind == "torchvision":
        state = {key: value.numpy() for key, value in trunk.items()}
        content = {"model": {**state, "stem.fc.weight": torch.zeros(1).numpy()}, "__author__": "torchvision"}
    else:
        content = {caffe2_name(key): value.numpy() for key, value in trunk.items()}
        assert {"conv1_w", "res_conv1_bn_gamma", "res3_0_branch1_bn_beta", "res2_1_branch2b_w"} <= set(content)
        assert "res5_1_branch2a_bn_running_var" in content and len(content) == len(trunk)
        classifier = {"fc1000_w": (1000, 64), "fc1000_b": (1000,), "conv1_b": (8,)}
        content.update({name: torch.zeros(shape).numpy() for name, shape in classifier.items()})
    path = tmp_path / "R.pkl"
    path.write_bytes(pickle.dumps(content))
    model = detector(necks)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="only a backbone"):
        DenseCheckpointer(model).load(str(path), whole=True)
    DenseCheckpointer(model).load(str(path))
    scope = "backbone." + "bottom_up." * (necks + 1)
    for key, value in model.state_dict().items():
        assert torch.equal(value, trunk[key[len(scope) :]] if key.startswith(scope) else before[key]), key


def test_imagenet_weights_of_a_deeper_trunk_are_an_error(tmp_path):
    deep = detector(**{"backbone.bottom_up.stages": {"depth": 34, "base_channels": 8}}).backbone.bottom_up
    content = {caffe2_name(key): value.numpy() for key, value in deep.state_dict().items()}
    (tmp_path / "R.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match=r"not in the model: res2\.2\."):
        DenseCheckpointer(detector()).load(str(tmp_path / "R.pkl"))
