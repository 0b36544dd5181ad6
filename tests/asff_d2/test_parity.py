"""Against what the authors' released code computes; tests/parity/recipe.py says how the inputs are made.

The reference was made with `asff=True, rfb=False` at 320 x 320, float32 on a CPU.
"""

import os

from dense_d2.checkpoint import DenseCheckpointer
from tests.parity import recipe

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import Boxes, Instances
from torchvision.ops import box_iou

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
REFERENCE = np.load(os.path.join(ROOT, "tests", "parity", "asff_yolov3.npz"))
SIZE = int(REFERENCE["size"])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("parity") / "released.pth"
    torch.save({k: torch.from_numpy(np.asarray(v)) for k, v in recipe.state_dict(REFERENCE).items()}, path)
    cfg = LazyConfig.load(os.path.join(ROOT, "configs/common/models/asff.py")).model
    cfg.update(test_score_thresh=0.01, test_topk_candidates=100000, max_detections_per_image=100000)
    model = instantiate(cfg)
    DenseCheckpointer(model).load(str(path), whole=True)
    path.unlink()
    for module in model.modules():
        if isinstance(module, torch.nn.SyncBatchNorm):
            module.momentum = 0.0  # so that no test changes the running statistics
    return model


@pytest.fixture(scope="module")
def inputs():
    batch = []
    for i in range(2):
        gt = Instances((SIZE, SIZE))
        gt.gt_boxes = Boxes(torch.from_numpy(REFERENCE[f"gt_boxes_{i}"]))
        gt.gt_classes = torch.from_numpy(REFERENCE[f"gt_classes_{i}"])
        image = recipe.image(SIZE, SIZE, seed=i + 1)[:, :, ::-1]  # the recipe's are BGR
        batch.append({"image": torch.from_numpy(image.transpose(2, 0, 1).copy()), "instances": gt})
    return batch


def in_our_order(rows):
    """Rows of the released order, level by level, coarse first, and slot*H*W + j*W + i in each."""
    result, start, starts = [], 0, {}
    our_start = 0
    for stride in (8, 16, 32):
        starts[stride] = our_start
        our_start += 4 * (SIZE // stride) ** 2
    for stride in (32, 16, 8):
        cells = (SIZE // stride) ** 2
        local = rows[(rows >= start) & (rows < start + 4 * cells)] - start
        result.append(starts[stride] + local % cells * 4 + local // cells)
        start += 4 * cells
    return np.concatenate(result)


def test_predictions_and_detections(model, inputs):
    model.eval()
    with torch.no_grad():
        images = model.preprocess_image(inputs)
        features = model.backbone(images.tensor)
        predictions = model.head([features[name] for name in model.head_in_features])
        grid, outputs, shapes = model._dense_predictions(predictions)
        results = model.forward_inference(images, None, predictions)
    rows = torch.from_numpy(in_our_order(REFERENCE["rows"]))
    expected = torch.from_numpy(REFERENCE["eval_rows"])
    xy = (outputs[:, rows, :2].sigmoid() + grid.cells[rows]) * grid.strides[rows]
    wh = (outputs[:, rows, 2:4] + shapes[:, rows]).exp() * grid.sizes[rows]
    torch.testing.assert_close(torch.cat([xy, wh], dim=-1), expected[..., :4], atol=0.2, rtol=1e-4)
    torch.testing.assert_close(outputs[:, rows, 4:].sigmoid(), expected[..., 4:], atol=1e-3, rtol=0)
    for i, result in enumerate(results):
        assert len(result) == REFERENCE["num_detections"][i]
        detections = torch.from_numpy(REFERENCE[f"detections_{i}"])
        match = (
            (box_iou(result.pred_boxes.tensor, detections[:, :4]) > 0.99)
            & (result.pred_classes[:, None] == detections[:, 6])
            & ((result.scores[:, None] - detections[:, 4] * detections[:, 5]).abs() < 1e-3)
        )
        assert match.any(dim=0).all()


def test_losses_and_gradient_norm(model, inputs):
    model.train()
    model.zero_grad()
    losses = model(inputs)
    sum(losses.values()).backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()
    found = {name: value.item() for name, value in losses.items()}
    expected = dict(zip(REFERENCE["loss_names"].tolist(), REFERENCE["losses"].tolist()))
    assert found["loss_anchor"] == pytest.approx(expected["anchor_losses"], rel=2e-4)
    assert found["loss_iou"] == pytest.approx(expected["iou_losses"], rel=2e-4)
    assert found["loss_xy"] + found["loss_wh"] == pytest.approx(expected["l1_losses"], rel=2e-4)
    assert found["loss_obj"] == pytest.approx(expected["conf_losses"], rel=2e-4)
    assert found["loss_cls"] == pytest.approx(expected["cls_losses"], rel=2e-4)
    assert sum(found.values()) == pytest.approx(expected["losses"], rel=2e-4)
    # the reference divides its losses by the 2 images, but took the gradient of their sum
    assert 2 * norm == pytest.approx(float(REFERENCE["gradient_norm"]), rel=2e-3)
