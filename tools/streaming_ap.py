"""Streaming AP of offline detections on a video data set, for any latency.

python -m tools.streaming_ap --annotations FILE --detections coco_instances_results.json --latency 0.033
    [--latencies FILE] [--fps 30] [--schedule eager|shrinking_tail|infinite] [--json]

The annotation file is COCO's with `sequences`, and with `sid` and `fid` for every image, as in Argoverse-HD. The detections
are what `--eval-only` leaves in the output directory; they must cover all frames, since a frame without any counts as
empty. Nothing is run: the answer for another latency, device or schedule takes seconds.
"""

import argparse
import json
import math
import sys
from reprlib import repr as short

from dense_d2.errors import UserError
from dense_d2.evaluation import coco_numbers
from dense_d2.evaluation.latency import latency_of_images, read_latency
from dense_d2.evaluation.stream_clock import SCHEDULES
from dense_d2.evaluation.streaming import offline_results, read_sequences, streaming_numbers, streaming_results

from tabulate import tabulate


def main(argv=None):
    args = _arguments(argv)
    dataset, detections = _read(args.annotations, args.detections)
    image_ids = [image_id for sequence in read_sequences(dataset) for image_id in sequence]
    samples = read_latency(args.latency if args.latencies is None else args.latencies)
    latencies, mean = latency_of_images(image_ids, samples, args.seed, args.perf_factor)
    stream = {name: getattr(args, name) for name in ("fps", "schedule", "stride", "eta")}
    numbers, stats = streaming_numbers(dataset, detections, latencies, mean_latency=mean, **stream)
    report = {
        "mean_latency": mean,
        **stream,
        "offline": offline_results(coco_numbers(dataset, detections)),
        "streaming": streaming_results(numbers, stats),
    }
    if args.json:
        print(json.dumps(_without_nan(report), indent=2))
    else:
        print(_format(report))


def _arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", required=True, help="COCO file with sequences")
    parser.add_argument("--detections", required=True, help="COCO results file of every frame")
    latency = parser.add_mutually_exclusive_group(required=True)
    latency.add_argument("--latency", type=float, help="seconds of every run")
    latency.add_argument("--latencies", help='JSON file with samples: a list of seconds, or {"samples": list}')
    parser.add_argument("--fps", type=float, default=30.0, help="of the video, default 30")
    parser.add_argument("--schedule", choices=SCHEDULES, default="eager")
    parser.add_argument("--stride", type=int, default=1, help="processes only the first of so many frames it comes to")
    parser.add_argument("--eta", type=float, default=0.0, help="frame i is asked about at (i - eta) / fps, default 0")
    parser.add_argument("--perf-factor", type=float, default=1.0, help="a device so many times faster, default 1")
    parser.add_argument("--seed", type=int, default=0, help="of the draw from the samples")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args(argv)


def _read(annotations, detections):
    contents = []
    for path, kind, what in ((annotations, dict, "an annotation file"), (detections, list, "a list of detections")):
        with open(path) as f:
            try:
                contents.append(json.load(f))
            except ValueError as error:
                raise UserError(f"{path} is no JSON ({error})") from error
        if not isinstance(contents[-1], kind):
            raise UserError(f"{path} is not {what} in COCO's format; are the two files exchanged?")
    dataset, results = contents
    for key in ("annotations", "categories"):
        if not dataset.get(key):
            raise UserError(f"{annotations} has no {key}; nothing can be scored")
    for index, entry in enumerate(results):
        lacking = [key for key in ("image_id", "category_id", "bbox", "score") if key not in entry]
        if lacking:
            raise UserError(
                f"{detections}: entry {index}, {short(entry)}, has no {' and no '.join(lacking)}; every detection needs "
                "image_id, category_id, bbox and score, as `--eval-only` writes them"
            )
    known = {category["id"] for category in dataset["categories"]}
    unknown = sorted({x["category_id"] for x in results} - known)
    if unknown:
        raise UserError(
            f"{detections} has category ids that {annotations} lacks: {unknown[:10]}; the file knows {sorted(known)[:100]}. "
            "Evaluate the detector on this data set, so that its classes are translated"
        )
    return dataset, results


def _format(report):
    offline, streaming = report["offline"], report["streaming"]
    rows = [[name, _number(value), _number(streaming["s" + name])] for name, value in offline.items()]
    table = tabulate(rows, headers=["", "offline", "streaming"], tablefmt="github", disable_numparse=True)
    frames = streaming["frames"]
    return (
        f"{frames} frames at {report['fps']:g} per second, mean latency {1e3 * report['mean_latency']:.1f} ms "
        f"({report['mean_latency'] * report['fps']:.2f} frames), schedule {report['schedule']}\n\n{table}\n\n"
        f"processed {streaming['processed']}, in time {streaming['in_time']}, misses {streaming['misses']}, "
        f"mean mismatch {streaming['mean_mismatch']:.2f} frames"
    )


def _number(value):
    return "-" if math.isnan(value) else f"{value:.2f}"


def _without_nan(value):
    if isinstance(value, dict):
        return {key: _without_nan(x) for key, x in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


if __name__ == "__main__":
    try:
        main()
    except (UserError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
