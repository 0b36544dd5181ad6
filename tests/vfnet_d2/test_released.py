"""Key names of the released files, typed out from mmdetection's modules, against the rows' networks."""

import os

from dense_d2.checkpoint import CheckpointError, DenseCheckpointer
from dense_d2.config import load_config
from vfnet_d2.released import from_imagenet, from_mmdet

import numpy as np
import pytest
import torch
from detectron2.config import instantiate

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class Names(dict):
    """name -> shape, in mmdetection's naming."""

    def conv(self, name, out_channels, in_channels, kernel, *, groups=1, bias=False, deform=False):
        self[f"{name}.weight"] = (out_channels, in_channels // groups, kernel, kernel)
        if bias:
            self[f"{name}.bias"] = (out_channels,)
        if deform:
            self.conv(f"{name}.conv_offset", 27, in_channels, kernel, bias=True)

    def bn(self, name, channels):
        for entry in ("weight", "bias", "running_mean", "running_var"):
            self[f"{name}.{entry}"] = (channels,)
        self[f"{name}.num_batches_tracked"] = ()

    def conv_gn(self, name, out_channels, in_channels, **options):
        self.conv(f"{name}.conv", out_channels, in_channels, 3, **options)
        self[f"{name}.gn.weight"] = self[f"{name}.gn.bias"] = (out_channels,)


def resnet(names, depth, groups=1, base=64, deform=False, prefix="backbone."):
    names.conv(f"{prefix}conv1", 64, 3, 7)
    names.bn(f"{prefix}bn1", 64)
    before = 64
    for i, blocks in enumerate(BLOCKS[depth]):
        width, out = groups * base * 2**i, 256 * 2**i
        for block in range(blocks):
            name = f"{prefix}layer{i + 1}.{block}"
            names.conv(f"{name}.conv1", width, before, 1)
            names.conv(f"{name}.conv2", width, width, 3, groups=groups)
            if deform and i > 0:
                names.conv(f"{name}.conv2.conv_offset", 27, width, 3, bias=True)
            names.conv(f"{name}.conv3", out, width, 1)
            for k, channels in enumerate((width, width, out), start=1):
                names.bn(f"{name}.bn{k}", channels)
            if block == 0:
                names.conv(f"{name}.downsample.0", out, before, 1)
                names.bn(f"{name}.downsample.1", out)
            before = out


def res2net(names, depth=101, deform=False, prefix="backbone."):
    for index, (out, before) in zip((0, 3, 6), ((32, 3), (32, 32), (64, 32))):
        names.conv(f"{prefix}stem.{index}", out, before, 3)
        names.bn(f"{prefix}stem.{index + 1}", out)
    before = 64
    for i, (blocks, width) in enumerate(zip(BLOCKS[depth], (26, 52, 104, 208))):
        out = 256 * 2**i
        for block in range(blocks):
            name = f"{prefix}layer{i + 1}.{block}"
            names.conv(f"{name}.conv1", 4 * width, before, 1)
            names.bn(f"{name}.bn1", 4 * width)
            for k in range(3):
                names.conv(f"{name}.convs.{k}", width, width, 3, deform=deform and i > 0)
                names.bn(f"{name}.bns.{k}", width)
            names.conv(f"{name}.conv3", out, 4 * width, 1)
            names.bn(f"{name}.bn3", out)
            if block == 0:
                names.conv(f"{name}.downsample.1", out, before, 1)
                names.bn(f"{name}.downsample.2", out)
            before = out


def fpn(names):
    for i, channels in enumerate((512, 1024, 2048)):
        names.conv(f"neck.lateral_convs.{i}.conv", 256, channels, 1, bias=True)
    for i in range(5):
        names.conv(f"neck.fpn_convs.{i}.conv", 256, 256, 3, bias=True)


def pafpnx(names):
    for i, channels in enumerate((512, 1024, 2048)):
        names.conv(f"neck.lateral_convs.{i}.conv", 384, channels, 1, bias=True)
        names.conv_gn(f"neck.pafpn_convs.{i}", 384, 384, deform=True)
    for i in range(5):
        names.conv_gn(f"neck.fpn_convs.{i}", 384, 384)
    for i in range(2):
        names.conv_gn(f"neck.downsample_convs.{i}", 384, 384)


def head(names, channels=256, num_convs=3, deform=False, raw=False):
    for i in range(num_convs):
        for tower in ("cls_convs", "reg_convs"):
            names.conv_gn(f"bbox_head.{tower}.{i}", channels, channels, deform=deform and i == num_convs - 1)
    names.conv_gn("bbox_head.vfnet_reg_conv", channels, channels)
    names.conv("bbox_head.vfnet_reg", 4, channels, 3, bias=True)
    names.conv("bbox_head.vfnet_cls", 80, channels, 3, bias=True)
    names.update({f"bbox_head.scales.{i}.scale": () for i in range(5)})
    if raw:
        names.conv_gn("bbox_head.vfnet_cls_conv", channels, channels)
        return
    names.update({f"bbox_head.scales_refine.{i}.scale": () for i in range(5)})
    names.conv("bbox_head.vfnet_reg_refine_dconv", channels, channels, 3)
    names.conv("bbox_head.vfnet_reg_refine", 4, channels, 3, bias=True)
    names.conv("bbox_head.vfnet_cls_dconv", channels, channels, 3)


def model_of(row, **head_options):
    cfg = load_config(os.path.join(ROOT, "configs", "vfnet", f"{row}.py"))
    cfg.model.head.update(head_options)
    with torch.device("meta"):
        return instantiate(cfg.model)


def meta(names):
    return {name: torch.empty(shape, device="meta") for name, shape in names.items()}


def check_fit(state, model):
    """Every tensor of the model but the counters of its norms, and no other."""
    ours = {k: tuple(v.shape) for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert {name: tuple(value.shape) for name, value in state.items()} == ours


ZOO = {
    "vfnet_r50_1x": (373, resnet, dict(depth=50)),
    "vfnet_r50_dcn_ms_2x": (403, resnet, dict(depth=50, deform=True)),
    "vfnet_r101_1x": (679, resnet, dict(depth=101)),
    "vfnet_r101_dcn_ms_2x": (743, resnet, dict(depth=101, deform=True)),
    "vfnet_x101_32x4d_ms_2x": (679, resnet, dict(depth=101, groups=32, base=4)),
    "vfnet_x101_64x4d_dcn_ms_2x": (743, resnet, dict(depth=101, groups=64, base=4, deform=True)),
    "vfnet_r2_101_ms_2x": (1087, res2net, dict()),
    "vfnet_r2_101_dcn_ms_2x": (1271, res2net, dict(deform=True)),
}


@pytest.mark.parametrize("row", ZOO)
def test_released_models_fit(row):
    count, trunk, options = ZOO[row]
    names = Names()
    trunk(names, **options)
    fpn(names)
    head(names, deform=options.get("deform", False))
    assert len(names) == count
    check_fit(from_mmdet(meta(names)), model_of(row))


def test_vfnetx_and_raw_head_fit():
    names = Names()
    res2net(names, deform=True)
    pafpnx(names)
    head(names, channels=384, num_convs=4, deform=True)
    assert len(names) == 1303
    check_fit(from_mmdet(meta(names)), model_of("vfnetx_r2_101_dcn_59e"))

    names = Names()
    resnet(names, depth=50)
    fpn(names)
    head(names, raw=True)
    check_fit(from_mmdet(meta(names)), model_of("vfnet_r50_1x", star_conv=False, refine=False))


def test_r50_names_are_those_of_the_reference():
    names = Names()
    resnet(names, depth=50)
    fpn(names)
    head(names)
    reference = np.load(os.path.join(ROOT, "tests", "parity", "vfnet_r50.npz"))
    assert set(names) == set(map(str, reference["keys"]))


def test_each_tensor_goes_to_its_place():
    names = Names()
    resnet(names, depth=50, deform=True)
    fpn(names)
    head(names, deform=True)
    state = meta(names)
    # files of 2019 keep the offsets beside the convolution
    old = {name.replace("conv2.conv_offset", "conv2_offset"): value for name, value in state.items()}
    for ours, theirs in {
        "backbone.bottom_up.stem.conv1.norm.running_var": "backbone.bn1.running_var",
        "backbone.bottom_up.res4.5.conv2.norm.weight": "backbone.layer3.5.bn2.weight",
        "backbone.bottom_up.res5.0.shortcut.weight": "backbone.layer4.0.downsample.0.weight",
        "backbone.bottom_up.res5.0.shortcut.norm.bias": "backbone.layer4.0.downsample.1.bias",
        "backbone.bottom_up.res3.1.conv2.conv_offset.bias": "backbone.layer2.1.conv2.conv_offset.bias",
        "backbone.fpn_lateral3.weight": "neck.lateral_convs.0.conv.weight",
        "backbone.fpn_output5.bias": "neck.fpn_convs.2.conv.bias",
        "backbone.top_block.p6.weight": "neck.fpn_convs.3.conv.weight",
        "head.reg_convs.2.conv.conv_offset.weight": "bbox_head.reg_convs.2.conv.conv_offset.weight",
        "head.cls_convs.0.norm.bias": "bbox_head.cls_convs.0.gn.bias",
        "head.scales_refine.4": "bbox_head.scales_refine.4.scale",
    }.items():
        assert from_mmdet(state)[ours] is state[theirs]
        assert from_mmdet(old)[ours] is state[theirs]
    names = Names()
    res2net(names)
    fpn(names)
    state = meta(names)
    for ours, theirs in {
        "stem.conv2.weight": "stem.3.weight",
        "stem.conv3.norm.weight": "stem.7.weight",
        "res2.0.shortcut.norm.weight": "layer1.0.downsample.2.weight",
        "res4.7.convs.1.norm.bias": "layer3.7.bns.1.bias",
    }.items():
        assert from_mmdet(state)[f"backbone.bottom_up.{ours}"] is state[f"backbone.{theirs}"]
    assert from_mmdet({"head.scales.0": 0}) is None and from_imagenet(state) is None


@pytest.mark.parametrize("trunk, row", [(resnet, "vfnet_r50_1x"), (res2net, "vfnet_r2_101_dcn_ms_2x")])
def test_imagenet_trunks_fit(trunk, row):
    names = Names({"fc.weight": (1000, 2048), "fc.bias": (1000,)})
    trunk(names, depth=101 if trunk is res2net else 50, prefix="")
    expected = {k: tuple(v.shape) for k, v in model_of(row).backbone.bottom_up.state_dict().items()}
    expected = {
        f"backbone.bottom_up.{k}": shape
        for k, shape in expected.items()
        if "conv_offset" not in k and not k.endswith("num_batches_tracked")
    }
    state = meta(names)
    for prefix in ("", "backbone."):
        # OpenMMLab's classifiers have their trunk under a name, and other layers beside it
        file = {("head." if prefix and "fc." in name else prefix) + name: value for name, value in state.items()}
        if prefix:
            file["averaged"] = 0
        renamed = from_imagenet(file)
        assert {name: tuple(value.shape) for name, value in renamed.items()} == expected
    assert from_mmdet(state) is None and from_imagenet({"backbone.bottom_up.res2.0.conv1.weight": 0}) is None


def test_imagenet_weights_start_a_deformable_trunk(tmp_path):
    """In Detectron2's naming of torchvision's file, which keeps the classifier."""
    model = instantiate(load_config(os.path.join(ROOT, "configs/vfnet/vfnet_r50_dcn_ms_2x.py")).model)
    trunk = model.backbone.bottom_up
    state = {k: torch.full_like(v, 0.25) for k, v in trunk.state_dict().items() if "conv_offset" not in k}
    path = str(tmp_path / "imagenet.pth")
    torch.save({**state, "stem.fc.weight": torch.zeros(1)}, path)
    lateral = model.backbone.fpn_lateral3.weight.clone()
    with pytest.raises(CheckpointError, match="only a backbone"):
        DenseCheckpointer(model).load(path, whole=True)
    DenseCheckpointer(model).load(path)
    loaded = trunk.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items() if value.is_floating_point())
    assert not trunk.res3[0].conv2.conv_offset.weight.any()
    assert torch.equal(model.backbone.fpn_lateral3.weight, lateral)
    del state["res5.2.conv3.weight"]
    torch.save(state, path)
    with pytest.raises(CheckpointError, match="not in the file: backbone.bottom_up.res5.2.conv3.weight"):
        DenseCheckpointer(model).load(path)
