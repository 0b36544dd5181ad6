import collections
import os
import pickle
from types import SimpleNamespace

from dense_d2.checkpoint import CheckpointError, DenseCheckpointer, read_checkpoint, rename_keys, save_safetensors
from dense_d2.engine import EMA

import numpy as np
import pytest
import torch
from torch import nn


def from_elsewhere(state):
    """another project's file."""
    if not all(key.startswith("net.") for key in state):
        return None
    return rename_keys(state, lambda key: key[len("net.") :])


class Detector(nn.Module):
    released_formats = (from_elsewhere,)
    class_layers = ("head.score",)

    def __init__(self, num_classes=3):
        super().__init__()
        self.backbone = nn.Sequential(collections.OrderedDict(conv=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4)))
        self.head = nn.ModuleDict({"score": nn.Conv2d(4, num_classes, 1), "box": nn.Conv2d(4, 4, 1)})
        self.register_buffer("pixel_mean", torch.tensor([1.0, 2.0, 3.0]).view(-1, 1, 1), persistent=False)


class Canary:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def equal(a, b):
    return all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())


def save(obj, path):
    torch.save(obj, path)
    return str(path)


def test_what_is_saved_is_loaded(tmp_path):
    model, other = Detector(), Detector()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    meta = {"class_names": ["a", "b", "c"]}
    DenseCheckpointer(model, str(tmp_path), meta=meta, optimizer=optimizer).save("model_0", iteration=7)
    fresh = torch.optim.SGD(other.parameters(), lr=0.1)
    rest = DenseCheckpointer(other, str(tmp_path), optimizer=fresh).resume_or_load("", resume=True)
    assert equal(model, other)
    assert fresh.param_groups[0]["lr"] == 0.5
    assert rest["iteration"] == 7 and rest["meta"] == {**meta, "pixel_mean": [1.0, 2.0, 3.0]}
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0.pth"]  # no half-written file stays


@pytest.mark.parametrize("wrapped", ["model", "state_dict", None])
def test_containers_and_ddp_prefix(tmp_path, wrapped):
    model, other = Detector(), Detector()
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    path = save({wrapped: state, "best_ap": np.float64(0.5)} if wrapped else state, tmp_path / "x.pth")
    DenseCheckpointer(other).load(path)
    assert equal(model, other)


def test_released_format_is_recognised_by_its_keys(tmp_path):
    model, other = Detector(), Detector()
    path = save({"model": {f"net.{key}": value for key, value in model.state_dict().items()}}, tmp_path / "x.pth")
    DenseCheckpointer(other).load(path)
    assert equal(model, other)


def test_backbone_alone_fills_the_backbone(tmp_path):
    model, other = Detector(), Detector()
    head = other.head["box"].weight.clone()
    path = save(model.backbone.state_dict(), tmp_path / "imagenet.pth")
    DenseCheckpointer(other).load(path)
    assert equal(model.backbone, other.backbone)
    assert torch.equal(head, other.head["box"].weight)


def trunk_from_elsewhere(state):
    """another project's trunk."""
    if not all(key.startswith("net.") for key in state):
        return None
    return rename_keys(state, lambda key: f"backbone.bottom_up.{key[len('net.') :]}")


class DetectorWithNeck(Detector):
    """Its trunk lies below a neck."""

    released_formats = (trunk_from_elsewhere,)

    def __init__(self):
        super().__init__()
        self.backbone = nn.ModuleDict({"bottom_up": self.backbone, "neck": nn.Conv2d(4, 4, 1)})


@pytest.mark.parametrize("prefix", ["", "net.", "backbone.bottom_up."])
def test_a_trunk_alone_fills_the_trunk_and_is_no_detector(tmp_path, prefix):
    model, other = DetectorWithNeck(), DetectorWithNeck()
    neck = other.backbone["neck"].weight.clone()
    state = {prefix + key: value for key, value in model.backbone["bottom_up"].state_dict().items()}
    path = save(state, tmp_path / "imagenet.pth")
    with pytest.raises(CheckpointError, match="only a backbone"):
        DenseCheckpointer(other).load(path, whole=True)
    DenseCheckpointer(other).load(path)
    assert equal(model.backbone["bottom_up"], other.backbone["bottom_up"])
    assert torch.equal(neck, other.backbone["neck"].weight)
    state.pop(prefix + "norm.weight")
    with pytest.raises(CheckpointError, match="not in the file: backbone.bottom_up.norm.weight"):
        DenseCheckpointer(other).load(save(state, path))


@pytest.mark.parametrize("prefix", ["", "backbone.bottom_up.bottom_up."])
def test_a_trunk_is_found_below_two_necks(tmp_path, prefix):
    def detector():
        result = DetectorWithNeck()
        result.backbone = nn.ModuleDict({"bottom_up": result.backbone, "fusion": nn.Conv2d(4, 4, 1)})
        return result

    model, other = detector(), detector()
    trunk, other_trunk = (x.backbone["bottom_up"]["bottom_up"] for x in (model, other))
    path = save({prefix + key: value for key, value in trunk.state_dict().items()}, tmp_path / "imagenet.pth")
    with pytest.raises(CheckpointError, match="only a backbone"):
        DenseCheckpointer(other).load(path, whole=True)
    DenseCheckpointer(other).load(path)
    assert equal(trunk, other_trunk)


@pytest.mark.parametrize("necks", [1, 2])
@pytest.mark.parametrize("prefix", ["", "net."])
def test_a_detector_fills_one_with_further_necks(tmp_path, prefix, necks):
    def with_necks():
        result = Detector()
        for i in range(necks):
            result.backbone = nn.ModuleDict({"bottom_up": result.backbone, f"fusion{i}": nn.Conv2d(4, 4, 1)})
        return result

    model, other = Detector(), with_necks()
    before = {key: value.clone() for key, value in other.state_dict().items()}
    path = save({prefix + key: value for key, value in model.state_dict().items()}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="a detector without backbone.*fusion"):
        DenseCheckpointer(other).load(path, whole=True)
    DenseCheckpointer(other).load(path)
    trunk = other.backbone
    for _ in range(necks):
        trunk = trunk["bottom_up"]
    assert equal(trunk, model.backbone) and equal(other.head, model.head)
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items() if ".fusion" in key)

    state = model.state_dict()
    state.pop("head.box.bias")
    with pytest.raises(CheckpointError, match="1 keys of the model are not in the file: head.box.bias"):
        DenseCheckpointer(with_necks()).load(save(state, path))
    with pytest.raises(CheckpointError, match="not in the model: .*fusion"):  # but not the other way round
        DenseCheckpointer(Detector()).load(save(other.state_dict(), path))


def test_misfits_name_the_keys(tmp_path):
    state = Detector().state_dict()
    state.pop("head.box.bias")
    state["head.extra"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as error:
        DenseCheckpointer(Detector()).load(save(state, tmp_path / "x.pth"))
    assert "not in the file: head.box.bias" in str(error.value)
    assert "not in the model: head.extra" in str(error.value)


def test_another_class_count_is_an_error_unless_asked_for(tmp_path):
    model, other = Detector(5), Detector(3)
    path = save({"model": model.state_dict()}, tmp_path / "x.pth")
    with pytest.raises(
        CheckpointError, match="train.reinit_head=true.*; --eval-only and --resume need those of the file"
    ):
        DenseCheckpointer(other).load(path)
    fresh = other.head["score"].weight.clone()
    DenseCheckpointer(other).load(path, reinit_head=True)
    assert torch.equal(other.head["score"].weight, fresh)
    assert torch.equal(other.head["box"].weight, model.head["box"].weight)


def test_other_class_names_are_an_error_unless_asked_for(tmp_path):
    DenseCheckpointer(Detector(), str(tmp_path), meta={"class_names": ["cat", "dog", "cow"]}).save("m")
    path = str(tmp_path / "m.pth")
    reader = DenseCheckpointer(Detector(), meta={"class_names": ["cat", "cow", "dog"]})
    with pytest.raises(CheckpointError, match="cat, dog, cow.*cat, cow, dog"):
        reader.load(path)
    reader.load(path, reinit_head=True)


def test_other_pixel_statistics_are_an_error(tmp_path):
    state = {**Detector().state_dict(), "pixel_mean": torch.tensor([1.0, 2.0, 9.0])}
    with pytest.raises(CheckpointError, match=r"pixel_mean=\[1.0, 2.0, 9.0\]"):
        DenseCheckpointer(Detector()).load(save(state, tmp_path / "x.pth"))


def with_pixels(mean, order):
    model = Detector()
    model.pixel_mean.copy_(torch.tensor(mean).view(-1, 1, 1))
    model.input_format = order
    return model


@pytest.mark.parametrize("mean, order", [([103.53, 116.28, 123.675], "RGB"), ([0.0, 0.0, 0.0], "BGR")])
@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_our_files_know_their_pixel_settings(tmp_path, mean, order, kind):
    model, path = with_pixels([103.53, 116.28, 123.675], "BGR"), str(tmp_path / f"m.{kind}")
    writer = DenseCheckpointer(model, str(tmp_path))
    if kind == "pth":
        writer.save("m")
    else:
        save_safetensors(path, model.state_dict(), writer.meta)
    DenseCheckpointer(with_pixels([103.53, 116.28, 123.675], "BGR")).load(path)
    for reinit_head in (False, True):
        with pytest.raises(
            CheckpointError, match=r"model\.pixel_mean=\[103\.53,116\.28,123\.675\] model\.input_format=BGR"
        ):
            DenseCheckpointer(with_pixels(mean, order)).load(path, reinit_head=reinit_head)
    DenseCheckpointer(with_pixels(mean, order)).load(
        save({"model": model.state_dict(), "meta": {}}, tmp_path / "old.pth")
    )


def test_averages_are_loaded_on_request(tmp_path):
    model, raw, averaged = Detector(), Detector(), Detector()
    hook = EMA(decay=0.5, warmup=0)
    hook.trainer = SimpleNamespace(model=model)
    hook.before_train()
    model.load_state_dict(Detector().state_dict())
    hook.after_step()
    trainer = SimpleNamespace(
        state_dict=lambda: {"hooks": {"EMA": hook.state_dict(), "LRScheduler": {"last_epoch": 1}}}
    )
    DenseCheckpointer(model, str(tmp_path), trainer=trainer).save("m")
    path = str(tmp_path / "m.pth")
    DenseCheckpointer(raw).load(path)
    DenseCheckpointer(averaged).load(path, averaged="ema")
    assert equal(raw, model) and not equal(averaged, model)
    with hook.applied_to(model):
        assert equal(averaged, model)
    with pytest.raises(CheckpointError, match="no averages 'swa', only the raw weights and 'ema'"):
        DenseCheckpointer(raw).load(path, averaged="swa")
    with pytest.raises(CheckpointError, match="only the raw weights:"):
        DenseCheckpointer(raw).load(save(model.state_dict(), path), averaged="ema")


@pytest.mark.parametrize("nested", [False, True])
def test_nothing_in_a_pth_runs(tmp_path, nested):
    canary = tmp_path / "ran"
    state = Detector().state_dict()
    content = {"model": state, "optimizer": {"state": Canary(canary)}} if nested else Canary(canary)
    with pytest.raises(CheckpointError, match="nothing in them can run code"):
        read_checkpoint(save(content, tmp_path / "x.pth"))
    assert not canary.exists()


def test_nothing_in_a_pkl_runs(tmp_path):
    canary = tmp_path / "ran"
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"conv1_w": np.zeros(3), "evil": Canary(canary)}))
    with pytest.raises(CheckpointError, match="which is no array"):
        read_checkpoint(str(path))
    assert not canary.exists()


def test_caffe2_pickle_gives_its_arrays(tmp_path):
    path = tmp_path / "x.pkl"
    blobs = {"conv1_w": np.arange(3, dtype=np.float32), "conv1_w_momentum": np.zeros(3), "weight_order": "BGR"}
    path.write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    data = read_checkpoint(str(path))
    assert data["format"] == "caffe2" and list(data["model"]) == ["conv1_w"]
    assert data["model"]["conv1_w"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 torn"])
@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
def test_torn_files_are_named(tmp_path, content, suffix):
    path = tmp_path / f"torn{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="torn"):
        read_checkpoint(str(path))


def test_safetensors_round_trip(tmp_path):
    model, other = Detector(), Detector()
    path = str(tmp_path / "zoo.safetensors")
    save_safetensors(path, model.state_dict(), {"class_names": ["a", "b", "c"]})
    rest = DenseCheckpointer(other).load(path)
    assert equal(model, other) and rest["meta"]["class_names"] == ["a", "b", "c"]
    with pytest.raises(FileExistsError):
        save_safetensors(path, model.state_dict(), {})


def test_renaming_keeps_module_versions():
    state = Detector().state_dict()
    renamed = rename_keys(state, lambda key: f"x.{key}")
    assert renamed._metadata["x.backbone.norm"] == state._metadata["backbone.norm"] != {}
