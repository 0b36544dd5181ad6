"""The third-party behaviour that the code relies on, and the repairs that make v0.6 run."""

import inspect
import subprocess
import sys

from dense_d2 import compat

import numpy as np
import pytest
import torch
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import ImageList


class Backbone:
    size_divisibility = 32


def test_batch_images_pads_bottom_right_to_the_multiple():
    images = [torch.ones(3, 40, 50), torch.ones(3, 20, 65)]
    batch = compat.batch_images(images, Backbone(), pad_value=7.0)
    assert isinstance(batch, ImageList)
    assert batch.tensor.shape == (2, 3, 64, 96)
    assert batch.image_sizes == [(40, 50), (20, 65)]
    assert batch.tensor[0, 0, 39, 49] == 1 and batch.tensor[0, 0, 40, 0] == 7 and batch.tensor[0, 0, 0, 50] == 7


def test_missing_operators_raise_only_when_called_and_say_why():
    if compat.has_compiled_ops():
        pytest.skip("Detectron2 has its compiled operators")
    from detectron2 import _C

    operator = _C.nms_rotated  # looking is fine
    with pytest.raises(RuntimeError, match="nms_rotated was called.*without its compiled operators"):
        operator(1, 2)


def test_numpy_and_pillow_names_that_v06_needs():
    import PIL.Image

    assert vars(np)["int"] is int
    assert PIL.Image.LINEAR == PIL.Image.BILINEAR


def test_stock_evaluator_still_has_the_seams_we_override():
    assert {"predictions"} <= set(inspect.signature(COCOEvaluator._eval_predictions).parameters)
    derive = inspect.signature(COCOEvaluator._derive_coco_results)
    assert {"coco_eval", "iou_type", "class_names"} <= set(derive.parameters)


def test_environment_report_works_and_names_the_pair():
    report = subprocess.run([sys.executable, "-m", "dense_d2.env"], capture_output=True, text=True)
    assert report.returncode == 0, report.stdout + report.stderr
    assert "torchvision" in report.stdout and "This environment works." in report.stdout


def test_environment_report_survives_a_broken_torchvision(tmp_path):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    report = subprocess.run(
        [sys.executable, "-m", "dense_d2.env"], capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)}
    )
    assert report.returncode == 1
    assert "PROBLEM: torchvision cannot be imported: operator torchvision::nms does not exist" in report.stdout
