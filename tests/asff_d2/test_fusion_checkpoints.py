"""What was trained without the fusion starts a detector that has it."""

from dense_d2.checkpoint import CheckpointError, DenseCheckpointer
from tests.asff_d2.test_fusion_everywhere import build
from tests.yolox_d2.test_released import csp_model

import pytest
import torch


def test_released_yolox_starts_all_but_the_fusion(tmp_path):
    """The authors' names, as in tests/yolox_d2/test_released.py."""
    torch.manual_seed(0)
    state = {name: torch.rand(shape) for name, shape in csp_model(8, 32, 1, k=3).items()}
    state["backbone.backbone.stem.conv.bn.weight"] *= 1e-3  # made for pixels of 0 to 255
    path = str(tmp_path / "yolox.pth")
    torch.save({"model": state}, path)
    model = build("yolox")
    before = {name: value.clone() for name, value in model.state_dict().items() if "num_batches" not in name}
    with pytest.raises(CheckpointError, match=r"a detector without backbone\.levels"):
        DenseCheckpointer(model).load(path, whole=True)
    DenseCheckpointer(model).load(path)
    kept = {name for name in before if torch.equal(model.state_dict()[name], before[name])}
    assert kept == {name for name in before if name.startswith("backbone.levels.")}
    assert torch.equal(model.backbone.bottom_up.reduce5.conv.weight, state["backbone.lateral_conv0.conv.weight"])


def test_imagenet_resnet_starts_the_trunk_below_both_necks(tmp_path):
    model = build("vfnet")
    trunk = model.backbone.bottom_up.bottom_up
    state = {name: torch.full_like(value, 0.25) for name, value in trunk.state_dict().items()}
    path = str(tmp_path / "resnet.pth")
    torch.save({**state, "fc.weight": torch.zeros(10, 256)}, path)
    DenseCheckpointer(model).load(path)
    assert all((value == 0.25).all() for name, value in trunk.state_dict().items() if "num_batches" not in name)
