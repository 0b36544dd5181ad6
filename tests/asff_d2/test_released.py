"""Key names of the released files: ASFF's from the parity reference, the others typed out from the facts."""

import os

from asff_d2.released import flags_of, from_author, from_imagenet, from_torchvision
from dense_d2.checkpoint import CheckpointError
from tools.analyze_model import analyze

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
TRUNK = "backbone.bottom_up.bottom_up."
# model: (file, fusion, compress_channels, rfb, parameters, state_dict entries)
MODELS = {
    "baseline": ("asff", "none", 16, False, 75_554_428, 462),
    "baseline_rfb": ("asff", "none", 16, True, 82_181_692, 516),
    "asff": ("asff", "asff", 16, False, 79_409_493, 558),
    "asff_star": ("asff", "asff", 8, True, 86_011_821, 612),
    "mobile": ("asff_mobilenetv2", "none", 16, False, 24_800_532, 450),
    "mobile_asff": ("asff_mobilenetv2", "asff", 16, False, 27_141_613, 546),
}


def build(name):
    file, fusion, compress, rfb, _, _ = MODELS[name]
    model = LazyConfig.load(os.path.join(ROOT, f"configs/common/models/{file}.py")).model
    model.backbone.update(fusion=fusion, compress_channels=compress)
    model.head.rfb = rfb
    with torch.device("meta"):
        return instantiate(model)


class State(dict):
    """A released state dict, of empty tensors."""

    def conv(self, prefix, out_channels, in_channels, kernel, bias=True, groups=1):
        self[f"{prefix}.weight"] = torch.empty(out_channels, in_channels // groups, kernel, kernel, device="meta")
        if bias:
            self[f"{prefix}.bias"] = torch.empty(out_channels, device="meta")

    def norm(self, prefix, channels):
        for name in ("weight", "bias", "running_mean", "running_var"):
            self[f"{prefix}.{name}"] = torch.empty(channels, device="meta")
        self[f"{prefix}.num_batches_tracked"] = torch.empty((), dtype=torch.int64, device="meta")

    def cbl(self, prefix, in_channels, out_channels, kernel):
        self.conv(f"{prefix}.conv", out_channels, in_channels, kernel, bias=False)
        self.norm(f"{prefix}.batch_norm", out_channels)

    def pair(self, prefix, channels, count=1):
        for block in range(count):
            self.cbl(f"{prefix}.module_list.{block}.0", channels, channels // 2, 1)
            self.cbl(f"{prefix}.module_list.{block}.1", channels // 2, channels, 3)

    def head(self, prefix, channels, rfb=False, adaption=True):
        self.conv(f"{prefix}.guide_wh", 8, channels, 1)
        if adaption:
            self.conv(f"{prefix}.Feature_adaption.conv_offset", 72, 8, 1, groups=4)
            self.conv(f"{prefix}.Feature_adaption.dconv", channels, channels, 3)
        self.conv(f"{prefix}.conv", 340, channels, 1)
        quarter = channels // 4
        for branch, kernels in enumerate(((1,), (1, 3), (1, 3, 3), (1, 5, 3)) if rfb else ()):
            for i, kernel in enumerate(kernels):
                name = f"{prefix}.Feature_adaption.rfb.branch_{branch}.{i}"
                self.conv(name, quarter, quarter if i else channels, kernel)

    def fusion(self, prefix, level, convs, inter, out_channels, compress):
        for name, in_channels, channels, kernel in convs:
            self.cbl(f"{prefix}.{name}", in_channels, channels, kernel)
        for n in range(3):
            self.cbl(f"{prefix}.weight_level_{n}", inter, compress, 1)
        self.conv(f"{prefix}.weight_levels", 3, 3 * compress, 1)
        self.cbl(f"{prefix}.expand", inter, out_channels, 3)


def darknet(state):
    state.cbl("module_list.0", 3, 32, 3)
    for i, (channels, count) in enumerate(((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4))):
        state.cbl(f"module_list.{2 * i + 1}", channels // 2, channels, 3)
        state.pair(f"module_list.{2 * i + 2}", channels, count)


def baseline_state(rfb=False):
    state = State()
    darknet(state)
    state.pair("module_list.11", 1024)
    for n, sizes in {12: (1024, 512, 1), 14: (2048, 512, 1), 15: (512, 1024, 3), 17: (1024, 512, 1)}.items():
        state.cbl(f"module_list.{n}", *sizes)
    state.cbl("module_list.18", 512, 1024, 3)
    state.head("module_list.19", 1024, rfb)
    for n, sizes in {20: (512, 256, 1), 22: (768, 256, 1), 23: (256, 512, 3), 26: (512, 256, 1)}.items():
        state.cbl(f"module_list.{n}", *sizes)
    state.pair("module_list.25", 512)
    state.cbl("module_list.27", 256, 512, 3)
    state.head("module_list.28", 512, rfb)
    for n, sizes in {29: (256, 128, 1), 31: (384, 128, 1), 32: (128, 256, 3), 35: (256, 128, 1)}.items():
        state.cbl(f"module_list.{n}", *sizes)
    state.pair("module_list.34", 256)
    state.cbl("module_list.36", 128, 256, 3)
    state.head("module_list.37", 256, rfb)
    return state


def asff_state():
    reference = np.load(os.path.join(ROOT, "tests", "parity", "asff_yolov3.npz"))
    state = State()
    for key, shape in zip(reference["keys"], reference["shapes"]):
        shape = [int(side) for side in str(shape).split("x")] if str(shape) else []
        state[str(key)] = torch.empty(shape, device="meta")
    return state


def asff_star_state():
    state = State({key: value for key, value in asff_state().items() if not key.startswith("level_")})
    for level, channels in enumerate((1024, 512, 256)):
        state.head(f"level_{level}_header", channels, rfb=True)
    up = ("compress_level_0", 512, 256, 1)
    down = [("stride_level_1", 256, 512, 3), ("stride_level_2", 256, 512, 3)]
    state.fusion("level_0_fusion", 0, down, 512, 1024, 8)
    state.fusion("level_1_fusion", 1, [up, ("stride_level_2", 256, 256, 3)], 256, 512, 8)
    state.fusion("level_2_fusion", 2, [up], 256, 256, 8)
    return state


def mobile_state(fusion):
    """Backbone as torchvision names it; neck 19 to 39, with SPP at 22 and upsampling at 27 and 34."""
    from torchvision.models import mobilenet_v2

    with torch.device("meta"):
        features = mobilenet_v2().features.state_dict()
    state = State({f"module_list.{name}": value for name, value in features.items()})
    neck = [(1280, 512, 1), (512, 1024, 3), (1024, 512, 1), None, (2048, 512, 1), (512, 1024, 3), (1024, 512, 1)]
    neck += [(512, 256, 1), None, (352, 256, 1), (256, 512, 3), (512, 256, 1), (256, 512, 3), (512, 256, 1)]
    neck += [(256, 128, 1), None, (160, 128, 1), (128, 256, 3), (256, 128, 1), (128, 256, 3), (256, 128, 1)]
    for number, sizes in enumerate(neck, start=19):
        if sizes:
            state.cbl(f"module_list.{number}", *sizes)
    for level, channels in enumerate((1024, 512, 256)):
        state.head(f"level_{level}_header", channels, adaption=False)
        if not fusion:
            state.cbl(f"level_{level}_conv", channels // 2, channels, 3)
    if fusion:
        state.fusion(
            "level_0_conv", 0, [("stride_level_1", 256, 512, 3), ("stride_level_2", 128, 512, 3)], 512, 1024, 16
        )
        state.fusion(
            "level_1_conv", 1, [("compress_level_0", 512, 256, 1), ("stride_level_2", 128, 256, 3)], 256, 512, 16
        )
        up = [("compress_level_0", 512, 128, 1), ("compress_level_1", 256, 128, 1)]
        state.fusion("level_2_conv", 2, up, 128, 256, 16)
    return state


STATES = {
    "baseline": baseline_state,
    "baseline_rfb": lambda: baseline_state(rfb=True),
    "asff": asff_state,
    "asff_star": asff_star_state,
    "mobile": lambda: mobile_state(False),
    "mobile_asff": lambda: mobile_state(True),
}


@pytest.mark.parametrize("name", MODELS)
def test_names_shapes_and_size(name):
    model, released = build(name), STATES[name]()
    assert sum(p.numel() for p in model.parameters()) == MODELS[name][4]
    assert len(released) == MODELS[name][5]
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert {key: tuple(value.shape) for key, value in from_author(released).items()} == expected


def test_where_some_entries_go():
    """Shapes cannot tell layers of one shape apart; order in the trunk and these names do."""
    neck, trunk = "backbone.bottom_up", TRUNK[:-1]
    cases = {
        "baseline": {
            f"{trunk}.stem.conv.weight": "module_list.0.conv.weight",
            f"{trunk}.dark3.8.conv2.norm.bias": "module_list.6.module_list.7.1.batch_norm.bias",
            f"{neck}.p5.1.conv.weight": "module_list.11.module_list.0.1.conv.weight",
            f"{neck}.p5.7.conv.weight": "module_list.17.conv.weight",
            "backbone.levels.0.expand.conv.weight": "module_list.18.conv.weight",
            f"{neck}.lateral4.conv.weight": "module_list.20.conv.weight",
            f"{neck}.p4.3.conv1.conv.weight": "module_list.25.module_list.0.0.conv.weight",
            "backbone.levels.1.expand.norm.weight": "module_list.27.batch_norm.weight",
            f"{neck}.p3.4.conv.weight": "module_list.35.conv.weight",
            "backbone.widen.p3.conv.weight": "module_list.36.conv.weight",
            "head.levels.0.predict.weight": "module_list.37.conv.weight",
            "head.levels.2.guide_wh.bias": "module_list.19.guide_wh.bias",
            "head.levels.1.adaption.deform_conv.bias": "module_list.28.Feature_adaption.dconv.bias",
        },
        "asff_star": {
            f"{neck}.lateral4.conv.weight": "module_list.18.conv.weight",
            f"{neck}.p3.3.conv2.conv.weight": "module_list.30.module_list.0.1.conv.weight",
            "backbone.widen.p3.norm.running_var": "module_list.32.batch_norm.running_var",
            "backbone.levels.0.resize.1.0.conv.weight": "level_0_fusion.stride_level_1.conv.weight",
            "backbone.levels.0.resize.2.1.conv.weight": "level_0_fusion.stride_level_2.conv.weight",
            "backbone.levels.1.resize.0.0.conv.weight": "level_1_fusion.compress_level_0.conv.weight",
            "backbone.levels.1.resize.2.0.norm.bias": "level_1_fusion.stride_level_2.batch_norm.bias",
            "backbone.levels.2.weight_convs.1.norm.weight": "level_2_fusion.weight_level_1.batch_norm.weight",
            "backbone.levels.2.weight_logits.bias": "level_2_fusion.weight_levels.bias",
            "backbone.levels.1.expand.conv.weight": "level_1_fusion.expand.conv.weight",
            "head.levels.0.adaption.rfb.branches.3.1.weight": "level_2_header.Feature_adaption.rfb.branch_3.1.weight",
            "head.levels.2.adaption.conv_offset.weight": "level_0_header.Feature_adaption.conv_offset.weight",
        },
        "mobile_asff": {
            f"{trunk}.features.3.conv.0.0.weight": "module_list.3.conv.0.0.weight",
            f"{trunk}.features.18.1.weight": "module_list.18.1.weight",
            f"{neck}.p5.0.conv.weight": "module_list.19.conv.weight",
            f"{neck}.p3.4.norm.bias": "module_list.39.batch_norm.bias",
            "backbone.levels.2.resize.1.0.conv.weight": "level_2_conv.compress_level_1.conv.weight",
        },
    }
    for name, expected in cases.items():
        released = STATES[name]()
        renamed = from_author(released)
        for ours, theirs in expected.items():
            assert renamed[ours] is released[theirs], ours


def test_imagenet_backbone():
    state = State()
    darknet(state)
    state = {key: torch.zeros(value.shape) for key, value in state.items()}
    assert len(state) == 312 and flags_of(state) is None and from_author(state) is None
    expected = {key for key in build("baseline").state_dict() if key.startswith(TRUNK)}
    assert set(from_imagenet(state)) == expected
    without_counts = {key: value for key, value in state.items() if "num_batches" not in key}
    assert len(from_imagenet(without_counts)) == 260
    assert from_imagenet(baseline_state()) is None


def test_imagenet_backbone_of_the_mobile_models():
    from torchvision.models import mobilenet_v2

    with torch.device("meta"):
        state = mobilenet_v2().state_dict()
    expected = {k: v.shape for k, v in build("mobile").state_dict().items() if k.startswith(TRUNK)}
    assert {key: value.shape for key, value in from_torchvision(state).items()} == expected
    assert from_torchvision(mobile_state(True)) is None and from_author(state) is None


def test_half_precision_becomes_float():
    state = {key: value.half() for key, value in asff_state().items()}
    assert {value.dtype for value in from_author(state).values()} == {torch.float32}


def test_a_file_for_another_model_names_the_flags():
    model = build("asff")
    with pytest.raises(CheckpointError, match=r"compress_channels is 8 in the file, 16.*head.rfb=True\."):
        model._from_author(STATES["asff_star"]())
    with pytest.raises(CheckpointError, match=r"Use model.backbone.fusion=none\."):
        model._from_author(STATES["baseline"]())
    with pytest.raises(CheckpointError, match="Use a config of that backbone"):
        model._from_author(STATES["mobile_asff"]())


def test_other_files_are_not_ours():
    model = build("asff")
    assert model._from_author(model.state_dict()) is None and from_imagenet(model.state_dict()) is None


GFLOPS = {  # of convolutions, multiply and add counted apart; at 320, 416, 608, 800
    "baseline": [45.0, 76.0, 162.4, 281.1],
    "baseline_rfb": [48.0, 81.1, 173.3, 300.0],
    "asff": [47.9, 81.0, 173.0, 299.5],
    "asff_star": [50.9, 86.1, 183.8, 318.2],
    "mobile": [11.4, 19.2, 41.1, 71.1],
    "mobile_asff": [12.1, 20.4, 43.6, 75.4],
}


@pytest.mark.parametrize("name", MODELS)
def test_gflops(name):
    model = build(name).to_empty(device="cpu")
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.detach().zero_()  # offsets that are not numbers crash torchvision's deformable convolution
    smallest = 2 * analyze(model, 32, 32)["total"]["gflops_conv"]  # one cell on the coarsest level
    assert [round(smallest * (side / 32) ** 2, 1) for side in (320, 416, 608, 800)] == GFLOPS[name]
