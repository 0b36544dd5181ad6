import json
import math

from dense_d2.errors import UserError
from dense_d2.evaluation import StreamingCOCOEvaluator, TimedModel, coco_numbers, evaluate
from dense_d2.evaluation.latency import latency_of_images, read_latency
from dense_d2.evaluation.stream_clock import Output, StreamStats, match_outputs, simulate_stream, stream_stats
from dense_d2.evaluation.streaming import read_sequences, streaming_numbers
from tools import streaming_ap

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from torch import nn

FPS = 10.0


def simulate(num_frames, latency, **options):
    """[(completion, input frame)] with latencies and times in frames."""
    latencies = np.asarray(latency) / FPS
    return [(round(x.time * FPS, 6), x.frame) for x in simulate_stream(num_frames, FPS, latencies, **options)]


def inputs_shown(num_frames, latency, eta=0.0, **options):
    """The input frame of what is shown at each frame, None for a miss."""
    outputs = simulate_stream(num_frames, FPS, np.asarray(latency) / FPS, **options)
    return [outputs[m].frame if m >= 0 else None for m in match_outputs(num_frames, FPS, outputs, eta)]


def test_latency_of_1_4_frames_by_hand():
    """Free at 1.4 and 2.8: frames 1 and 2 are the newest then. The run on frame 2 would end at 4.2, after the video."""
    assert simulate(4, 1.4) == [(1.4, 0), (2.8, 1)]
    assert inputs_shown(4, 1.4) == [None, None, 0, 1]
    outputs = simulate_stream(4, FPS, 0.14)
    matches = match_outputs(4, FPS, outputs)
    assert matches == [-1, -1, 0, 1]
    stats = stream_stats(outputs, matches)
    assert stats == StreamStats(frames=4, processed=2, in_time=0, misses=2, mismatch=4)
    assert stats.mean_mismatch == 2


def test_a_fast_detector_waits_for_the_next_frame_and_is_one_frame_late():
    assert simulate(4, 0.6) == [(0.6, 0), (1.6, 1), (2.6, 2), (3.6, 3)]
    assert inputs_shown(4, 0.6) == [None, 0, 1, 2]


def test_an_output_that_completes_when_a_frame_arrives_counts_for_it():
    assert inputs_shown(4, 1.0) == [None, 0, 1, 2]
    assert inputs_shown(4, 1.001) == [None, None, 0, 1]
    assert simulate(4, 4.0) == []  # at the end of the video it is too late


@pytest.mark.parametrize("schedule", ["eager", "shrinking_tail"])
@pytest.mark.parametrize("fps, frames", [(30.0, 1), (30.0, 3), (25.0, 7), (29.97, 2), (60.0, 11), (49.0, 3)])
def test_whole_frames_stay_whole(fps, frames, schedule):
    """1 / 30 of a second is no binary fraction; an output must not slip by a frame for that after 300 of them."""
    outputs = simulate_stream(300, fps, frames / fps, schedule=schedule)
    assert [x.frame for x in outputs] == list(range(0, 300 - frames, frames))
    matches = match_outputs(300, fps, outputs)
    assert [outputs[m].frame for m in matches[frames:]] == [i // frames * frames - frames for i in range(frames, 300)]


@pytest.mark.parametrize("schedule", ["eager", "shrinking_tail", "infinite"])
def test_only_an_infinitely_fast_detector_is_in_time(schedule):
    assert inputs_shown(5, 0.0, schedule=schedule) == [0, 1, 2, 3, 4]
    for latency in (0.01, 0.9, 2.3):
        shown = inputs_shown(9, latency, schedule=schedule)
        assert shown[0] is None
        assert all(frame < i for i, frame in enumerate(shown) if frame is not None)


def test_each_run_takes_the_latency_of_its_input():
    """Frame 0 takes 2.5, so frame 2 is next (0.2), then frame 3 (0.5)."""
    assert simulate(5, [2.5, 9, 0.2, 0.5, 3]) == [(2.5, 0), (2.7, 2), (3.5, 3)]


def test_shrinking_tail_waits_where_that_pays():
    """Latency 1.6 frames. Eager: at 1.6 frame 1, which ends at 3.2. Waiting for frame 2 ends at 3.6: both are shown at
    frame 4, and the second is newer."""
    assert simulate(5, 1.6) == [(1.6, 0), (3.2, 1), (4.8, 3)]
    assert simulate(5, 1.6, schedule="shrinking_tail") == [(1.6, 0), (3.6, 2)]
    assert inputs_shown(5, 1.6) == [None, None, 0, 0, 1]
    assert inputs_shown(5, 1.6, schedule="shrinking_tail") == [None, None, 0, 0, 2]


def test_shrinking_tail_goes_on_where_waiting_does_not_pay():
    """Latency 1.4: the run from 1.4 to 2.8 begins at 0.4 of a frame and ends at 0.8, so it is made; that from 2.8 would
    end at 4.2, 0.8 and 0.2, so it waits for 3."""
    assert simulate(6, 1.4, schedule="shrinking_tail") == [(1.4, 0), (2.8, 1), (4.4, 3), (5.8, 4)]
    assert simulate(6, 2.0, schedule="shrinking_tail") == simulate(6, 2.0)
    assert simulate(6, 0.7, schedule="shrinking_tail") == simulate(6, 0.7)


def test_shrinking_tail_decides_by_the_mean():
    assert simulate(5, 1.6, schedule="shrinking_tail", mean_latency=1.2 / FPS) == simulate(5, 1.6)
    # with a mean of 1.7, that from 2.4 would end at 4.1
    assert simulate(5, 1.2, schedule="shrinking_tail", mean_latency=1.7 / FPS) == [(1.2, 0), (2.4, 1), (4.2, 3)]
    assert simulate(5, [1.6, 1.6, 1.3, 1.6, 1.6], schedule="shrinking_tail")[1] == (3.3, 2)


def test_shrinking_tail_at_whole_frames():
    """In binary 2.3 - 2 + 1.7 is below 2, and so is the mean of many 0.2 s at 10 per second; the rule must see 2."""
    assert simulate(6, 2.3, schedule="shrinking_tail", mean_latency=1.7 / FPS) == [(2.3, 0), (5.3, 3)]
    mean = np.full(300, 2 / FPS).mean()
    assert mean * FPS < 2
    assert simulate(6, 2.0, schedule="shrinking_tail", mean_latency=mean) == [(2.0, 0), (4.0, 2)]


def test_infinite_devices_answer_in_the_order_of_completion():
    """Frame 0 takes 3.5 and so comes after frames 1 and 2; until frame 3's output it is the last word, as in sAP."""
    assert simulate(6, [3.5, 0.5, 0.5, 1.5, 9, 1], schedule="infinite") == [(1.5, 1), (2.5, 2), (3.5, 0), (4.5, 3)]
    assert inputs_shown(6, [3.5, 0.5, 0.5, 1.5, 9, 1], schedule="infinite") == [None, None, 1, 2, 0, 3]
    assert inputs_shown(6, 2.5, schedule="infinite") == [None, None, None, 0, 1, 2]


def test_stride():
    assert simulate(6, 0.5, stride=2) == [(0.5, 0), (2.5, 2), (4.5, 4)]
    assert simulate(6, 0.5, stride=3, schedule="infinite") == [(0.5, 0), (3.5, 3)]
    # it comes to 0, 1 (at 1.4, skipped), 2, 3 (at 3.4, skipped), 4
    assert simulate(6, 1.4, stride=2) == [(1.4, 0), (3.4, 2), (5.4, 4)]
    # it comes to 0, 2 (skipped), 3: the count decides, not the number of the frame
    assert simulate(6, 2.0, stride=2) == [(2.0, 0), (5.0, 3)]


def test_eta_moves_the_question():
    assert inputs_shown(4, 0.6, eta=-1.0) == [0, 1, 2, 3]
    assert inputs_shown(4, 0.6, eta=0.5) == [None, None, 0, 1]
    assert inputs_shown(4, 2 / 3, eta=1 / 3) == [None, 0, 1, 2]  # completes just when it is asked about


def test_nothing_to_show():
    assert simulate(3, 5.0) == [] and simulate(0, 1.0) == [] and simulate(0, []) == []
    stats = stream_stats([], match_outputs(3, FPS, []))
    assert stats == StreamStats(3, 0, 0, 3, 0) and math.isnan(stats.mean_mismatch)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(schedule="lazy"), "'lazy'.*shrinking_tail"),
        (dict(stride=0), "stride is 0"),
        (dict(stride=2, schedule="shrinking_tail"), "own rule"),
        (dict(fps=0.0), "fps is 0"),
        (dict(latencies=-0.1), "negative"),
        (dict(latencies=math.nan), "not finite"),
        (dict(latencies=[0.1, 0.1]), "2 latencies for 3 frames"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        simulate_stream(**{"num_frames": 3, "fps": FPS, "latencies": 0.1, **arguments})


def test_outputs_out_of_order_are_an_error():
    with pytest.raises(ValueError, match="sort them by time"):
        match_outputs(3, FPS, [Output(0.2, 1), Output(0.1, 0)])


def video(lengths=(4,), speed=30):
    """One 20-pixel box a frame, moving by more than its width; perfect detections. Image ids are 10 times the index."""
    images, annotations, detections = [], [], []
    for sid, length in enumerate(lengths):
        for fid in range(length):
            image_id = 10 * (len(images) + 1)
            box = [float(speed * fid), 50.0 * sid, 20.0, 20.0]
            images.append({"id": image_id, "sid": sid, "fid": fid, "width": 640, "height": 480, "file_name": "x.png"})
            annotations.append({"id": len(images), "image_id": image_id, "category_id": 3, "bbox": box, "iscrowd": 0})
            detections.append({"image_id": image_id, "category_id": 3, "bbox": box, "score": 0.9})
    dataset = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 3, "name": "car"}],
        "sequences": [f"drive{sid}" for sid in range(len(lengths))],
        "seq_dirs": [f"drive{sid}" for sid in range(len(lengths))],
    }
    return dataset, detections


def test_latency_zero_is_offline_ap():
    dataset, detections = video((4, 3))
    for index in (0, 4, 5):
        detections[index]["bbox"] = [500.0, 400.0, 20.0, 20.0]  # not found
    offline = coco_numbers(dataset, detections).stats
    assert 0.1 < offline[0] < 0.9
    numbers, stats = streaming_numbers(dataset, detections, 0.0)
    np.testing.assert_array_equal(numbers.stats, offline)
    assert stats == StreamStats(frames=7, processed=7, in_time=7, misses=0, mismatch=0)


def test_ap_by_hand():
    """The box stands still but for frame 3 of 4, which differs: of frames 0 to 3 shown are nothing, 0, 1, 2. Found are 2
    of 4, and then there is one false one: precision 1 up to recall 0.5, that is 51 of 101 recall points."""
    dataset, detections = video((4,), speed=0)
    for x in (dataset["annotations"][3], detections[3]):
        x["bbox"] = [300.0, 300.0, 20.0, 20.0]
    for x, score in zip(detections, (0.9, 0.8, 0.7, 0.6)):
        x["score"] = score
    numbers, stats = streaming_numbers(dataset, detections, 0.5 / FPS, fps=FPS)
    assert numbers.stats[0] == pytest.approx(51 / 101)
    assert numbers.stats[8] == pytest.approx(0.5)  # AR
    assert stats == StreamStats(frames=4, processed=4, in_time=0, misses=1, mismatch=3)


def test_too_slow_for_the_video_is_ap_0():
    dataset, detections = video((4,), speed=0)
    numbers, stats = streaming_numbers(dataset, detections, 5 / FPS, fps=FPS)
    assert numbers.stats[0] == 0 and (stats.processed, stats.misses) == (0, 4)


def test_a_box_that_moves_on_is_lost():
    numbers, _ = streaming_numbers(*video((6,)), 0.01)
    assert numbers.stats[0] == 0


def test_sequences_have_their_own_clocks():
    """Latency 2.5 frames: the sequence of 2 frames sees nothing, that of 4 one output, at its last frame."""
    dataset, detections = video((2, 4), speed=0)
    numbers, stats = streaming_numbers(dataset, detections, 2.5 / FPS, fps=FPS)
    assert stats == StreamStats(frames=6, processed=1, in_time=0, misses=5, mismatch=3)
    assert numbers.stats[8] == pytest.approx(1 / 6)
    # the order of the images of different sequences does not matter
    dataset["images"] = [dataset["images"][i] for i in (2, 0, 3, 1, 4, 5)]
    assert read_sequences(dataset) == [[10, 20], [30, 40, 50, 60]]
    assert streaming_numbers(dataset, detections, 2.5 / FPS, fps=FPS)[1] == stats


def test_inputs_are_left_alone():
    dataset, detections = video((3,))
    before = json.dumps([dataset, detections])
    streaming_numbers(dataset, detections, 0.05)
    assert json.dumps([dataset, detections]) == before


def damage(change):
    dataset, _ = video((3, 2))
    change(dataset)
    return dataset


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: d.pop("sequences"), "no `sequences`"),
        (lambda d: d["images"][1].pop("sid"), "Image 20 has sid None"),
        (lambda d: d["images"][1].update(sid=2), "sid 2; .* 2 sequences"),
        (lambda d: d["images"].pop(1), "'drive0' lacks the frames between fid 0 and 2"),
        (lambda d: d["images"][1].update(fid=0), "fid 0 follows fid 0"),
        (lambda d: d["images"].reverse(), "'drive0': fid 1 follows fid 2"),
        (lambda d: d["images"][4].pop("fid"), "'drive1' has an image with fid None"),
        (lambda d: d["images"][4].update(id=10), "1 image ids .* more than once"),
    ],
)
def test_files_that_are_no_video(change, message):
    with pytest.raises(UserError, match=message):
        read_sequences(damage(change))


def test_the_order_of_the_file_counts_without_frame_numbers():
    dataset, _ = video((2, 1))
    for image in dataset["images"]:
        del image["fid"]
    dataset["sequences"].append("empty")
    assert read_sequences(dataset) == [[10, 20], [30]]


def test_samples_and_measured_latencies(tmp_path):
    samples = read_latency([0.01, 0.03])
    latencies, mean = latency_of_images(range(1000), samples, seed=1, perf_factor=2.0)
    assert mean == pytest.approx(0.01) and set(latencies.values()) == {0.005, 0.015}
    assert 400 < sum(x == 0.005 for x in latencies.values()) < 600
    assert latencies == latency_of_images(range(1000), samples, seed=1, perf_factor=2.0)[0]
    assert latencies != latency_of_images(range(1000), samples, seed=2, perf_factor=2.0)[0]
    assert latency_of_images([7, 8], {7: 0.1, 8: 0.3}, perf_factor=2) == ({7: 0.05, 8: 0.15}, pytest.approx(0.1))
    path = tmp_path / "latencies.json"
    for content in ([0.02, 1], {"type": "empirical", "samples": [0.02, 1]}):
        path.write_text(json.dumps(content))
        assert read_latency(str(path)).tolist() == [0.02, 1.0]
    assert read_latency(None) is None and read_latency(1).tolist() == [1.0]


@pytest.mark.parametrize("value", [[], [0.1, "x"], [0.1, True], -1.0, math.nan, {"samples": [1]}])
def test_wrong_latencies(value):
    with pytest.raises(UserError):
        read_latency(value)


def test_perf_factor_is_positive():
    with pytest.raises(UserError, match="perf_factor is 0"):
        latency_of_images([1], read_latency(0.1), perf_factor=0)


@pytest.fixture
def register(tmp_path):
    names = []

    def add(content):
        path = tmp_path / f"{len(names)}.json"
        path.write_text(json.dumps(content))
        name = f"streaming_test_{path}"
        ids = [x["id"] for x in content["categories"]]
        MetadataCatalog.get(name).set(
            json_file=str(path),
            thing_classes=[x["name"] for x in content["categories"]],
            thing_dataset_id_to_contiguous_id={k: i for i, k in enumerate(ids)},
        )
        names.append(name)
        return name

    yield add
    for name in names:
        MetadataCatalog.pop(name)


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


def test_timed_model():
    model = TimedModel(Oracle(video((2,))[0]), warmup=0, extra_seconds=5.0)
    (output,) = model([{"image_id": 10}])
    assert 5 < output["seconds"] < 6 and output["instances"].scores.tolist() == pytest.approx([0.9])
    with pytest.raises(UserError, match="2 frames.*batch 1"):
        model([{"image_id": 10}, {"image_id": 20}])


def test_evaluator_needs_latencies_frames_and_videos(register):
    dataset, _ = video((3,))
    name = register(dataset)
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
    dataset["coco_mapping"][2] = 0
    name = register(dataset)
    for label, expected in ((2, 100), (5, 0)):
        evaluator = StreamingCOCOEvaluator(name, latency=0.0, coco_classes=True)
        results = run(Oracle(dataset, label), dataset, evaluator)
        assert results["bbox"]["AP"] == results["streaming"]["sAP"] == pytest.approx(expected)
    with pytest.raises(UserError, match="predicted class 80 .* 80 entries"):
        run(Oracle(dataset, 80), dataset, StreamingCOCOEvaluator(name, latency=0.0, coco_classes=True))


@pytest.fixture
def files(tmp_path):
    def write(dataset, detections):
        paths = [tmp_path / "annotations.json", tmp_path / "detections.json"]
        for path, content in zip(paths, (dataset, detections)):
            path.write_text(json.dumps(content))
        return ["--annotations", str(paths[0]), "--detections", str(paths[1]), "--fps", str(FPS)]

    return write


def test_command(files, capsys, tmp_path):
    arguments = files(*video((4,), speed=0))
    streaming_ap.main([*arguments, "--latency", "0.05"])
    printed = capsys.readouterr().out
    assert "processed 4, in time 0, misses 1, mean mismatch 1.00 frames" in printed
    assert "| AP    | 100.00    | 75.25" in printed  # recall 3/4: 76 of 101
    (tmp_path / "latencies.json").write_text("[0.14]")
    streaming_ap.main([*arguments, "--latencies", str(tmp_path / "latencies.json"), "--schedule", "infinite", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["streaming"]["misses"] == 2 and report["streaming"]["processed"] == 3
    assert report["offline"]["AP"] == pytest.approx(100) and report["offline"]["APl"] is None


def test_command_errors(files):
    dataset, detections = video((4,))
    with pytest.raises(UserError, match=r"category ids .* \[62\]"):
        streaming_ap.main([*files(dataset, [{**detections[0], "category_id": 62}]), "--latency", "0"])
    with pytest.raises(UserError, match="first: 77"):
        streaming_ap.main([*files(dataset, [{**detections[0], "image_id": 77}]), "--latency", "0"])
    with pytest.raises(UserError, match="exchanged"):
        streaming_ap.main([*files(detections, dataset), "--latency", "0"])
    with pytest.raises(UserError, match="no annotations"):
        streaming_ap.main([*files({**dataset, "annotations": []}, detections), "--latency", "0"])
    with pytest.raises(SystemExit):
        streaming_ap.main(files(dataset, detections))
