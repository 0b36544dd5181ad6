"""Streaming AP: the box AP of what a detector has to show at the moment each video frame is looked at.

A detector that takes time answers about the past. Its runs are placed on the clock of the video (stream_clock.py), every
frame is scored against the last output that was complete when it arrived, and the COCO protocol does the rest.

Source: Li et al., "Towards Streaming Perception", ECCV 2020 (arXiv 2005.10420); YOLOX paper section 4.
"""

import logging
import math
from collections import defaultdict
from numbers import Real
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from ..errors import UserError
from .coco import CocoNumbers, FastCOCOEvaluator, coco_numbers
from .latency import latency_of_images, read_latency
from .stream_clock import StreamStats, match_outputs, simulate_stream, stream_stats

__all__ = ["StreamingCOCOEvaluator", "offline_results", "read_sequences", "streaming_numbers", "streaming_results"]

logger = logging.getLogger(__name__)


def read_sequences(dataset: Mapping[str, Any]) -> List[List[Any]]:
    """The image ids of every sequence, in the order of the frames. A sequence without images is left out.

    Args:
        dataset: the content of a COCO annotation file in the layout of Argoverse-HD: `sequences` (names), and for every
            image `sid` (index into them) and `fid` (frame number, rising by 1; may be absent: the file's order counts).
    """
    names = dataset.get("sequences")
    if not isinstance(names, list) or not names:
        raise UserError(
            "The annotation file has no `sequences`: streaming AP needs videos. Name them in `sequences` and give every "
            "image its `sid` (index into `sequences`) and `fid` (frame number), as Argoverse-HD does"
        )
    frames = [[] for _ in names]
    for image in dataset.get("images", []):
        sid = image.get("sid")
        if type(sid) is not int or not 0 <= sid < len(names):
            raise UserError(
                f"Image {image.get('id')} has sid {sid!r}; it must be the index of one of the {len(names)} sequences"
            )
        frames[sid].append((image.get("fid"), image["id"]))
    for name, sequence in zip(names, frames):
        _check_frame_numbers(name, [fid for fid, _ in sequence])
    ids = [image_id for sequence in frames for _, image_id in sequence]
    if len(set(ids)) < len(ids):
        raise UserError(
            f"{len(ids) - len(set(ids))} image ids of the annotation file occur more than once; number them"
        )
    return [[image_id for _, image_id in sequence] for sequence in frames if sequence]


def _check_frame_numbers(name, fids):
    if all(fid is None for fid in fids):
        return
    for fid in fids:
        if type(fid) is not int:
            raise UserError(f"Sequence '{name}' has an image with fid {fid!r}; number all of its frames or none")
    for before, after in zip(fids, fids[1:]):
        if after <= before:
            raise UserError(
                f"Sequence '{name}': fid {after} follows fid {before}; sort the images of a sequence by `fid`, each once"
            )
        if after != before + 1:
            raise UserError(
                f"Sequence '{name}' lacks the frames between fid {before} and {after}: the clock of a video does not "
                "stop. Add these images (annotations are not needed) or split the sequence there"
            )


def streaming_numbers(
    dataset: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    latencies: Union[float, Mapping[Any, float]],
    *,
    fps: float = 30.0,
    eta: float = 0.0,
    schedule: str = "eager",
    stride: int = 1,
    mean_latency: Optional[float] = None,
    backend: str = "auto",
    img_ids: Optional[Sequence[Any]] = None,
) -> Tuple[CocoNumbers, StreamStats]:
    """Streaming AP of offline detections. Every sequence has its own clock.

    Args:
        dataset: see `read_sequences`; left as it is.
        detections: of every frame, see `coco_numbers`. A frame without any was looked at and is empty.
        latencies: of every run, or of the run on each image id.
        mean_latency: None for the mean over all images.
        img_ids: the images to score; the simulation runs over all.
    """
    sequences = read_sequences(dataset)
    by_image = defaultdict(list)
    for detection in detections:
        by_image[detection["image_id"]].append(detection)
    unknown = sorted(by_image.keys() - set().union(*sequences), key=str)
    if unknown:
        raise UserError(
            f"{len(unknown)} images with detections are not in the annotation file (first: {unknown[0]}); use the "
            "detections of this data set"
        )
    if mean_latency is None:
        mean_latency = float(latencies) if isinstance(latencies, Real) else float(np.mean(list(latencies.values())))

    shown, counts = [], []
    for ids in sequences:
        runs = latencies if isinstance(latencies, Real) else [latencies[i] for i in ids]
        outputs = simulate_stream(len(ids), fps, runs, schedule=schedule, stride=stride, mean_latency=mean_latency)
        matches = match_outputs(len(ids), fps, outputs, eta)
        counts.append(stream_stats(outputs, matches))
        for image_id, match in zip(ids, matches):
            if match >= 0:
                shown += [{**d, "image_id": image_id} for d in by_image.get(ids[outputs[match].frame], ())]
    return coco_numbers(dataset, shown, backend, img_ids), StreamStats(*(sum(x) for x in zip(*counts)))


class StreamingCOCOEvaluator(FastCOCOEvaluator):
    """Offline box AP ("bbox") and beside it streaming AP ("streaming"), from the predictions of all frames.

    "streaming" holds sAP, sAP50, sAP75, sAPs, sAPm, sAPl, sAR1, sAR10, sAR100, sARs, sARm, sARl in percent and the
    counts frames, processed, in_time, misses, and mean_mismatch in frames.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: Optional[str] = None,
        backend: str = "auto",
        distributed: bool = True,
        *,
        latency: Union[None, float, Sequence[float], str] = None,
        fps: float = 30.0,
        schedule: str = "eager",
        stride: int = 1,
        eta: float = 0.0,
        seed: int = 0,
        perf_factor: float = 1.0,
        coco_classes: bool = False,
    ):
        """
        Args:
            dataset_name, output_dir, backend, distributed: see FastCOCOEvaluator. The annotation file needs sequences.
            latency: seconds of every run; or samples, a list or a JSON file of them, that are drawn with `seed`; None
                for the measured time of each frame: evaluate `TimedModel(model)`, as train_net.py then does.
            fps, schedule, stride, eta: see `simulate_stream` and `match_outputs`.
            perf_factor: a device so many times faster; divides the latencies.
            coco_classes: the model has COCO's 80 classes; the file's `coco_mapping` (80 class indices) translates them,
                and what it maps outside of the file's categories is dropped.
        """
        super().__init__(dataset_name, output_dir, backend, distributed)
        self._latency = read_latency(latency)
        self._seed, self._perf_factor = seed, perf_factor
        self._stream = {"fps": fps, "schedule": schedule, "stride": stride, "eta": eta}
        self._image_ids = [i for ids in read_sequences(self._coco_api.dataset) for i in ids]
        # a wrong argument is known before the model runs
        simulate_stream(0, fps, 0.0, schedule=schedule, stride=stride)
        self._mapping = self._coco_api.dataset.get("coco_mapping") if coco_classes else None
        if coco_classes and not self._mapping:
            raise UserError("coco_classes is set but the annotation file has no `coco_mapping`; set coco_classes=False")

    @property
    def needs_seconds(self):
        """Whether the outputs need "seconds", the time of their frame."""
        return self._latency is None

    def process(self, inputs, outputs):
        start = len(self._predictions)
        super().process(inputs, outputs)
        for prediction, output in zip(self._predictions[start:], outputs):
            prediction["seconds"] = output.get("seconds")
            if self._mapping:
                prediction["instances"] = self._translate(prediction["instances"])

    def _translate(self, detections):
        num_classes = len(self._coco_api.dataset["categories"])
        beyond = [d["category_id"] for d in detections if d["category_id"] >= len(self._mapping)]
        if beyond:
            raise UserError(
                f"The model predicted class {beyond[0]} but `coco_mapping` has {len(self._mapping)} entries; set "
                "coco_classes only for a model with COCO's 80 classes"
            )
        translated = [{**d, "category_id": self._mapping[d["category_id"]]} for d in detections]
        return [d for d in translated if 0 <= d["category_id"] < num_classes]

    def _eval_predictions(self, predictions, img_ids=None):
        super()._eval_predictions(predictions, img_ids)  # also makes the classes the file's category ids
        if not self._do_evaluation:
            return
        measured = {p["image_id"]: p["seconds"] for p in predictions}
        missing = [i for i in self._image_ids if i not in measured]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(self._image_ids)} frames have no prediction (first: image {missing[0]}); "
                "evaluate every image of the annotation file, also those without annotations"
            )
        latencies, mean = latency_of_images(
            self._image_ids, measured if self._latency is None else self._latency, self._seed, self._perf_factor
        )
        detections = [d for p in predictions for d in p["instances"]]
        numbers, stats = streaming_numbers(
            self._coco_api.dataset,
            detections,
            latencies,
            mean_latency=mean,
            backend=self._backend,
            img_ids=img_ids,
            **self._stream,
        )
        logger.info("Streaming COCO numbers:\n" + numbers.lines())
        self._results["streaming"] = streaming_results(numbers, stats)
        logger.info(f"Streaming, {1e3 * mean:.1f} ms mean latency, {self._stream}: {self._results['streaming']}")


_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def offline_results(numbers: CocoNumbers) -> Dict[str, float]:
    """The 12 numbers as Detectron2 reports them: percent, NaN where there is nothing to measure."""
    return {name: float(100 * x) if x >= 0 else math.nan for name, x in zip(_NAMES, numbers.stats)}


def streaming_results(numbers: CocoNumbers, stats: StreamStats) -> Dict[str, float]:
    """The 12 numbers in percent, each with an s before its name, and the counts."""
    results = {f"s{name}": value for name, value in offline_results(numbers).items()}
    counts = {name: getattr(stats, name) for name in ("frames", "processed", "in_time", "misses", "mean_mismatch")}
    return {**results, **counts}
