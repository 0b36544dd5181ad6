"""The clock of a video against the latency of a detector: which output is complete when a frame is looked at.

Pure functions of numbers; streaming.py scores what they return.

Source: Li et al., "Towards Streaming Perception", ECCV 2020 (arXiv 2005.10420).
Units: latencies and times in seconds, time 0 is the arrival of frame 0; frame i arrives at i / fps.
"""

import bisect
import math
from typing import List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from ..errors import UserError

__all__ = ["SCHEDULES", "Output", "StreamStats", "match_outputs", "simulate_stream", "stream_stats"]

SCHEDULES = ("eager", "shrinking_tail", "infinite")
_DIGITS = 9  # of a frame: a latency of exactly n frames stays n frames after summing


class Output(NamedTuple):
    """One run of the detector."""

    time: float  # of completion
    frame: int  # that was its input


class StreamStats(NamedTuple):
    """How the outputs met the frames. Sums, so that sequences add up."""

    frames: int
    processed: int  # outputs
    in_time: int  # frames that were scored with their own output
    misses: int  # frames before any output
    mismatch: int  # frame minus the input frame of its output, over all frames that have one

    @property
    def mean_mismatch(self) -> float:
        """Frames between what is seen and what is shown, over the frames that have an output; NaN if none has."""
        shown = self.frames - self.misses
        return self.mismatch / shown if shown else math.nan


def simulate_stream(
    num_frames: int,
    fps: float,
    latencies: Union[float, Sequence[float]],
    *,
    schedule: str = "eager",
    stride: int = 1,
    mean_latency: Optional[float] = None,
) -> List[Output]:
    """Runs a detector of given latency along a video.

    Args:
        latencies: of every run, or (num_frames,) of the run that has frame i as input.
        schedule: "eager" takes the newest frame as soon as the device is free; "shrinking_tail" lets a frame pass if a
            run of the mean latency r (in frames, above 1) begun now, at t, would end earlier within a frame than it
            began: r < floor(t - floor(t) + r); "infinite" starts every frame on a device of its own when it arrives.
        stride: of the frames a schedule comes to, only the first of so many is processed.
        mean_latency: for "shrinking_tail"; None for the mean of `latencies`.
    Returns:
        outputs by time of completion. What completes at num_frames / fps or later has nothing left to answer and is
        discarded.
    """
    if schedule not in SCHEDULES:
        raise UserError(f"The schedule is '{schedule}'; use one of {', '.join(SCHEDULES)}")
    if stride < 1 or (stride > 1 and schedule == "shrinking_tail"):
        raise UserError(
            f"The stride is {stride}; it is at least 1, and 1 with shrinking_tail, which skips by its own rule"
        )
    if not (math.isfinite(fps) and fps > 0):
        raise UserError(f"fps is {fps}; frames per second are above 0")
    runs = _in_frames(latencies, num_frames, fps)
    if schedule == "infinite":
        # the order of completion, not of the frames: a slow run on an old frame replaces the answer to a newer one
        ends = sorted((round(frame + runs[frame], _DIGITS), frame) for frame in range(0, num_frames, stride))
    else:
        mean = 0.0
        if schedule == "shrinking_tail" and num_frames:
            mean = round(float(np.mean(runs)) if mean_latency is None else mean_latency * fps, _DIGITS)
        ends = _one_device(runs, stride, mean)
    return [Output(end / fps, frame) for end, frame in ends if end < num_frames]


def _one_device(runs: np.ndarray, stride: int, mean: float) -> List[Tuple[float, int]]:
    """(completion, input frame) of every run; times in frames. A `mean` of 0 never waits."""
    clock, last, seen, ends = 0.0, -1, 0, []
    while clock < len(runs):
        frame = math.floor(clock)
        if frame == last:  # nothing new to see
            clock = float(frame + 1)
            continue
        last, seen = frame, seen + 1
        waits = mean > 1 and mean < math.floor(round(clock - frame + mean, _DIGITS))
        if waits or (seen - 1) % stride:
            continue
        clock = round(clock + runs[frame], _DIGITS)
        ends.append((clock, frame))
    return ends


def _in_frames(latencies, num_frames, fps) -> np.ndarray:
    """(num_frames,) latencies as multiples of the time between frames."""
    runs = np.asarray(latencies, dtype=float) * fps
    if runs.ndim and runs.shape != (num_frames,):
        raise UserError(
            f"There are {len(runs)} latencies for {num_frames} frames; give one number or one for each frame"
        )
    if not np.isfinite(runs).all() or (runs < 0).any():
        raise UserError("A latency is negative or not finite; latencies are seconds, 0 or more")
    return np.broadcast_to(runs, (num_frames,))


def match_outputs(num_frames: int, fps: float, outputs: Sequence[Output], eta: float = 0.0) -> List[int]:
    """For each frame the index of the output to score: the last with completion <= (frame - eta) / fps; -1 for none.

    Args:
        outputs: by time of completion.
        eta: frames between the world and the moment it is asked about; above 0 asks earlier, -1 a frame later.
    """
    ends = [round(output.time * fps, _DIGITS) for output in outputs]
    if any(a > b for a, b in zip(ends, ends[1:])):
        raise ValueError("The outputs are not in the order of their completion; sort them by time")
    return [bisect.bisect_right(ends, round(frame - eta, _DIGITS)) - 1 for frame in range(num_frames)]


def stream_stats(outputs: Sequence[Output], matches: Sequence[int]) -> StreamStats:
    """Counts of one sequence.

    Args:
        matches: `match_outputs` of the same outputs.
    """
    lags = [frame - outputs[match].frame for frame, match in enumerate(matches) if match >= 0]
    return StreamStats(len(matches), len(outputs), lags.count(0), len(matches) - len(lags), sum(lags))
