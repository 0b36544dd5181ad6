import collections
import os
from types import SimpleNamespace

from dense_d2.checkpoint import CheckpointError, DenseCheckpointer, rename_keys, save_safetensors
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
    # a run that starts from these weights takes nothing else, whatever its folder holds
    third, fresh = Detector(), torch.optim.SGD(other.parameters(), lr=0.1)
    path = str(tmp_path / "model_0.pth")
    DenseCheckpointer(third, str(tmp_path), optimizer=fresh).resume_or_load(path, resume=False)
    assert equal(model, third) and fresh.param_groups[0]["lr"] == 0.1
    assert DenseCheckpointer(third, str(tmp_path), optimizer=fresh).resume_or_load("", resume=False) == {}


def test_nothing_is_saved_without_a_folder_or_where_another_process_saves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    DenseCheckpointer(Detector()).save("model_0")
    DenseCheckpointer(Detector(), str(tmp_path), save_to_disk=False).save("model_0")
    assert not os.listdir(tmp_path)


def test_a_file_that_cannot_be_had_is_named(tmp_path, monkeypatch):
    def offline(path):
        raise OSError("no network")

    reader = DenseCheckpointer(Detector())
    with pytest.raises(FileNotFoundError, match="No checkpoint '.*x.pth': give train.init_checkpoint a file"):
        reader.load(str(tmp_path / "x.pth"))
    monkeypatch.setattr(reader.path_manager, "get_local_path", offline)
    with pytest.raises(CheckpointError, match=r"Cannot fetch https://x/y.pth \(no network\)"):
        reader.load("https://x/y.pth")


@pytest.mark.parametrize("wrapped", ["model", "state_dict", None])
def test_containers_and_ddp_prefix(tmp_path, wrapped):
    model, other = Detector(), Detector()
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    del state["module.backbone.norm.num_batches_tracked"]  # which old files lack
    path = save({wrapped: state, "best_ap": np.float64(0.5)} if wrapped else state, tmp_path / "x.pth")
    DenseCheckpointer(other).load(path)
    assert equal(model, other)


def test_released_format_is_recognised_by_its_keys(tmp_path):
    model, other = Detector(), Detector()
    path = save({"model": {f"net.{key}": value for key, value in model.state_dict().items()}}, tmp_path / "x.pth")
    DenseCheckpointer(other).load(path)
    assert equal(model, other)


@pytest.mark.parametrize("make", [lambda: Detector(), lambda: DetectorWithNeck()])
def test_backbone_alone_fills_the_backbone(tmp_path, make):
    model, other = make(), make()
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


def test_only_a_trunk_may_lack_the_offsets_of_deformable_convolutions(tmp_path):
    model = Detector()
    model.backbone.add_module("conv_offset", nn.Conv2d(4, 18, 1))
    state, trunk = model.state_dict(), model.backbone.state_dict()
    for plain in (state, trunk):
        del plain[[key for key in plain if key.endswith("conv_offset.bias")][0]]
        with pytest.raises(CheckpointError, match="1 keys of the model .*: backbone.conv_offset.bias"):
            DenseCheckpointer(model).load(save(plain, tmp_path / "x.pth"))
    del trunk["conv_offset.weight"], state["backbone.conv_offset.weight"]
    DenseCheckpointer(model).load(save(trunk, tmp_path / "x.pth"))
    with pytest.raises(CheckpointError, match="2 keys of the model .*: backbone.conv_offset.bias"):
        DenseCheckpointer(model).load(save(state, tmp_path / "x.pth"))


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
    state = Detector(5).state_dict()
    state.pop("head.box.bias")
    state["head.extra"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as error:
        DenseCheckpointer(Detector()).load(save(state, tmp_path / "x.pth"))
    assert "not in the file: head.box.bias" in str(error.value)
    assert "not in the model: head.extra" in str(error.value)
    assert "head.score.weight has shape (5, 4, 1, 1) in the file, (3, 4, 1, 1) in the model" in str(error.value)
    assert str(error.value).endswith("Use the config the file was trained with.")  # other classes are not all


def test_another_class_count_is_an_error_unless_asked_for(tmp_path):
    model, other = Detector(5), Detector(3)
    path = save({"model": model.state_dict()}, tmp_path / "x.pth")
    with pytest.raises(
        CheckpointError, match="train.reinit_head=true.*; --eval-only and --resume need those of the file"
    ):
        DenseCheckpointer(other).load(path)
    fresh = other.head["score"].weight.clone()
    DenseCheckpointer(other).resume_or_load(path, resume=False, reinit_head=True)
    assert torch.equal(other.head["score"].weight, fresh)
    assert torch.equal(other.head["box"].weight, model.head["box"].weight)
    other.class_layers = ()
    with pytest.raises(CheckpointError, match="Detector names no class_layers"):
        DenseCheckpointer(other).load(path, reinit_head=True)


def test_other_class_names_are_an_error_unless_asked_for(tmp_path):
    DenseCheckpointer(Detector(), str(tmp_path), meta={"class_names": ["cat", "dog", "cow"]}).save("m")
    path = str(tmp_path / "m.pth")
    reader = DenseCheckpointer(Detector(), meta={"class_names": ["cat", "cow", "dog"]})
    with pytest.raises(CheckpointError, match="cat, dog, cow.*cat, cow, dog"):
        reader.load(path)
    reader.load(path, reinit_head=True)


@pytest.mark.parametrize("mean, order", [("1,2,9", " model.input_format=BGR"), ("9,2,1", " .*RGB"), ("5,5,5", "")])
def test_other_pixel_statistics_are_an_error_that_names_what_to_set(tmp_path, mean, order):
    state = {**Detector().state_dict(), "pixel_mean": torch.tensor([float(x) for x in mean.split(",")])}
    with pytest.raises(CheckpointError, match=rf"model\.pixel_mean=\[{mean.replace(',', '.0,')}\.0\]{order}, as"):
        DenseCheckpointer(Detector()).load(save(state, tmp_path / "x.pth"))
    state["pixel_mean"] = torch.tensor([1.0005, 2.0, 3.0])  # the model's, rounded otherwise
    DenseCheckpointer(Detector()).load(save(state, tmp_path / "x.pth"))


def test_a_file_of_another_detector_does_not_ask_for_its_pixel_settings(tmp_path):
    state = {**Detector().state_dict(), "pixel_mean": torch.zeros(3), "neck.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match="does not fit Detector"):
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
