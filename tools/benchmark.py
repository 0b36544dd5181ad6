"""Speed as a ratio: every figure is timed in rounds with a yardstick beside it, so that machines compare.

    python -m tools.benchmark [--rounds 7] [--threads 2] [--only yolof] [--device cuda --amp bfloat16] [--json FILE]

The yardstick is torchvision's ResNet-50 forward at 1x3x800x1088 in float32. A round times the yardstick and each item once, in
turn; reported are the median time of an item and the median, over the rounds, of its ratio to the yardstick of that round.
A noisy neighbour slows both. Weights are random; detection thresholds are set so that as many candidates reach NMS as in a
trained model. An item may time its own stages, which are then rows below it.
"""

import argparse
import json
import statistics
import time

import tools.benchmark_asff  # noqa: F401  (registers items)
import tools.benchmark_vfnet  # noqa: F401
import tools.benchmark_yolof  # noqa: F401
import tools.benchmark_yolox  # noqa: F401
from dense_d2.evaluation.timing import describe_machine
from tools.benchmark_items import ITEMS

import torch
from tabulate import tabulate


def yardstick(options):
    from torchvision.models import resnet50

    model = resnet50(weights=None).eval().to(options.device)
    image = torch.zeros(1, 3, 800, 1088, device=options.device)

    def run():
        with torch.inference_mode():
            model(image)

    return run


def seconds(run, device):
    """{"": seconds} of a call, and {stage: seconds} where it returns them."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    stages = run()
    if device == "cuda":
        torch.cuda.synchronize()
    return {"": time.perf_counter() - start, **(stages or {})}


def measure(names, options):
    """Returns (median seconds of the yardstick, {name: {"seconds", "ratio", "ratio_min", "ratio_max"}})."""
    reference = yardstick(options)
    runs = {name: ITEMS[name](options) for name in names}
    for run in (reference, *runs.values()):
        run()  # warm up
    reference_times, times = [], {}
    for _ in range(options.rounds):
        reference_times.append(seconds(reference, options.device)[""])
        for name, run in runs.items():
            for stage, value in seconds(run, options.device).items():
                times.setdefault(f"{name}: {stage}" if stage else name, []).append(value)
    result = {}
    for name, values in times.items():
        ratios = [value / base for value, base in zip(values, reference_times)]
        result[name] = {
            "seconds": statistics.median(values),
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
        }
    return statistics.median(reference_times), result


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
    torch.set_num_threads(options.threads)

    base, result = measure(names, options)
    setting = {
        **describe_machine(torch.device(options.device)),
        "rounds": options.rounds,
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
