"""The clock of a stream: which output is shown at which frame."""

import math

from dense_d2.errors import UserError
from dense_d2.evaluation.stream_clock import Output, StreamStats, match_outputs, simulate_stream, stream_stats
from tests.dense_d2.video import FPS

import numpy as np
import pytest


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
    for fast in (0.7, [1.5, 0.5, 0.5, 0.5, 0.5, 0.5]):  # on average a run ends before the next frame
        assert simulate(6, fast, schedule="shrinking_tail") == simulate(6, fast)


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
