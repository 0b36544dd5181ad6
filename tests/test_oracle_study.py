"""The oracle study of VarifocalNet's Table 1: its edits in numbers, and the whole way from images to the table."""

import json
import math
import pathlib

from dense_d2.config import load_config
from dense_d2.data import DenseMapper, build_test_loader
from dense_d2.data.keep_ratio_resize import KeepRatioResize
from dense_d2.datasets import register_coco
from dense_d2.errors import UserError
from dense_d2.evaluation import FastCOCOEvaluator, oracle
from dense_d2.evaluation.oracle import COLUMNS, EDITS, OracleEvaluator, OracleStudy, edited_predictions
from dense_d2.modeling.dense_detector import DenseDetector
from dense_d2.modeling.dense_prediction import DenseLabels, DensePrediction
from tests.asff_d2.tiny import tiny_asff
from tests.toy import toy_overrides
from tests.vfnet_d2.tiny import tiny_head, tiny_vfnet
from tests.yolof_d2.tiny import instances, tiny_yolof
from tests.yolox_d2.tiny import tiny_head as yolox_head
from tests.yolox_d2.tiny import tiny_yolox
from tools import oracle_study
from train_net import main as train_net
from train_net import parse_arguments
from yolox_d2.anchor_assigner import AnchorAssigner
from yolox_d2.assignment import Assignment
from yolox_d2.one_to_one import OneToOneAssigner

import pytest
import torch
from detectron2.config import instantiate
from detectron2.evaluation import inference_on_dataset
from detectron2.structures import ImageList
from torch import nn

FCOS = dict(star_conv=False, refine=False, centerness=True)
WITHOUT = ["none", "gt_bbox", "gt_cls", "gt_cls_iou"]
PAPER = [
    *("none", "none w/ctr", "gt_ctr w/ctr", "gt_ctr_iou w/ctr", "gt_bbox", "gt_bbox w/ctr"),
    *("gt_cls", "gt_cls w/ctr", "gt_cls_iou", "gt_cls_iou w/ctr"),
]


def prediction():
    return DensePrediction(
        scores=torch.tensor([[0.2, 0.6], [0.3, 0.1], [0.9, 0.8], [0.5, 0.4]]),
        boxes=torch.tensor([[0.0, 0, 10, 10], [1.0, 1, 5, 5], [2.0, 2, 6, 6], [20.0, 0, 30, 10]]),
        centerness=torch.tensor([0.1, 0.2, 0.3, 0.4]),
        num_points=[3, 1],
    )


# foreground of class 1, background, ignored, foreground of class 0; 9 must not be read
LABELS = DenseLabels(
    classes=torch.tensor([1, 2, -1, 0]),
    boxes=torch.tensor([[0.0, 0, 10, 5], [9.0, 9, 9, 9], [9.0, 9, 9, 9], [25.0, 0, 35, 10]]),
    centerness=torch.tensor([0.7, 9.0, 9.0, 0.6]),
)
THIRD = 1 / 3
CHANGES = {
    "none": {},
    "gt_ctr": dict(centerness=[0.7, 0.2, 0.3, 0.6]),
    "gt_ctr_iou": dict(centerness=[0.5, 0.2, 0.3, THIRD]),
    "gt_bbox": dict(boxes=[[0.0, 0, 10, 5], [1.0, 1, 5, 5], [2.0, 2, 6, 6], [25.0, 0, 35, 10]]),
    "gt_cls": dict(scores=[[0.2, 1.0], [0.3, 0.1], [0.9, 0.8], [1.0, 0.4]]),
    "gt_cls_iou": dict(scores=[[0.2, 0.5], [0.3, 0.1], [0.9, 0.8], [THIRD, 0.4]]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_edit_writes_one_answer_at_the_foreground(name):
    before = prediction()
    after = EDITS[name](before, LABELS)
    expected = prediction()._replace(**{part: torch.tensor(value) for part, value in CHANGES[name].items()})
    torch.testing.assert_close(after, expected)
    torch.testing.assert_close(before, prediction(), rtol=0, atol=0)


def test_rows_are_those_of_the_paper():
    assert set(CHANGES) == set(EDITS)
    rows = dict(edited_predictions(prediction(), LABELS))
    assert list(rows) == PAPER
    assert all((row.centerness is None) != name.endswith("w/ctr") for name, row in rows.items())
    assert rows["gt_cls"].scores[0, 1] == rows["gt_cls w/ctr"].scores[0, 1] == 1
    bare = edited_predictions(prediction()._replace(centerness=None), LABELS._replace(centerness=None))
    assert [name for name, _ in bare] == WITHOUT


def test_an_image_without_foreground_is_left_alone():
    labels = LABELS._replace(classes=torch.full((4,), 2))
    for name, row in edited_predictions(prediction(), labels):
        wanted = prediction() if name.endswith("w/ctr") else prediction()._replace(centerness=None)
        torch.testing.assert_close(row, wanted, rtol=0, atol=0)


def run(model, toy_coco, with_boxes, evaluator):
    """Images of 160 pixels in height or width are shown larger or smaller to the network than they are."""
    name = register_coco(*toy_coco)
    mapper = DenseMapper(with_boxes, augmentations=[KeepRatioResize(132, 190)])
    return inference_on_dataset(model, build_test_loader(dataset=name, mapper=mapper), evaluator(name))


def columns(results):
    return [None if math.isnan(results[name]) else results[name] for name in COLUMNS]


DETECTORS = {  # and which row is the detector as it is
    "vfnet": (tiny_vfnet, "none"),
    "vfnet_centerness": (lambda **kwargs: tiny_vfnet(head=tiny_head(**FCOS), **kwargs), "none w/ctr"),
    "yolof": (tiny_yolof, "none"),
    "asff": (lambda **kwargs: tiny_asff(seed=5, test_topk_candidates=300, **kwargs), "none w/ctr"),
    "yolox": (tiny_yolox, "none w/ctr"),
    "yolox_nms_free": (
        lambda **kwargs: tiny_yolox(head=yolox_head(selector=True), select_assigner=OneToOneAssigner(), **kwargs),
        "none w/ctr",
    ),
}


@pytest.mark.parametrize("name", DETECTORS)
def test_study_of_a_detector(toy_coco, name, monkeypatch):
    def gt_bbox_and_cls(dense, labels):
        return EDITS["gt_cls_iou"](EDITS["gt_bbox"](dense, labels), labels)

    monkeypatch.setitem(oracle.EDITS, "gt_bbox_and_cls", gt_bbox_and_cls)
    make, plain = DETECTORS[name]
    model = make(test_score_thresh=0.0).eval()
    rows = run(OracleStudy(model), toy_coco, True, OracleEvaluator)
    usual = run(model, toy_coco, False, FastCOCOEvaluator)["bbox"]
    assert columns(rows[plain]) == columns(usual) and usual["AP"] > 0
    assert plain == "none" or rows["none"] != rows[plain]
    # what is missing with the true box and class are boxes that the assigner gave no location, many in YOLOF's 90 anchors
    ap = {row: numbers["AP"] for row, numbers in rows.items()}
    assert ap["gt_bbox_and_cls"] > (70 if name == "yolof" else 95)
    assert ap["none"] < ap["gt_bbox"] < ap["gt_bbox_and_cls"] - 30


@pytest.mark.parametrize("gt_idxs, last", [([0, 1, 1], 1), ([1, 0, 1], 0)])
def test_of_several_pairs_of_an_anchor_yolof_shows_the_last(gt_idxs, last):
    pairs = torch.tensor([5, 5, 3]), torch.tensor(gt_idxs)
    model = tiny_yolof(matcher=lambda *_: pairs, pos_ignore_thresh=0.0, neg_ignore_thresh=1.0)
    gt = instances([[0.0, 0, 40, 40], [5.0, 5, 60, 60]], [1, 2])
    (labels,) = model.label_dense(None, (torch.zeros(1, 9, 3, 4), torch.zeros(1, 12, 3, 4)), [gt])
    assert labels.classes.tolist() == [3, 3, 3, 2, 3, last + 1] + 30 * [3]
    assert labels.boxes[[3, 5]].tolist() == [[5, 5, 60, 60], gt.gt_boxes.tensor[last].tolist()]


def test_yolox_is_taught_in_pixels_of_its_input():
    """Where the shorter side of the image was rounded down to whole pixels, boxes are those of the unrounded size."""
    maps = [(1, 8, 8), (1, 4, 4), (1, 2, 2)]
    deltas, objectness, classes = ([torch.zeros(1, c * n, h, w) for n, h, w in maps] for c in (4, 1, 3))
    images = ImageList(torch.zeros(1, 3, 64, 64), [(48.5, 64.0)])
    gt = [instances([[8.0, 16, 40, 48]], [1], (48, 64))]
    (labels,) = tiny_yolox().label_dense(images, (deltas, objectness, classes, None), gt)
    is_fg = labels.classes < 3
    assert is_fg.any() and (labels.classes[is_fg] == 1).all() and torch.equal(labels.centerness, is_fg.float())
    expected = torch.tensor([8, 16 * 48.5 / 48, 40, 48.5]).expand(int(is_fg.sum()), 4)
    torch.testing.assert_close(labels.boxes[is_fg], expected)
    chosen = torch.full((1, 84), -1).index_fill_(1, torch.tensor([5]), 0)
    model = tiny_yolox(head=yolox_head(selector=True), select_assigner=lambda *_: Assignment(chosen, None))
    (labels,) = model.label_dense(images, (deltas, objectness, classes, objectness), gt)
    assert (labels.classes < 3).nonzero().tolist() == [[5]]  # with a selector, of its own assignment


def test_yolox_counts_the_anchors_of_each_level():
    head, anchors = yolox_head(num_anchors=2), [[(8, 8), (16, 16)]] * 3
    model = tiny_yolox(head=head, anchor_sizes=anchors, assigner=AnchorAssigner()).eval()
    (dense,) = model.predict_dense(None, head([torch.zeros(1, 8, n, n) for n in (4, 2, 1)]))
    assert dense.num_points == [32, 8, 2] and len(dense.boxes) == 42


class Opaque(DenseDetector):
    def __init__(self):
        nn.Module.__init__(self)


def test_a_detector_without_the_methods_is_an_error():
    with pytest.raises(UserError, match="Opaque lacks predict_dense, label_dense, select.* VFNet"):
        OracleStudy(Opaque())


def test_a_dataset_without_boxes_is_an_error(toy_coco, tmp_path):
    content = json.loads(pathlib.Path(toy_coco[1]).read_text())
    del content["annotations"]
    (tmp_path / "bare.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="has no annotations, and an oracle needs them"):
        OracleEvaluator(register_coco(toy_coco[0], str(tmp_path / "bare.json")))


CONFIG = "configs/vfnet/vfnet_thin_bccd.py"


@pytest.fixture(scope="module")
def command(toy_coco, tmp_path_factory):
    """Arguments of train_net.py that make the thin VFNet tiny, its weights, and where it writes."""
    folder = tmp_path_factory.mktemp("study")
    data = [item for item in toy_overrides(toy_coco, folder) if item.startswith(("dataset", "train.pic", "train.dev"))]
    overrides = [
        *data,
        f"train.output_dir={folder}",
        "dataloader.test.mapper.augmentations.0.short_edge=132",
        "model.backbone.bottom_up.stages.base_channels=8",
        "model.backbone.bottom_up.stem.out_channels=8",
        "model.backbone.out_channels=32",
        "model.head.feat_channels=32",
        "model.test_score_thresh=0.0",
    ]
    torch.manual_seed(0)
    model = instantiate(load_config(CONFIG, overrides).model)
    torch.save({"model": model.state_dict()}, folder / "weights.pth")
    return folder, overrides


def test_command(command, capsys):
    folder, overrides = command
    weights = str(folder / "weights.pth")
    train_net(parse_arguments(["--config-file", CONFIG, "--eval-only", f"train.init_checkpoint={weights}", *overrides]))
    usual = json.loads((folder / "results.json").read_text())["bbox"]
    capsys.readouterr()
    oracle_study.main(["--config-file", CONFIG, *overrides, "--weights", weights])
    printed = capsys.readouterr().out
    written = json.loads((folder / "oracle_study" / "results.json").read_text())
    assert list(written["oracle_study"]) == WITHOUT
    assert written["oracle_study"]["none"] == {name: usual[name] for name in COLUMNS} and usual["AP"] > 0
    table = (folder / "oracle_study" / "table.md").read_text()
    assert table in printed and [line.split("|")[1].strip() for line in table.splitlines()[4:]] == WITHOUT
    best = written["oracle_study"]["gt_bbox"]
    assert f"{best['AP']:.1f}" in table and best["AP"] > usual["AP"]


def test_what_the_command_cannot_study(command):
    _, overrides = command
    with pytest.raises(UserError, match="tta.enabled"):
        oracle_study.main(["--config-file", CONFIG, "--weights", "x", *overrides, "tta.enabled=true"])
    with pytest.raises(UserError, match="yacs"):
        oracle_study.main(["--config-file", "configs/yacs/vfnet.yaml", "--weights", "x"])
