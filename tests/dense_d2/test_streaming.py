"""Streaming AP of given detections and latencies; the command."""

import json
import math

from dense_d2.errors import UserError
from dense_d2.evaluation import coco_numbers
from dense_d2.evaluation.latency import latency_of_images, read_latency
from dense_d2.evaluation.stream_clock import StreamStats
from dense_d2.evaluation.streaming import read_sequences, streaming_numbers
from tests.dense_d2.video import FPS, video
from tools import streaming_ap

import numpy as np
import pytest


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
    _, stats = streaming_numbers(*video((6,)), 2 / 30)  # two frames, at 30 per second
    assert (stats.processed, stats.misses) == (2, 2)


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


def test_what_is_shown_is_what_the_run_saw():
    """Runs on frames 0 and 2 alone, asked about a frame later: 0 and 2 are shown what they hold, 1 and 3 what was before."""
    numbers, _ = streaming_numbers(*video((4,)), 0.5 / FPS, fps=FPS, stride=2, eta=-1.0)
    assert numbers.stats[8] == pytest.approx(0.5)


def test_latencies_of_images_and_their_mean():
    """Five runs of 1.2 frames, then a sequence whose one run takes 4.2: with the mean of 1.7, three as in
    test_shrinking_tail_decides_by_the_mean."""
    latencies = {60: 4.2 / FPS, **{10 * i: 1.2 / FPS for i in range(1, 6)}}
    dataset, detections = video((5, 1), speed=0)
    for schedule, processed in (("eager", 4), ("shrinking_tail", 3)):
        _, stats = streaming_numbers(dataset, detections, latencies, fps=FPS, schedule=schedule)
        assert stats.processed == processed


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
        (lambda d: d["sequences"].clear(), "no `sequences`"),
        (lambda d: d["images"][1].pop("sid"), "Image 20 has sid None"),
        (lambda d: d["images"][1].update(sid=-1), "sid -1; .* 2 sequences"),
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
    assert printed.startswith("4 frames at 10 per second, mean latency 50.0 ms (0.50 frames), schedule eager\n")
    assert "processed 4, in time 0, misses 1, mean mismatch 1.00 frames" in printed
    assert "| AP    | 100.00    | 75.25" in printed  # recall 3/4: 76 of 101
    assert "| APl   | -         | - " in printed  # no box is large
    (tmp_path / "latencies.json").write_text("[0.14]")
    streaming_ap.main([*arguments, "--latencies", str(tmp_path / "latencies.json"), "--schedule", "infinite", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["streaming"]["misses"] == 2 and report["streaming"]["processed"] == 3
    assert report["offline"]["AP"] == pytest.approx(100) and report["offline"]["APl"] is None


def test_options_of_the_command(files, capsys, tmp_path):
    """Samples of 1.2 frames, rarely 6.2: seed 0 draws the first five times, seed 7 the second at once."""
    path = tmp_path / "latencies.json"
    path.write_text(json.dumps([1.2 / FPS] * 9 + [6.2 / FPS]))

    def streaming(*options):
        streaming_ap.main([*files(*video((5,), speed=0)), "--latencies", str(path), "--json", *options])
        return json.loads(capsys.readouterr().out)["streaming"]

    assert streaming("--schedule", "shrinking_tail")["processed"] == 3  # four with the mean of the draw
    assert streaming("--seed", "7")["processed"] == 0
    # half a frame for frames 0, 2 and 4, asked about a frame later
    found = streaming("--perf-factor", "2.4", "--stride", "2", "--eta", "-1")
    assert (found["processed"], found["in_time"], found["mean_mismatch"]) == (3, 3, 0.4)


def test_command_errors(files):
    dataset, detections = video((4,))
    with pytest.raises(UserError, match=r"category ids .* \[62\]"):
        streaming_ap.main([*files(dataset, [{**detections[0], "category_id": 62}]), "--latency", "0"])
    with pytest.raises(UserError, match="first: 77"):
        streaming_ap.main([*files(dataset, [{**detections[0], "image_id": 77}]), "--latency", "0"])
    with pytest.raises(UserError, match="exchanged"):
        streaming_ap.main([*files(detections, dataset), "--latency", "0"])
    broken = files(dataset, detections)
    with open(broken[3], "a") as file:
        file.write("]")
    with pytest.raises(UserError, match="detections.json is no JSON"):
        streaming_ap.main([*broken, "--latency", "0"])
    for key in ("annotations", "categories"):
        with pytest.raises(UserError, match=f"annotations.json has no {key}"):
            streaming_ap.main([*files({**dataset, key: []}, detections), "--latency", "0"])
    for key in ("score", "category_id"):
        incomplete = [detections[0], {name: value for name, value in detections[1].items() if name != key}]
        with pytest.raises(UserError, match=f"detections.json: entry 1, .*'image_id': 20.* has no {key};"):
            streaming_ap.main([*files(dataset, incomplete), "--latency", "0"])
    with pytest.raises(SystemExit):
        streaming_ap.main(files(dataset, detections))
