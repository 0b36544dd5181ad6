"""Streaming AP of a detector that is evaluated."""

import json
import math

from dense_d2.errors import UserError
from dense_d2.evaluation import StreamingCOCOEvaluator, TimedModel, evaluate
from dense_d2.evaluation.latency import latency_of_images, read_latency
from dense_d2.evaluation.streaming import streaming_numbers
from tests.dense_d2.video import FPS, video

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from torch import nn


@pytest.fixture
def register(tmp_path):
    names = []

    def add(content):
        path = tmp_path / f"{len(names)}.json"
        path.write_text(json.dumps(content))
        name = f"streaming_test_{path}"
        ids = [x["id"] for x in content["categories"]]
        DatasetCatalog.register(name, list)
        MetadataCatalog.get(name).set(
            json_file=str(path),
            thing_classes=[x["name"] for x in content["categories"]],
            thing_dataset_id_to_contiguous_id={k: i for i, k in enumerate(ids)},
        )
        names.append(name)
        return name

    yield add
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


class Oracle(nn.Module):
    """Detects what the file says; counts its calls."""

    def __init__(self, dataset, label=0):
        super().__init__()
        self.boxes = {x["image_id"]: x["bbox"] for x in dataset["annotations"]}
        self.label, self.calls = label, 0

    def forward(self, inputs):
        self.calls += 1
        return [{"instances": self.instances(x["image_id"])} for x in inputs]

    def instances(self, image_id):
        x, y, w, h = self.boxes[image_id]
        instances = Instances((480, 640))
        instances.pred_boxes = Boxes(torch.tensor([[x, y, x + w, y + h]]))
        instances.scores, instances.pred_classes = torch.tensor([0.9]), torch.tensor([self.label])
        return instances


def run(model, dataset, evaluator, skip=()):
    loader = [[{"image_id": x["id"]}] for x in dataset["images"] if x["id"] not in skip]
    return evaluate(model, loader, evaluator)


def test_evaluator_with_given_latency(register, tmp_path):
    dataset, _ = video((4, 2), speed=0)
    evaluator = StreamingCOCOEvaluator(register(dataset), str(tmp_path / "out"), latency=0.5 / FPS, fps=FPS)
    results = run(Oracle(dataset), dataset, evaluator)
    assert results["bbox"]["AP"] == pytest.approx(100)
    streaming = results["streaming"]
    assert streaming["sAR100"] == pytest.approx(100 * 4 / 6) and math.isnan(streaming["sAPl"])
    assert streaming["sAP"] == pytest.approx(100 * 67 / 101)  # recall 4/6: the points 0, 0.01 ... 0.66
    counts = {k: v for k, v in streaming.items() if not k.startswith("s")}
    assert counts == {"frames": 6, "processed": 6, "in_time": 0, "misses": 2, "mean_mismatch": 1.0}
    # the file it leaves is what the command reads
    saved = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    numbers, _ = streaming_numbers(dataset, saved, 0.5 / FPS, fps=FPS)
    assert 100 * numbers.stats[0] == pytest.approx(streaming["sAP"])


def test_shrinking_tail_takes_the_mean_of_the_samples_not_of_the_draw(register):
    """The mean is 1.7 frames, seed 0 draws 1.2 for all five: three runs, as by hand above. A mean of 1.2 gives four."""
    dataset, _ = video((5,), speed=0)
    samples = [1.2 / FPS] * 9 + [6.2 / FPS]
    assert set(latency_of_images(range(5), read_latency(samples), seed=0)[0].values()) == {1.2 / FPS}
    options = dict(latency=samples, fps=FPS, schedule="shrinking_tail", seed=0)
    results = run(Oracle(dataset), dataset, StreamingCOCOEvaluator(register(dataset), **options))
    assert results["streaming"]["processed"] == 3
    # seed 7 draws 6.2 for the first
    results = run(Oracle(dataset), dataset, StreamingCOCOEvaluator(register(dataset), **{**options, "seed": 7}))
    assert results["streaming"]["processed"] == 0


def test_stride_eta_and_performance(register):
    """Runs of half a frame on frames 0, 2 and 4; each frame is asked about when the next arrives."""
    dataset, _ = video((5,), speed=0)
    options = dict(latency=1.2 / FPS, perf_factor=2.4, fps=FPS, stride=2, eta=-1.0)
    found = run(Oracle(dataset), dataset, StreamingCOCOEvaluator(register(dataset), **options))["streaming"]
    assert (found["processed"], found["in_time"], found["mean_mismatch"]) == (3, 3, 0.4)
    dataset, _ = video((6,))
    found = run(Oracle(dataset), dataset, StreamingCOCOEvaluator(register(dataset), latency=2 / 30))["streaming"]
    assert (found["processed"], found["misses"]) == (2, 2)  # two frames, at 30 per second


def test_chosen_images_are_scored_on_the_whole_clock(register):
    dataset, _ = video((4,), speed=0)
    evaluator, model = StreamingCOCOEvaluator(register(dataset), latency=0.5 / FPS, fps=FPS), Oracle(dataset)
    for img_ids, expected in (([10, 40], 51 / 101), ([20, 40], 1)):  # frame 0 is always missed
        evaluator.reset()
        for image in dataset["images"]:
            inputs = [{"image_id": image["id"]}]
            evaluator.process(inputs, model(inputs))
        assert evaluator.evaluate(img_ids=img_ids)["streaming"]["sAP"] == pytest.approx(100 * expected)


def test_evaluator_with_measured_latency(register, monkeypatch):
    """The clock of the test says 0.25, 0.05 and so on for the frames: 2.5, 0.5, 0.5, 1.5 frames. 0 is shown from 2.5 on;
    then frame 2 takes 0.5 and ends at 3.0."""
    dataset, _ = video((4,), speed=0)
    ticks = iter(np.cumsum([0, 0.25, 1, 0.05, 1, 0.05, 1, 0.15]).tolist())
    model = TimedModel(Oracle(dataset), warmup=3)
    monkeypatch.setattr("dense_d2.evaluation.latency.time.perf_counter", lambda: next(ticks))
    evaluator = StreamingCOCOEvaluator(register(dataset), fps=FPS)
    evaluator.reset()
    for image in dataset["images"]:
        inputs = [{"image_id": image["id"]}]
        evaluator.process(inputs, model(inputs))
    streaming = evaluator.evaluate()["streaming"]
    assert (streaming["processed"], streaming["misses"], streaming["mean_mismatch"]) == (2, 3, 1.0)
    assert model.model.calls == 3 + 4


def test_predictions_of_all_ranks_count(register, monkeypatch):
    """Frames are dealt out to two ranks in turn; each alone lacks half of the video."""
    dataset, _ = video((4,), speed=0)
    name, model = register(dataset), Oracle(dataset)
    ranks = [StreamingCOCOEvaluator(name, latency=0.5 / FPS, fps=FPS) for _ in range(2)]

    def deal_out():
        for rank, evaluator in enumerate(ranks):
            evaluator.reset()
            for image in dataset["images"][rank::2]:
                inputs = [{"image_id": image["id"]}]
                evaluator.process(inputs, model(inputs))

    deal_out()
    with pytest.raises(UserError, match="2 of 4 frames"):
        ranks[0].evaluate()
    deal_out()
    monkeypatch.setattr("detectron2.utils.comm.gather", lambda data, dst: [x._predictions for x in ranks])
    assert ranks[0].evaluate()["streaming"]["sAP"] == pytest.approx(100 * 76 / 101)


def test_without_annotations_nothing_is_scored(register, tmp_path):
    dataset, _ = video((3,))
    model = Oracle(dataset)
    del dataset["annotations"]
    evaluator = StreamingCOCOEvaluator(register(dataset), str(tmp_path / "out"), latency=0.01)
    assert "streaming" not in run(model, dataset, evaluator)
    assert len(json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())) == 3


def test_timed_model():
    model = TimedModel(Oracle(video((2,))[0]), warmup=0, extra_seconds=5.0)
    (output,) = model([{"image_id": 10}])
    assert 5 < output["seconds"] < 6 and output["instances"].scores.tolist() == pytest.approx([0.9])
    with pytest.raises(UserError, match="2 frames.*batch 1"):
        model([{"image_id": 10}, {"image_id": 20}])


def test_evaluator_needs_latencies_frames_and_videos(register):
    dataset, _ = video((3,))
    name = register(dataset)
    assert StreamingCOCOEvaluator(name).needs_seconds and not StreamingCOCOEvaluator(name, latency=0.01).needs_seconds
    with pytest.raises(UserError, match="not measured.*TimedModel"):
        run(Oracle(dataset), dataset, StreamingCOCOEvaluator(name))
    with pytest.raises(UserError, match=r"1 of 3 frames have no prediction \(first: image 20\)"):
        run(Oracle(dataset), dataset, StreamingCOCOEvaluator(name, latency=0.01), skip=(20,))
    with pytest.raises(UserError, match="no `coco_mapping`"):
        StreamingCOCOEvaluator(name, latency=0.01, coco_classes=True)
    with pytest.raises(UserError, match="schedule"):
        StreamingCOCOEvaluator(name, latency=0.01, schedule="lazy")
    del dataset["sequences"]
    with pytest.raises(UserError, match="no `sequences`"):
        StreamingCOCOEvaluator(register(dataset), latency=0.01)


def test_coco_classes_are_translated_or_dropped(register):
    dataset, _ = video((3,))
    dataset["coco_mapping"] = [8] * 80
    dataset["coco_mapping"][2:4] = 0, -1
    name = register(dataset)
    for label, expected in ((2, 100), (3, 0), (5, 0)):
        evaluator = StreamingCOCOEvaluator(name, latency=0.0, coco_classes=True)
        results = run(Oracle(dataset, label), dataset, evaluator)
        assert results["bbox"]["AP"] == results["streaming"]["sAP"] == pytest.approx(expected)
    with pytest.raises(UserError, match="predicted class 80 .* 80 entries"):
        run(Oracle(dataset, 80), dataset, StreamingCOCOEvaluator(name, latency=0.0, coco_classes=True))
