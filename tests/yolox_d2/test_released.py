"""The authors' names, written down from the description of their checkpoints, against our networks; and their pixels."""

import logging
import os
import re

from dense_d2.checkpoint import CheckpointError, DenseCheckpointer
from dense_d2.config import load_config
from yolox_d2.released import RAW_PIXELS, from_author

import pytest
import torch
from detectron2.config import instantiate

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def block(name, shape):
    out = {f"{name}.conv.weight": shape}
    out.update((f"{name}.bn.{key}", () if key == "num_batches_tracked" else shape[:1]) for key in NORM)
    return out


def csp(name, c_in, c_out, repeats, spatial):
    half = c_out // 2
    out = {**block(f"{name}.conv1", (half, c_in, 1, 1)), **block(f"{name}.conv2", (half, c_in, 1, 1))}
    out.update(block(f"{name}.conv3", (c_out, 2 * half, 1, 1)))
    for i in range(repeats):
        out.update(block(f"{name}.m.{i}.conv1", (half, half, 1, 1)))
        out.update(spatial(f"{name}.m.{i}.conv2", half, half))
    return out


def full(name, c_in, c_out):
    return block(name, (c_out, c_in, 3, 3))


def depthwise(name, c_in, c_out):
    return {**block(f"{name}.dconv", (c_in, 1, 3, 3)), **block(f"{name}.pconv", (c_out, c_in, 1, 1))}


def csp_model(c, h, n, spatial=full, k=80):
    out = block("backbone.backbone.stem.conv", (c, 12, 3, 3))
    for stage in range(2, 6):
        channels = c * 2 ** (stage - 1)
        name = f"backbone.backbone.dark{stage}"
        out.update(spatial(f"{name}.0", channels // 2, channels))
        if stage == 5:
            out.update(block(f"{name}.1.conv1", (8 * c, 16 * c, 1, 1)))
            out.update(block(f"{name}.1.conv2", (16 * c, 32 * c, 1, 1)))
        out.update(
            csp(f"{name}.{2 if stage == 5 else 1}", channels, channels, 3 * n if stage in (3, 4) else n, spatial)
        )
    out.update(block("backbone.lateral_conv0", (8 * c, 16 * c, 1, 1)))
    out.update(block("backbone.reduce_conv1", (4 * c, 8 * c, 1, 1)))
    for name, c_in, c_out in (("C3_p4", 16, 8), ("C3_p3", 8, 4), ("C3_n3", 8, 8), ("C3_n4", 16, 16)):
        out.update(csp(f"backbone.{name}", c_in * c, c_out * c, n, spatial))
    out.update(spatial("backbone.bu_conv2", 4 * c, 4 * c))
    out.update(spatial("backbone.bu_conv1", 8 * c, 8 * c))
    return {**out, **head((4 * c, 8 * c, 16 * c), h, spatial, k)}


def head(channels, h, spatial, k):
    out = {}
    for i, c in enumerate(channels):
        out.update(block(f"head.stems.{i}", (h, c, 1, 1)))
        for tower in ("cls_convs", "reg_convs"):
            for j in range(2):
                out.update(spatial(f"head.{tower}.{i}.{j}", h, h))
        for name, numbers in (("cls_preds", k), ("reg_preds", 4), ("obj_preds", 1)):
            out.update({f"head.{name}.{i}.weight": (numbers, h, 1, 1), f"head.{name}.{i}.bias": (numbers,)})
    return out


def darknet53_model():
    def residual(name, c):
        return {
            **block(f"{name}.layer1", (c // 2, c, 1, 1)),
            **block(f"{name}.layer2", (c, c // 2, 3, 3)),
        }

    name = "backbone.backbone"
    out = {**full(f"{name}.stem.0", 3, 32), **full(f"{name}.stem.1", 32, 64), **residual(f"{name}.stem.2", 64)}
    for stage, repeats in zip(range(2, 6), (2, 8, 8, 4)):
        c = 32 * 2**stage
        out.update(full(f"{name}.dark{stage}.0", c // 2, c))
        for i in range(1, repeats + 1):
            out.update(residual(f"{name}.dark{stage}.{i}", c))
    for part, shape in (
        ("dark5.5", (512, 1024, 1, 1)),
        ("dark5.6", (1024, 512, 3, 3)),
        ("dark5.7.conv1", (512, 1024, 1, 1)),
        ("dark5.7.conv2", (512, 2048, 1, 1)),
        ("dark5.8", (1024, 512, 3, 3)),
        ("dark5.9", (512, 1024, 1, 1)),
    ):
        out.update(block(f"{name}.{part}", shape))
    for part, c, c_in in (("out1", 256, 768), ("out2", 128, 384)):
        out.update(block(f"backbone.{part}_cbl", (c, 2 * c, 1, 1)))
        shapes = ((c, c_in, 1, 1), (2 * c, c, 3, 3), (c, 2 * c, 1, 1), (2 * c, c, 3, 3), (c, 2 * c, 1, 1))
        for i, shape in enumerate(shapes):
            out.update(block(f"backbone.{part}.{i}", shape))
    return {**out, **head((128, 256, 512), 256, full, 80)}


MODELS = {
    "yolox_nano": (lambda: csp_model(16, 64, 1, depthwise), 642),
    "yolox_tiny": (lambda: csp_model(24, 96, 1), 462),
    "yolox_s": (lambda: csp_model(32, 128, 1), 462),
    "yolox_m": (lambda: csp_model(48, 192, 2), 606),
    "yolox_l": (lambda: csp_model(64, 256, 3), 750),
    "yolox_x": (lambda: csp_model(80, 320, 4), 894),
    "yolox_darknet53": (darknet53_model, 528),
}


@pytest.mark.parametrize("row", MODELS)
def test_released_names_and_shapes_fit(row):
    make, count = MODELS[row]
    released = make()
    assert len(released) == count
    with torch.device("meta"):
        model = instantiate(load_config(os.path.join(ROOT, f"configs/yolox/{row}.py")).model)
        state = {name: torch.zeros(shape) for name, shape in released.items()}
    for name in state:  # the scale of the first block is read
        if ".stem." in name:
            state[name] = torch.ones(released[name])
    renamed = {name: tuple(value.shape) for name, value in from_author(state).items() if name not in RAW_PIXELS}
    assert renamed == {name: tuple(value.shape) for name, value in model.state_dict().items()}


def released_nano(path, gain):
    generator = torch.Generator().manual_seed(0)
    state = {
        name: 0.1 * torch.rand(shape, generator=generator) for name, shape in csp_model(16, 64, 1, depthwise).items()
    }
    stem = "backbone.backbone.stem.conv"
    weight = state[f"{stem}.conv.weight"]
    state[f"{stem}.bn.running_var"] = torch.full((16,), 4.0)
    state[f"{stem}.bn.weight"] = 2 * gain / weight.flatten(1).norm(dim=1) * torch.tensor([1.0, -1.0]).repeat(8)
    torch.save({"model": state, "start_epoch": 300}, path)
    return str(path)


def nano(*overrides):
    return instantiate(load_config(os.path.join(ROOT, "configs/yolox/yolox_nano.py"), overrides).model)


def test_files_of_july_2021_need_rgb_and_normalised_pixels(tmp_path):
    path = released_nano(tmp_path / "legacy.pth", gain=1.0)
    with pytest.raises(CheckpointError, match=r"model\.pixel_mean=\[123\.675,.*model\.input_format=RGB"):
        DenseCheckpointer(nano()).load(path)
    pixels = ["model.pixel_mean=[123.675,116.28,103.53]", "model.pixel_std=[58.395,57.12,57.375]"]
    with pytest.raises(CheckpointError, match=r"input_format=RGB, the config has BGR.*model\.pixel_mean=\[123\.675,"):
        DenseCheckpointer(nano(*pixels)).load(path)
    DenseCheckpointer(nano(*pixels, "model.input_format=RGB")).load(path)


def test_current_files_need_raw_pixels(tmp_path):
    path = released_nano(tmp_path / "current.pth", gain=0.015)
    DenseCheckpointer(nano()).load(path)
    with pytest.raises(CheckpointError, match=r"model\.pixel_std=\[1\.0,1\.0,1\.0\]"):
        DenseCheckpointer(nano("model.pixel_std=[58.395,57.12,57.375]")).load(path)


def test_a_gain_in_between_is_told(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("yolox_d2"), "propagate", True)  # a run's log file turns it off
    for gain, told in ((0.015, False), (0.1, True)):
        with caplog.at_level(logging.WARNING, "yolox_d2.released"):
            DenseCheckpointer(nano()).load(released_nano(tmp_path / "x.pth", gain))
        assert ("gain" in caplog.text) == told
    assert re.search(r"is 0\.100; .*model\.pixel_mean=\[0\.0,0\.0,0\.0\].*model\.input_format=RGB", caplog.text)


def test_ours_is_not_taken_for_theirs():
    with torch.device("meta"):
        model = instantiate(load_config(os.path.join(ROOT, "configs/yolox/yolox_darknet53.py")).model)
    assert from_author(model.state_dict()) is None
