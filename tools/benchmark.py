"""Speed as a ratio: every figure is timed in rounds with a yardstick beside it, so that machines compare.

    python -m tools.benchmark [--rounds 7] [--threads 2] [--only yolof] [--device cuda --amp bfloat16] [--json FILE]

The yardstick is torchvision's ResNet-50 forward at 1x3x800x1088 in float32. A round times the yardstick and, in turn, the items
whose names begin alike, each in a process of its own; reported are the median time of an item and the median, over the rounds,
of its ratio to the yardstick of that round. A noisy neighbour slows all of them. A short item is called again and again, as in a
loop over images: after the yardstick, its first call finds nothing in the caches. Weights are random; detection thresholds are
set so that as many candidates reach NMS as in a trained model. An item may time its own stages, which are then rows below it.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time

import tools.benchmark_asff  # noqa: F401  (registers items)
import tools.benchmark_authors  # noqa: F401
import tools.benchmark_vfnet  # noqa: F401
import tools.benchmark_yolof  # noqa: F401
import tools.benchmark_yolox  # noqa: F401
from dense_d2.evaluation.timing import describe_machine
from tools.benchmark_items import ITEMS

import torch
from tabulate import tabulate

LEAST_SECONDS = 0.5  # of calling a short item in one round
YARDSTICK = "yardstick"


def make_yardstick(options):
    from torchvision.models import resnet50

    model = resnet50(weights=None).eval().to(options.device)
    image = torch.zeros(1, 3, 800, 1088, device=options.device)

    def run():
        with torch.inference_mode():
            model(image)

    return run


class Item:
    """An item in a process of its own: sharing one, it would find memory that others left to the allocator, by which the
    yardstick got up to 1.5 times faster.
    """

    def __init__(self, name, options):
        context = multiprocessing.get_context("spawn")
        self.name = name
        self.connection, end = context.Pipe()
        self.process = context.Process(target=_serve, args=(end, name, options), daemon=True)
        self.process.start()
        end.close()  # only the process has it now: if that dies, `recv` says so
        self._receive()  # it is warm: from here on it works only when asked

    def seconds(self):
        """Means {"": seconds} of the calls of a round, and {stage: seconds} where calls return them."""
        self.connection.send(None)
        return self._receive()

    def _receive(self):
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            raise SystemExit(f"{self.name}: its process ended, for the reason above") from None

    def close(self):
        self.process.kill()
        self.process.join()


def _serve(connection, name, options):
    torch.set_num_threads(options.threads)
    run = {YARDSTICK: make_yardstick, **ITEMS}[name](options)
    answer = run()  # warm up
    while True:
        connection.send(answer)
        connection.recv()
        answer = timed(run, options.device)


def timed(run, device, least=LEAST_SECONDS):
    """What `Item.seconds` returns. A call of less than `least` seconds is repeated until they have passed, the first left out."""
    calls = [_timed_call(run, device)]
    if calls[0][""] < least:
        calls = []
        while sum(call[""] for call in calls) < least:
            calls.append(_timed_call(run, device))
    return {stage: statistics.fmean(call[stage] for call in calls) for stage in calls[0]}


def _timed_call(run, device):
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    stages = run()
    if device == "cuda":
        torch.cuda.synchronize()
    return {"": time.perf_counter() - start, **(stages or {})}


def measure(names, options):
    """Returns (median seconds of the yardstick, {row: {"seconds", "ratio", "ratio_min", "ratio_max"}})."""
    yardstick = Item(YARDSTICK, options)
    bases, result = [], {}
    for group in groups(names):
        items = [Item(name, options) for name in group]
        rounds = [[item.seconds() for item in (yardstick, *items)] for _ in range(options.rounds)]
        for item in items:
            item.close()
        bases += [base[""] for base, *_ in rounds]
        for name, *times in zip(group, *(values for _, *values in rounds)):
            for stage in times[0]:
                row = f"{name}: {stage}" if stage else name
                result[row] = summary([time[stage] for time in times], bases[-options.rounds :])
                print(f"{row}: {result[row]['ratio']:.3f}", file=sys.stderr)
    yardstick.close()
    return statistics.median(bases), result


def groups(names):
    """Lists of the names that begin alike, up to the first comma: what is to be compared."""
    result = {}
    for name in names:
        result.setdefault(name.split(",")[0], []).append(name)
    return list(result.values())


def summary(times, bases):
    ratios = [time / base for time, base in zip(times, bases)]
    return {
        "seconds": statistics.median(times),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of PyTorch")
    parser.add_argument("--only", default="", help="run the items whose name contains this")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--amp", default="", choices=("", "bfloat16", "float16"))
    parser.add_argument("--json", help="also write the figures here")
    options = parser.parse_args(argv)
    names = [name for name in ITEMS if options.only in name]
    if not names:
        parser.error(f"--only {options.only!r} names none of: {', '.join(ITEMS)}")
    torch.set_num_threads(options.threads)  # which the table names

    base, result = measure(names, options)
    setting = {
        **describe_machine(torch.device(options.device)),
        "rounds": options.rounds,
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "default"),  # passive: small networks take twice as long
        "dtype": options.amp or "float32",
        "yardstick_seconds": round(base, 4),
    }
    print(", ".join(f"{key} {value}" for key, value in setting.items()))
    rows = [
        [name, f"{r['seconds']:.4f}", f"{r['ratio']:.3f}", f"{r['ratio_min']:.3f} to {r['ratio_max']:.3f}"]
        for name, r in result.items()
    ]
    print(tabulate(rows, headers=["item", "seconds", "yardsticks", "range"], tablefmt="github", disable_numparse=True))
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"setting": setting, "items": result}, file, indent=2)


if __name__ == "__main__":
    main()
