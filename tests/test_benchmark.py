import argparse
import multiprocessing

from tools import benchmark

import pytest


class Clock:
    """Time passes only where `pass_` is called."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(benchmark.time, "perf_counter", lambda: self.now)

    def call(self, durations, stages=None):
        """A callable that takes one duration after the other."""
        durations = iter(durations)

        def run():
            self.now += next(durations)
            return stages

        return run


def test_a_short_call_is_repeated_and_the_first_left_out(monkeypatch):
    run = Clock(monkeypatch).call([0.4, 0.1, 0.2, 0.3, 9.0])
    assert benchmark.timed(run, "cpu", least=0.5) == {"": pytest.approx(0.2)}


def test_a_long_call_is_timed_once(monkeypatch):
    run = Clock(monkeypatch).call([0.6, 9.0], stages={"forward": 0.25})
    assert benchmark.timed(run, "cpu", least=0.5) == {"": pytest.approx(0.6), "forward": 0.25}


def test_an_item_that_dies_is_named():
    item = object.__new__(benchmark.Item)
    item.name = "yolox"
    item.connection, end = multiprocessing.Pipe()
    end.close()
    with pytest.raises(SystemExit, match="yolox: its process ended"):
        item._receive()


def test_ratios_are_of_the_same_round(monkeypatch):
    class Fake:
        values = {"yardstick": [2.0, 4.0, 1.0, 1.0, 1.0, 1.0], "yolox": [1.0, 1.0, 3.0], "yolof": [5.0, 5.0, 5.0]}

        def __init__(self, name, options):
            self.name, self.rest = name, iter(self.values[name])

        def seconds(self):
            seconds = next(self.rest)
            return {"": seconds, "forward": seconds / 2} if self.name == "yolox" else {"": seconds}

        def close(self):
            pass

    monkeypatch.setattr(benchmark, "Item", Fake)
    base, result = benchmark.measure(["yolox", "yolof"], argparse.Namespace(rounds=3))
    assert base == 1.0 and list(result) == ["yolox", "yolox: forward", "yolof"]
    assert result["yolox"] == {"seconds": 1.0, "ratio": 0.5, "ratio_min": 0.25, "ratio_max": 3.0}
    assert result["yolox: forward"]["ratio"] == 0.25 and result["yolof"]["ratio"] == 5.0


def test_items_that_are_to_be_compared_share_rounds():
    names = ["a inference, 640", "a training step, 4", "a inference, 640, authors"]
    assert benchmark.groups(names) == [[names[0], names[2]], [names[1]]]
