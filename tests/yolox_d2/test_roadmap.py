"""The steps of the paper's Tables 1 and 2: size of each, a training step, detections."""

import os

from dense_d2.config import load_config
from tests.yolof_d2.tiny import batch
from tests.yolox_d2.tiny import TinyPyramid, tiny_head, tiny_yolox
from tools.analyze_model import analyze
from yolox_d2.one_to_one import OneToOneAssigner

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate

ROOT = os.path.join(os.path.dirname(__file__), "..", "..", "configs", "yolox", "roadmap")

# row: parameters, GFLOPs at 640 (Table 2 counts two per multiply-add)
SIZES = {
    "baseline": (62_998_749, 157.28),
    "decoupled_head": (63_855_837, 186.00),
    "anchor_free": (63_724_767, 185.27),
    "nms_free": (67_267_554, 205.12),
}
ROWS = [
    *SIZES,
    "strong_augmentation",
    "multi_positives",
    "simota",
    "coupled_end_to_end",
    "decoupled_end_to_end",
]


@pytest.mark.parametrize("row", SIZES)
def test_size(row):
    parameters, gflops = SIZES[row]
    model = instantiate(load_config(os.path.join(ROOT, f"{row}.py")).model)
    total = analyze(model, 32, 32)["total"]
    assert total["parameters"] == parameters
    assert total["gflops_thop"] * (640 / 32) ** 2 == pytest.approx(gflops, abs=0.006)


@pytest.mark.parametrize("row", ROWS)
def test_row_learns_and_detects_on_a_small_backbone(row):
    cfg = load_config(os.path.join(ROOT, f"{row}.py")).model
    cfg.head.in_channels, cfg.backbone = [8, 8, 8], L(TinyPyramid)()
    cfg.head.update(norm="BN", norm_eps=1e-3, norm_momentum=0.03, activation="LeakyReLU")
    model = instantiate(cfg)
    sample = batch(([[10.0, 10, 60, 70], [30.0, 5, 120, 90]], [1, 2]))[0]
    losses = model.train()([sample])
    named = {"loss_cls", "loss_box_reg", "loss_obj"} | ({"loss_select"} if cfg.head.get("selector") else set())
    assert set(losses) == named
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.test_score_thresh = 0.0
    with torch.no_grad():
        found = model.eval()([sample])[0]["instances"]
    assert 0 < len(found) <= model.max_detections_per_image


def test_a_selector_takes_the_place_of_nms():
    """Wide boxes that overlap their neighbours: all of them stay, or few."""
    found = []
    for selector in (True, False):
        head = tiny_head(selector=selector)
        for layer in head.reg_preds:
            torch.nn.init.constant_(layer.bias, 2.0)
        assigner = OneToOneAssigner() if selector else None
        model = tiny_yolox(
            head=head,
            select_assigner=assigner,
            test_score_thresh=0.0,
            test_nms_thresh=0.3,
            class_agnostic_nms=True,
            max_detections_per_image=100,
        )
        found.append(len(model.eval()(batch(([], [])))[0]["instances"]))
    assert found[0] == 100 > found[1]


def test_the_selector_learns_alone():
    model = tiny_yolox(head=tiny_head(selector=True), select_assigner=OneToOneAssigner()).train()
    model(batch(([[10.0, 10, 60, 70]], [1])))["loss_select"].backward()
    learning = {
        name.split(".")[1] for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
    }
    assert learning == {"selectors"}
    loss = model(batch(([], [])))["loss_select"]
    assert loss.isfinite() and loss > 0
