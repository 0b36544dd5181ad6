import json
import pathlib

from dense_d2 import drawing, visualize
from dense_d2.visualize import draw_comparison, plot_training_curve, read_metrics, save_comparisons

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image, ImageColor


def truth(boxes, classes, size=(320, 320), **more):
    boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    return Instances(size, gt_boxes=boxes, gt_classes=torch.tensor(classes, dtype=torch.int64), **more)


def found(boxes, scores, classes, size=(320, 320)):
    return Instances(
        size,
        pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        scores=torch.tensor(scores, dtype=torch.float32),
        pred_classes=torch.tensor(classes, dtype=torch.int64),
    )


def extent(picture, class_index):
    """Bounding box of a class's colour in a panel, in pixels of an image that is half as large."""
    ys, xs = np.nonzero((picture == ImageColor.getrgb(drawing.PALETTE[class_index])).all(axis=2))
    return [xs.min() / 2, ys.min() / 2, (xs.max() + 1) / 2, (ys.max() + 1) / 2] if len(xs) else None


def panels(picture, width=640, height=640):
    top, margin = drawing.FONT_SIZE + 2 * visualize.MARGIN, visualize.MARGIN
    left = picture[top : top + height, margin : margin + width]
    return left, picture[top : top + height, 2 * margin + width : 2 * (margin + width)]


def test_boxes_are_drawn_where_they_are():
    image = np.zeros((320, 320, 3), dtype=np.uint8)
    boxes = [[40, 100, 120, 200], [200, 60, 280, 300]]
    picture = draw_comparison(image, truth(boxes[:1], [0]), found(boxes, [0.9, 0.1], [1, 2]), "abc", 0.3, "x.png")
    left, right = panels(picture)
    label = (drawing.FONT_SIZE + 4) / 2
    np.testing.assert_allclose(extent(left, 0), [40, 100 - label, 120, 200], atol=1.5)  # with the label above it
    np.testing.assert_allclose(extent(right, 1), [40, 100 - label, 120, 200], atol=1.5)
    assert extent(left, 1) is None and extent(right, 0) is None
    assert extent(right, 2) is None  # below the threshold
    again = draw_comparison(image, truth(boxes[:1], [0]), found(boxes, [0.9, 0.1], [1, 2]), "abc", 0.05)
    assert extent(panels(again)[1], 2) is not None
    assert not image.any()  # the caller's image is left alone


def test_labels(monkeypatch):
    labels = []
    monkeypatch.setattr(visualize, "draw_boxes", lambda *args: labels.append(args[3]) or drawing.draw_boxes(*args))
    box, image = [40, 100, 120, 200], np.zeros((320, 320, 3), dtype=np.uint8)
    there = truth([box, box], [0, 1], gt_crowd=torch.tensor([False, True]))
    draw_comparison(image, there, found([box, box, box], [0.4, 0.9, 0.2], [1, 2, 0]), "abc")
    assert labels == [["a", "b (crowd)"], ["c 0.90", "b 0.40"]]


@pytest.mark.parametrize("size, panel", [((30, 40), (480, 640)), ((2000, 1000), (640, 320)), ((1, 300), (2, 640))])
def test_any_size_and_nothing_in_it(size, panel):
    image = np.full((*size, 3), 90, dtype=np.uint8)
    picture = draw_comparison(image, truth([], [], size), found([], [], [], size), ["a"])
    left, right = panels(picture, panel[1], panel[0])
    assert left.shape == right.shape == (*panel, 3) and (left == 90).all() and (right == 90).all()


@pytest.fixture
def registered(tmp_path):
    records = []
    for index in range(5):
        path = tmp_path / f"{index}.png"
        Image.new("RGB", (320, 320), (0, 0, 128)).save(path)
        box = {"bbox": [40, 100, 80, 100], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": index % 2}
        records.append({"file_name": str(path), "image_id": index + 10, "annotations": [box] if index < 4 else []})
    name = f"visualize_test_{tmp_path}"
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(
        thing_classes=["cell", "dot", "speck"], thing_dataset_id_to_contiguous_id={4: 0, 7: 1, 9: 2}
    )
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.pop(name)


@pytest.mark.parametrize("as_file", [True, False])
def test_save_comparisons(registered, tmp_path, as_file):
    results = [{"image_id": 12, "category_id": 9, "bbox": [200, 60, 80, 240], "score": 0.9}]
    results.append({"image_id": 999, "category_id": 4, "bbox": [0, 0, 9, 9], "score": 0.9})
    if as_file:
        (tmp_path / "results.json").write_text(json.dumps(results))
        results = str(tmp_path / "results.json")
    paths = save_comparisons(registered, results, str(tmp_path / "out"), count=3)
    assert [pathlib.Path(p).name for p in paths] == ["00_0.png", "01_2.png", "02_4.png"]
    left, right = panels(np.asarray(Image.open(paths[1])))
    assert left[-1, -1].tolist() == [0, 0, 128]
    assert extent(left, 0)[2:] == pytest.approx([120, 200], abs=1.5)
    assert extent(right, 2)[2:] == pytest.approx([280, 300], abs=1.5) and extent(right, 0) is None
    assert len(save_comparisons(registered, results, str(tmp_path / "out"), count=50)) == 5


def write_metrics(path, lines):
    path.write_text("".join(json.dumps(x) + "\n" for x in lines))
    return str(path)


def test_read_metrics_of_a_resumed_run(tmp_path):
    path = write_metrics(
        tmp_path / "metrics.json",
        [
            {"iteration": 19, "total_loss": 5.0, "lr": float("nan")},
            {"iteration": 39, "total_loss": 4.0, "bbox/AP": 10.0},
            {"iteration": 30, "other": 1.0},  # an older iteration in a later line is not a resumption
            {"iteration": 59, "total_loss": 3.0, "ema/bbox/AP": 9.0},
            {"iteration": 45, "total_loss": 3.5},  # resumed at 40: what came after is history
            {"iteration": 59, "total_loss": 3.1},
            {"iteration": 59, "total_loss": 2.9},
            {"no_iteration": 1},
        ],
    )
    with open(path, "a") as f:
        f.write('{"iteration": 79, "total_lo{"iteration": 79, "total_loss": 2.8}\n')  # cut off, and resumed
        f.write('{"iteration": 99, "total_loss": 2.7}\n{"iteration": 119, "total_lo')
    assert read_metrics(path) == {
        "total_loss": [(19, 5.0), (39, 4.0), (45, 3.5), (59, 2.9), (99, 2.7)],
        "bbox/AP": [(39, 10.0)],
        "other": [(30, 1.0)],
    }


def test_training_curve_has_a_panel_for_what_is_there(tmp_path):
    target = tmp_path / "new" / "curve.png"
    full = [{"iteration": i, "total_loss": 9 / (i + 1), "loss_cls": 1 / (i + 1), "lr": 0.01} for i in range(5)]
    full.append({"iteration": 4, "bbox/AP": 30.0, "bbox/AP50": 50.0, "bbox/AP-star": 1.0, "ema/bbox/AP": 31.0})
    widths = []
    for lines in (full, full[:-1], [{"iteration": 1, "lr": 0.0}]):
        assert plot_training_curve(write_metrics(tmp_path / "metrics.json", lines), str(target))
        widths.append(Image.open(target).width)
    assert widths[0] == pytest.approx(3 * widths[2], abs=2) and widths[1] == pytest.approx(2 * widths[2], abs=2)
    names = ["bbox/AP", "bbox_ema/AP", "coco/bbox/AP50", "bbox/AP-star", "AP", "segm/AP"]
    assert [name for name in names if visualize._is_summary_ap(name)] == names[:3]


def test_no_curve_without_data(tmp_path, caplog):
    path = write_metrics(tmp_path / "metrics.json", [{"iteration": 1, "time": 0.1}])
    assert not plot_training_curve(path, str(tmp_path / "curve.png"))
    assert not (tmp_path / "curve.png").exists() and "no training curve" in caplog.text
