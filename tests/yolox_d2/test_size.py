"""Parameters and GFLOPs of the paper's tables: two per multiply-add, batch norm and leaky ReLU counted (Tables 2 to 4)."""

import os

from dense_d2.config import load_config
from tools.analyze_model import analyze

import pytest
from detectron2.config import instantiate

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")

# row: parameters, side of the test images, GFLOPs
SIZES = {
    "yolox_nano": (912_159, 416, 1.079),
    "yolox_tiny": (5_055_855, 416, 6.450),
    "yolox_s": (8_968_255, 640, 26.805),
    "yolox_m": (25_326_495, 640, 73.754),
    "yolox_l": (54_208_895, 640, 155.649),
    "yolox_x": (99_071_455, 640, 281.929),
    "yolox_darknet53": (63_724_767, 640, 185.271),
}


@pytest.mark.parametrize("row", SIZES)
def test_parameters_and_gflops(row):
    parameters, side, gflops = SIZES[row]
    model = instantiate(load_config(os.path.join(ROOT, f"configs/yolox/{row}.py")).model)
    total = analyze(model, 64, 64)["total"]
    assert total["parameters"] == parameters
    assert total["gflops_thop"] * (side / 64) ** 2 == pytest.approx(gflops, abs=6e-4)
