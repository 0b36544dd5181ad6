"""Pictures of the fusion: which part of the maps lies where on the image, how they are coloured, what is written."""

import os

from asff_d2.fusion import ASFFNeck
from dense_d2.config import load_config
from dense_d2.data import DenseMapper, LetterboxResize
from dense_d2.drawing import colour_of
from dense_d2.errors import UserError
from tests.asff_d2.tiny import tiny_asff
from tests.yolox_d2.tiny import TinyPyramid, tiny_yolox
from tools.visualize_fusion import FusionView, draw_fusion, main, normalise, overlay, restore, view_fusion

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from PIL import Image, ImageColor

CONFIG = "configs/asff/asff_thin_bccd.py"
NARROW = (
    "model.backbone.bottom_up.bottom_up.base_channels=4",
    "model.backbone.bottom_up.channels=8",
    "model.backbone.widen={p3: 16}",
    "model.backbone.out_channels=[16,16,16]",
    "dataloader.test.mapper.augmentations.0.size=64",
)


def picture(path, height=60, width=90):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(image).save(path)
    return str(path)


def test_maps_lie_where_the_image_is():
    column = np.float32(
        [[[0], [1], [2], [3]]]
    )  # 8 pixels a cell; the image is the upper half, at a quarter of its size
    restored = restore(column, (32, 8), (16, 8), (4, 2))
    np.testing.assert_allclose(restored[0], np.repeat([[0], [0.25], [0.75], [1.25]], 2, axis=1))
    row = column.transpose(0, 2, 1)
    np.testing.assert_allclose(restore(row, (8, 32), (8, 16), (2, 4))[0], np.repeat([[0, 0.25, 0.75, 1.25]], 2, axis=0))


def test_the_maps_of_a_level_share_one_scale():
    maps = np.float32([[[0.2, 0.4]], [[0.8, 0.6]]])
    np.testing.assert_allclose(normalise(maps), [[[0, 1 / 3]], [[1, 2 / 3]]], rtol=1e-6)
    assert not normalise(np.full((2, 2), 0.5, dtype=np.float32)).any()


def test_blue_is_least_and_red_most():
    colours = overlay(np.full((1, 2, 3), 100, dtype=np.uint8), np.float32([[0, 1]])).astype(int)
    (r0, g0, b0), (r1, g1, b1) = colours[0]
    assert g0 == g1 == 60 and r0 == 60 < b0 and b1 == 60 < r1  # 0.6 of the image


def test_figure_names_and_colours_the_level_of_a_box():
    size = (90, 120)
    found = Instances(
        size,
        pred_boxes=Boxes([[20.0, 30.0, 60.0, 70.0], [70.0, 40.0, 100.0, 80.0]]),
        scores=torch.tensor([0.4, 0.9]),
        pred_classes=torch.tensor([1, 0]),
    )
    ramp = np.linspace(0, 1, 90 * 120, dtype=np.float32).reshape(size)
    weights = tuple(np.stack([(1 - ramp) / 2, ramp, (1 - ramp) / 2]) for _ in range(3))
    view = FusionView(found, (2, 3), (32, 16, 8), weights, (ramp, ramp, 1 - ramp))
    image = np.zeros((*size, 3), dtype=np.uint8)
    figure, maps = draw_fusion(image, view, ["a", "b"], threshold=0.5)
    left = figure[:, : figure.shape[1] // 3]
    shows = {n: (left == ImageColor.getrgb(colour_of(n))).all(axis=2).any() for n in range(4)}
    assert shows == {0: False, 1: False, 2: False, 3: True}  # the box of level 2 scores too little
    assert len(maps) == 12 and all(one.shape == (*size, 3) for one in maps.values())
    np.testing.assert_array_equal(maps["level_1_weight_2"], overlay(image, ramp))
    # half of the weight is the middle of the scale, not its end
    np.testing.assert_array_equal(maps["level_1_weight_1"], overlay(image, (1 - ramp) / 2))
    np.testing.assert_array_equal(maps["fused_feature_level_3"], overlay(image, 1 - ramp))
    assert not image.any()

    unknown, _ = draw_fusion(image, view._replace(levels=None), ["a", "b"], threshold=0.3)
    assert (unknown[:, : figure.shape[1] // 3] == ImageColor.getrgb(colour_of(1))).all(axis=2).any()  # by class


def test_view_is_what_the_detector_does():
    model = tiny_asff(test_score_thresh=0.3).eval()
    generator = torch.Generator().manual_seed(3)
    image = torch.randint(0, 256, (3, 40, 72), generator=generator, dtype=torch.uint8)  # padded to 64 x 96
    sample = {"image": image, "height": 80, "width": 144}
    view = view_fusion(model, sample)
    with torch.no_grad():
        expected = model([sample])[0]["instances"]
    assert len(expected.pred_levels.unique()) > 1
    assert torch.equal(view.detections.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert view.levels == tuple(3 - level for level in expected.pred_levels.tolist())
    assert view.strides == (32, 16, 8)
    assert [weights.shape for weights in view.weights] == [(3, 80, 144)] * 3
    assert all(np.allclose(weights.sum(axis=0), 1, atol=1e-5) for weights in view.weights)
    assert [activation.shape for activation in view.activations] == [(80, 144)] * 3
    with torch.no_grad():
        inputs = model.preprocess_image([sample]).tensor
        _, weights, fused = model.backbone.fuse(model.backbone.bottom_up(inputs), return_weights=True)
    for found, maps in ((view.weights, weights["p3"]), ([x[None] for x in view.activations], fused["p3"].sum(1)[None])):
        finest = restore(maps[0].numpy(), (64, 96), (40, 72), (80, 144))
        np.testing.assert_allclose(found[2], finest, rtol=1e-5, atol=1e-6)


def test_another_detector_with_the_neck(tmp_path):
    model = tiny_yolox(backbone=ASFFNeck(bottom_up=TinyPyramid(), compress_channels=4)).eval()
    record = {"file_name": picture(tmp_path / "a.png")}
    view = view_fusion(model, DenseMapper(False, augmentations=[LetterboxResize(64)])(record))
    assert view.levels is None and view.activations[0].shape == (60, 90)


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    cfg = load_config(CONFIG, NARROW)
    path = str(tmp_path / "thin.pth")
    torch.save({"model": instantiate(cfg.model).state_dict()}, path)
    return path


def test_writes_a_folder_for_each_image(tmp_path, weights, capsys):
    images = [picture(tmp_path / "a.png"), picture(tmp_path / "b.jpg", 80, 50)]
    output = tmp_path / "out"
    main(["--config-file", CONFIG, "--weights", weights, "--input", *images, "--output", str(output), *NARROW])
    expected = {"fusion.png", *(f"fused_feature_level_{n}.png" for n in (1, 2, 3))}
    expected |= {f"level_{level}_weight_{source}.png" for level in (1, 2, 3) for source in (1, 2, 3)}
    assert sorted(os.listdir(output)) == ["00_a", "01_b"]
    assert all(set(os.listdir(output / name)) == expected for name in ("00_a", "01_b"))
    assert Image.open(output / "01_b" / "level_2_weight_3.png").size == (50, 80)
    assert capsys.readouterr().out.split() == [str(output / name / "fusion.png") for name in ("00_a", "01_b")]


@pytest.mark.parametrize("fusion", ["sum", "none"])
def test_a_fusion_without_weights_is_an_error(fusion, tmp_path):
    with pytest.raises(UserError, match=f"fusion={fusion} has no weights"):
        view_fusion(tiny_asff(fusion=fusion).eval(), {})


def test_a_detector_without_the_neck_is_an_error():
    with pytest.raises(UserError, match="only ASFFNeck"):
        view_fusion(tiny_yolox().eval(), {})
