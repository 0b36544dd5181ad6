"""Against what the authors' released code computes; tests/parity/recipe.py says how the inputs are made.

The reference was made with VFNet-R50 at 256x320, float32 on a CPU, statistics of batch norms frozen.
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
REFERENCE = np.load(os.path.join(ROOT, "tests", "parity", "vfnet_r50.npz"))
SIZE = tuple(int(side) for side in REFERENCE["size"])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("parity") / "released.pth"
    state = {k: torch.from_numpy(np.asarray(v)) for k, v in recipe.state_dict(REFERENCE).items()}
    torch.save({"state_dict": state, "meta": {}}, path)
    model = instantiate(load_config(os.path.join(ROOT, "configs/vfnet/vfnet_r50_1x.py")).model)
    DenseCheckpointer(model).load(str(path))
    path.unlink()
    return model


@pytest.fixture(scope="module")
def inputs():
    batch = []
    for i in range(2):
        gt = instances(REFERENCE[f"gt_boxes_{i}"], REFERENCE[f"gt_classes_{i}"], SIZE)
        rgb = recipe.image(*SIZE, seed=i + 1)[:, :, ::-1]
        image = torch.from_numpy(rgb.transpose(2, 0, 1).copy())
        batch.append({"image": image, "instances": gt, "height": SIZE[0], "width": SIZE[1]})
    return batch


def test_predictions_and_detections(model, inputs):
    model.eval()
    with torch.no_grad():
        images = model.preprocess_image(inputs)
        features = list(model.backbone(images.tensor).values())
        predictions = model.head(features)
        results = model.forward_inference(images, features, predictions)
    rows = REFERENCE["rows"]
    logits, ltrb, refined = (maps[0].flatten(2).transpose(1, 2)[:, rows] for maps in predictions[:3])
    np.testing.assert_allclose(logits, REFERENCE["p3_cls_rows"], atol=1e-3, rtol=0)
    np.testing.assert_allclose(ltrb, REFERENCE["p3_box_rows"], atol=0.2, rtol=0)
    np.testing.assert_allclose(refined, REFERENCE["p3_refined_rows"], atol=0.2, rtol=0)
    for i, result in enumerate(results):
        expected = torch.from_numpy(REFERENCE[f"detections_{i}"])
        match = (
            (box_iou(expected[:, :4], result.pred_boxes.tensor) > 0.99)
            & (result.pred_classes == expected[:, 5:])
            & ((result.scores - expected[:, 4:5]).abs() < 1e-3)
        )
        assert match.any(dim=1).all() and len(expected) == len(result) == 100


def test_losses_and_gradient_norm(model, inputs):
    model.train()
    losses = model(inputs)
    sum(losses.values()).backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.requires_grad]).norm()
    cls, box, refined = REFERENCE["losses"]
    assert losses["loss_cls"].item() == pytest.approx(cls, rel=2e-4)
    assert losses["loss_box_reg"].item() == pytest.approx(box, rel=2e-4)
    assert losses["loss_box_refine"].item() == pytest.approx(refined, rel=2e-4)
    assert norm.item() == pytest.approx(REFERENCE["gradient_norm"], rel=2e-3)
