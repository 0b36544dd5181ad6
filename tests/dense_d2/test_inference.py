import json
import logging
import math
import os

from dense_d2.evaluation import evaluate, float_results, write_results

import numpy as np
import pytest
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.testing import flatten_results_dict, print_csv_format
from torch import nn


class Model(nn.Module):
    """Its frozen part stays in eval mode while it trains. Waits 2 ms an image, so that there is a time to read."""

    def __init__(self, fails=False):
        super().__init__()
        self.linear = nn.Linear(1, 1)
        self.frozen = nn.BatchNorm1d(1)
        self.fails, self.seen = fails, []
        self.train()
        self.frozen.eval()

    def forward(self, batch):
        if self.fails:
            raise RuntimeError("boom")
        out = self.linear(torch.ones(1, 1))
        self.seen.append((self.training, torch.is_grad_enabled(), out.dtype))
        torch.arange(2_000_000).sum()
        return [{"value": x["value"]} for x in batch]


class Sum(DatasetEvaluator):
    def reset(self):
        self.total = 0

    def process(self, inputs, outputs):
        self.total += sum(x["value"] for x in outputs)

    def evaluate(self):
        return {"bbox": {"AP": self.total}}


def loader(num_batches, batch_size=1):
    return [[{"value": i}] * batch_size for i in range(num_batches)]


@pytest.mark.parametrize("num_batches", [1, 2, 5, 6, 9])
def test_results_and_speed(num_batches, caplog):
    caplog.set_level(logging.INFO)
    model = Model()
    results = evaluate(model, loader(num_batches), Sum())
    assert results["bbox"] == {"AP": sum(range(num_batches))}
    speed = results["speed"]
    assert speed["fps"] * speed["seconds_per_image"] == pytest.approx(1)
    assert speed["batch_size"] == 1 and speed["num_devices"] == 1 and speed["dtype"] == "float32"
    assert {"device", "threads", "torch", "torchvision", "detectron2"} <= speed.keys()
    assert set(model.seen) == {(False, False, torch.float32)} and len(model.seen) == num_batches
    assert (model.training, model.linear.training, model.frozen.training) == (True, True, False)
    assert f"FPS: {speed['fps']:.1f} (" in caplog.text and "pure compute, batch 1, float32" in caplog.text
    assert speed["device"] in caplog.text


def test_seconds_are_per_image(monkeypatch):
    line = "Total inference pure compute time: 0:00:04 (0.800000 s / iter per device, on 2 devices)"

    def loop(model, data_loader, evaluator):
        list(data_loader)
        logging.getLogger("detectron2.evaluation.evaluator").info(line)
        return {}

    monkeypatch.setattr("dense_d2.evaluation.inference.inference_on_dataset", loop)
    speed = evaluate(Model(), loader(3, batch_size=4) + loader(1))["speed"]
    assert (speed["batch_size"], speed["seconds_per_image"], speed["fps"]) == (4, 0.2, 5.0)
    assert speed["num_devices"] == 2


def test_mode_is_restored_after_an_error():
    model = Model(fails=True)
    with pytest.raises(RuntimeError, match="boom"):
        evaluate(model, loader(3), Sum())
    assert (model.training, model.linear.training, model.frozen.training) == (True, True, False)


@pytest.mark.parametrize("amp_dtype", ["bfloat16", "bf16", torch.bfloat16])
def test_amp(amp_dtype):
    model = Model()
    results = evaluate(model, loader(2), Sum(), amp_dtype=amp_dtype)
    assert {dtype for _, _, dtype in model.seen} == {torch.bfloat16}
    assert {training for training, _, _ in model.seen} == {False}
    assert results["speed"]["dtype"] == "bfloat16"
    with pytest.raises(ValueError, match="'float17'"):
        evaluate(model, loader(2), amp_dtype="float17")


def test_empty_data_and_plain_callable():
    assert evaluate(lambda batch: batch, loader(0), Sum())["bbox"] == {"AP": 0}


def test_other_processes_add_nothing(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("dense_d2.evaluation.inference.comm.is_main_process", lambda: False)
    assert evaluate(Model(), loader(2), Sum()) == {"bbox": {"AP": 1}}
    assert "FPS" not in caplog.text


def test_float_results_suit_detectron2():
    results = evaluate(Model(), loader(2), Sum())
    numbers = float_results(results)
    assert "device" in results["speed"] and "device" not in numbers["speed"]
    assert numbers["bbox"]["AP"] == 1.0
    print_csv_format(numbers)
    assert all(isinstance(v, float) for v in flatten_results_dict(numbers).values())


def test_write_results(tmp_path):
    path = tmp_path / "new" / "results.json"
    nested = {"bbox": {"AP": 37.5, "APs": float("nan"), "n": np.int64(3), "x": np.float32(0.5)}, "list": (1, math.inf)}
    write_results(str(path), nested, iteration=7, tensor=torch.tensor([1.0, -math.inf]))
    assert path.stat().st_mode & 0o777 == 0o644
    assert json.loads(path.read_text()) == {
        "bbox": {"AP": 37.5, "APs": None, "n": 3, "x": 0.5},
        "list": [1, None],
        "iteration": 7,
        "tensor": [1.0, None],
    }


def test_write_results_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_results(str(path), {"AP": 1})

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_results(str(path), {"AP": 2})
    assert json.loads(path.read_text()) == {"AP": 1}
    assert [x.name for x in tmp_path.iterdir()] == ["results.json"]
