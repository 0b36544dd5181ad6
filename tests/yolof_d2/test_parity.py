"""Against what the author's released code computes; tests/parity/recipe.py says how the inputs are made.

The reference was made with the author's Detectron2 port, R_50_C5_1x, float32 on a CPU.
"""

import os

from dense_d2.checkpoint import DenseCheckpointer
from tests.parity import recipe
from tests.yolof_d2.tiny import instances

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from torchvision.ops import box_iou

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
REFERENCE = np.load(os.path.join(ROOT, "tests", "parity", "yolof_r50_c5.npz"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("parity") / "released.pth"
    torch.save({"model": {k: torch.from_numpy(np.asarray(v)) for k, v in recipe.state_dict(REFERENCE).items()}}, path)
    model = instantiate(LazyConfig.load(os.path.join(ROOT, "configs/common/models/yolof.py")).model)
    DenseCheckpointer(model).load(str(path))
    path.unlink()
    for module in model.head.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0  # so that no test changes the running statistics
    return model


@pytest.fixture(scope="module")
def inputs():
    batch = []
    for i in range(2):
        height, width = (int(side) for side in REFERENCE[f"image_size_{i}"])
        gt = instances(REFERENCE[f"gt_boxes_{i}"], REFERENCE[f"gt_classes_{i}"], (height, width))
        image = torch.from_numpy(recipe.image(height, width, seed=i + 1).transpose(2, 0, 1).copy())
        batch.append({"image": image, "instances": gt, "height": height, "width": width})
    return batch


@pytest.fixture(scope="module")
def images_and_features(model, inputs):
    """Computed once: the norms of the backbone are frozen, so training and inference see the same features."""
    images = model.preprocess_image(inputs)
    return images, [model.backbone(images.tensor)["res5"]]


def test_predictions_and_detections(model, images_and_features):
    images, features = images_and_features
    model.eval()
    with torch.no_grad():
        predictions = model.head(features)
        _, logits, deltas = model._dense_predictions(predictions)
        results = model.forward_inference(images, features, predictions)
    rows = REFERENCE["rows"]
    np.testing.assert_allclose(logits[:, rows], REFERENCE["logits_rows"], atol=1e-3, rtol=0)
    np.testing.assert_allclose(deltas[:, rows], REFERENCE["deltas_rows"], atol=1e-3, rtol=0)
    for i, result in enumerate(results):
        expected = torch.from_numpy(REFERENCE[f"detections_{i}"])
        assert len(result) == len(expected) == 100
        result.pred_boxes.clip(result.image_size)
        match = (
            (box_iou(result.pred_boxes.tensor, expected[:, :4]) > 0.99)
            & (result.pred_classes[:, None] == expected[:, 5])
            & ((result.scores[:, None] - expected[:, 4]).abs() < 1e-3)
        )
        assert match.any(dim=0).all() and match.any(dim=1).all()


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_losses_and_gradient_norm(model, inputs, images_and_features, statistics):
    images, features = images_and_features
    model.train()
    model.head.train(statistics == "batch")
    model.zero_grad()
    losses = model.forward_training(images, features, model.head(features), [x["instances"] for x in inputs])
    sum(losses.values()).backward(retain_graph=True)
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.requires_grad]).norm()
    expected_cls, expected_box, expected_norm = REFERENCE[f"losses_{statistics}_stats"]
    assert losses["loss_cls"].item() == pytest.approx(expected_cls, rel=2e-4)
    assert losses["loss_box_reg"].item() == pytest.approx(expected_box, rel=2e-4)
    assert norm.item() == pytest.approx(expected_norm, rel=2e-3)
