"""Against what the authors' released code computes; tests/parity/recipe.py says how the inputs are made.

The reference was made with YOLOX-Nano at 416x416, float32 on a CPU, SimOTA with radius 1.5.
"""

import os

from dense_d2.checkpoint import DenseCheckpointer
from dense_d2.config import load_config
from tests.parity import recipe
from tests.yolof_d2.tiny import instances

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from torchvision.ops import box_iou

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
REFERENCE = np.load(os.path.join(ROOT, "tests", "parity", "yolox_nano.npz"))
SIZE = int(REFERENCE["size"])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("parity") / "released.pth"
    torch.save({"model": {k: torch.from_numpy(np.asarray(v)) for k, v in recipe.state_dict(REFERENCE).items()}}, path)
    model = instantiate(load_config(os.path.join(ROOT, "configs/yolox/yolox_nano.py")).model)
    DenseCheckpointer(model).load(str(path))
    path.unlink()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0  # so that no test changes the running statistics
    return model


@pytest.fixture(scope="module")
def inputs():
    batch = []
    for i in range(2):
        gt = instances(REFERENCE[f"gt_boxes_{i}"], REFERENCE[f"gt_classes_{i}"], (SIZE, SIZE))
        image = torch.from_numpy(recipe.image(SIZE, SIZE, seed=i + 1).transpose(2, 0, 1).copy())
        batch.append({"image": image, "instances": gt, "height": SIZE, "width": SIZE})
    return batch


def test_predictions_and_detections(model, inputs):
    model.eval()
    with torch.no_grad():
        images = model.preprocess_image(inputs)
        features = list(model.backbone(images.tensor).values())
        predictions = model.head(features)
        priors, deltas, obj_logits, cls_logits, _ = model._dense_predictions(features, predictions)
        boxes = model.box_coder.apply_deltas(deltas, priors)
        model.test_score_thresh, model.max_detections_per_image = 0.01, 10000
        results = model.forward_inference(images, features, predictions)
    rows = REFERENCE["rows"]
    scores = torch.cat([obj_logits[..., None], cls_logits], dim=2).sigmoid()[:, rows]
    np.testing.assert_allclose(deltas[:, rows], REFERENCE["raw_rows"][..., :4], atol=1e-3, rtol=0)
    np.testing.assert_allclose(scores, REFERENCE["raw_rows"][..., 4:], atol=1e-3, rtol=0)
    centers, sizes = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    decoded = torch.cat([centers, sizes], dim=2)[:, rows]
    np.testing.assert_allclose(decoded, REFERENCE["decoded_rows"][..., :4], atol=0.2, rtol=1e-3)
    for i, result in enumerate(results):
        assert len(result) == pytest.approx(REFERENCE["num_detections"][i], abs=2)
        expected = torch.from_numpy(REFERENCE[f"detections_{i}"])
        found = result.pred_boxes.tensor
        # synthetic weights make boxes thinner than a pixel, whose IoU says little
        is_near = (expected[:, None, :4] - found).abs().amax(dim=2) < 0.2
        match = (
            (is_near | (box_iou(expected[:, :4], found) > 0.99))
            & (result.pred_classes == expected[:, 6:])
            & ((result.scores - expected[:, 4:5] * expected[:, 5:6]).abs() < 1e-3)
        )
        assert match.any(dim=1).all() and len(expected) == 200


@pytest.mark.parametrize("use_l1", [False, True])
def test_losses_and_gradient_norm(model, inputs, use_l1):
    model.train()
    model.zero_grad()
    model.use_l1 = use_l1
    losses = model(inputs)
    sum(losses.values()).backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    total, box, objectness, cls, l1, _, expected_norm = REFERENCE["losses_l1" if use_l1 else "losses"]
    assert losses["loss_box_reg"].item() == pytest.approx(box, rel=2e-4)
    assert losses["loss_obj"].item() == pytest.approx(objectness, rel=2e-4)
    assert losses["loss_cls"].item() == pytest.approx(cls, rel=2e-4)
    assert losses["loss_l1"].item() == pytest.approx(l1, rel=2e-4) if use_l1 else "loss_l1" not in losses
    assert sum(losses.values()).item() == pytest.approx(total, rel=2e-4)
    assert norm.item() == pytest.approx(expected_norm, rel=2e-3)
