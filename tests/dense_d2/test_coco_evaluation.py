import json
import logging

from dense_d2.datasets import DatasetError
from dense_d2.evaluation import FastCOCOEvaluator, available_backends, coco_numbers

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances

NUM_CLASSES = 5


def random_case(seed, num_images=12, with_ties=True, max_detections=150):
    """Up to 7 boxes and 149 detections an image; a tenth are crowds; class 5 has no boxes; two images are bare."""
    rng = np.random.default_rng(seed)
    annotations, detections = [], []
    for image_id in range(1, num_images + 1):
        boxes = []
        for _ in range(rng.integers(0, 8)):
            box = [*rng.uniform(0, 400, 2), *rng.uniform(4, 200, 2)]
            category = int(rng.integers(1, NUM_CLASSES))
            boxes.append((np.array(box), category))
            annotations.append(annotation(image_id, category, box, iscrowd=int(rng.random() < 0.1)))
            annotations[-1]["area"] *= rng.uniform(0.5, 1)
        for _ in range(rng.integers(0, max_detections)):
            box, category = np.array([*rng.uniform(0, 400, 2), *rng.uniform(4, 200, 2)]), int(rng.integers(1, 6))
            if boxes and rng.random() < 0.7:
                box, category = boxes[rng.integers(len(boxes))]
                box = box + rng.normal(0, 6, 4)
                box[2:] = box[2:].clip(1)
            detections.append(detection(image_id, category, box, round(rng.random(), 1 if with_ties else 6)))
    return dataset(num_images + 2, annotations), detections


def annotation(image_id, category, box, **more):
    box = [float(v) for v in box]
    return {"image_id": image_id, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0, **more}


def detection(image_id, category, box, score):
    return {"image_id": image_id, "category_id": category, "bbox": [float(v) for v in box], "score": float(score)}


def dataset(num_images, annotations, num_classes=NUM_CLASSES):
    for index, x in enumerate(annotations):
        x.setdefault("id", index + 1)
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 600, "width": 600} for i in range(1, num_images + 1)],
        "categories": [{"id": k, "name": f"class{k}"} for k in range(1, num_classes + 1)],
        "annotations": annotations,
    }


def crafted_cases():
    box = [10, 10, 40, 40]
    yield (
        "crowd",
        dataset(1, [annotation(1, 1, [0, 0, 300, 300], iscrowd=1), annotation(1, 1, box)]),
        [detection(1, 1, b, s) for b, s in [([5, 5, 50, 50], 0.9), ([100, 100, 50, 50], 0.8), (box, 0.7), (box, 0.7)]],
    )
    yield (
        "ties",
        dataset(3, [annotation(i, 1, box) for i in (1, 2, 3)]),
        [detection(i, 1, [10 + d, 10, 40, 40], 0.5) for i in (3, 1, 2) for d in (0, 4, 9, 30)],
    )
    many = [detection(1, 1, [400, 400, 20, 20], 0.9)] * 120 + [detection(1, 1, box, 0.1)]
    yield "over_100", dataset(1, [annotation(1, 1, box)]), many
    yield (
        "no_truth_in_image",
        dataset(2, [annotation(1, 1, box)]),
        [detection(2, 1, box, 0.9), detection(1, 1, box, 0.8)],
    )
    yield "no_truth_in_class", dataset(1, [annotation(1, 1, box)]), [detection(1, 3, box, 0.9)]
    yield "no_detection", dataset(2, [annotation(1, 1, box)]), []
    yield "no_truth", dataset(2, []), [detection(1, 1, box, 0.9)]
    yield "nothing", dataset(2, []), []
    yield "zero_size", dataset(1, [annotation(1, 1, [5, 5, 0, 0])]), [detection(1, 1, [5, 5, 0, 0], 0.9)]


CASES = [(f"random{seed}", *random_case(seed, with_ties=seed % 2 == 0)) for seed in range(4)] + list(crafted_cases())


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize("name, truth, detections", CASES, ids=[case[0] for case in CASES])
def test_backends_equal_pycocotools(backend, name, truth, detections):
    expected = coco_numbers(truth, detections, "pycocotools")
    numbers = coco_numbers(truth, detections, backend)
    assert numbers.stats.shape == (12,)
    np.testing.assert_allclose(numbers.stats, expected.stats, rtol=0, atol=1e-12)
    np.testing.assert_allclose(numbers.eval["precision"], expected.eval["precision"], rtol=0, atol=1e-12)
    subset = coco_numbers(truth, detections, backend, img_ids=[1])
    np.testing.assert_allclose(
        subset.stats, coco_numbers(truth, detections, "pycocotools", img_ids=[1]).stats, rtol=0, atol=1e-12
    )


def test_pycocotools_is_called_as_its_authors_do():
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, detections = random_case(7)
    gt = COCO()
    gt.dataset = json.loads(json.dumps(truth))
    gt.createIndex()
    coco_eval = COCOeval(gt, gt.loadRes(json.loads(json.dumps(detections))), "bbox")
    coco_eval.evaluate()
    coco_eval.accumulate()
    coco_eval.summarize()
    assert 0.05 < coco_eval.stats[0] < 0.9
    np.testing.assert_array_equal(coco_numbers(truth, detections, "pycocotools").stats, coco_eval.stats)


@pytest.mark.parametrize("backend", available_backends())
def test_untidy_files(backend):
    """Ids from 0, missing area and iscrowd, image names as ids in any order and an annotation of no image change nothing."""
    truth, detections = random_case(3, num_images=5)
    for x in truth["annotations"]:
        x.update(area=x["bbox"][2] * x["bbox"][3], iscrowd=0)
    expected = coco_numbers(truth, detections, backend).stats
    for index, x in enumerate(truth["annotations"]):
        x["id"] = index
        del x["area"], x["iscrowd"]
        x["score"] = 1.0  # some tools write one
    truth["annotations"].append(annotation(999, 1, [0, 0, 9, 9], id=5))
    np.testing.assert_array_equal(coco_numbers(truth, detections, backend).stats, expected)
    for x in [*truth["annotations"], *detections]:
        x["image_id"] = f"img{x['image_id']:03d}"
    for x in truth["images"]:
        x["id"] = f"img{x['id']:03d}"
    truth["images"].reverse()
    np.testing.assert_array_equal(coco_numbers(truth, detections, backend).stats, expected)


def test_detection_in_unknown_image_is_an_error():
    with pytest.raises(ValueError, match="first: 77"):
        coco_numbers(dataset(1, []), [detection(77, 1, [0, 0, 1, 1], 0.5)])


def test_lines_are_those_of_pycocotools(capsys):
    truth, detections = random_case(5, num_images=4)
    numbers = coco_numbers(truth, detections, "pycocotools")
    from pycocotools.cocoeval import COCOeval

    reference = COCOeval(iouType="bbox")
    reference.params.catIds = [1]
    reference.eval = {"precision": numbers.eval["precision"], "recall": np.full((10, 5, 4, 3), 0.5)}
    reference.summarize()
    printed = capsys.readouterr().out.splitlines()
    assert numbers.lines().splitlines()[:6] == printed[:6]
    assert [x[:70] for x in numbers.lines().splitlines()] == [x[:70] for x in printed]


def test_auto_takes_the_fastest_and_unknown_is_an_error(register):
    assert available_backends()[-1] == "pycocotools"
    name = register(dataset(1, []), ["class1"])
    assert FastCOCOEvaluator(name)._backend == available_backends()[0]
    with pytest.raises(ValueError, match="nonsense.*installed are"):
        FastCOCOEvaluator(name, backend="nonsense")


def test_a_dataset_without_files_or_unknown_is_a_users_error(register, tmp_path):
    name = register(dataset(1, []), ["class1"])
    (tmp_path / "0.json").unlink()
    with pytest.raises(DatasetError, match=r"0\.json, which does not exist"):
        FastCOCOEvaluator(name)
    with pytest.raises(DatasetError, match="'coco_2017_vall' is not registered; did you mean coco_2017_val"):
        FastCOCOEvaluator("coco_2017_vall")


@pytest.fixture
def register(tmp_path):
    names = []

    def add(content, classes):
        path = tmp_path / f"{len(names)}.json"
        path.write_text(json.dumps(content))
        name = f"evaluation_test_{path}"
        ids = sorted(x["id"] for x in content["categories"])
        DatasetCatalog.register(name, list)
        MetadataCatalog.get(name).set(
            json_file=str(path),
            thing_classes=classes,
            thing_dataset_id_to_contiguous_id={k: i for i, k in enumerate(ids)},
        )
        names.append(name)
        return name

    yield add
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def run(evaluator, image_ids, boxes, scores, classes):
    evaluator.reset()
    for image_id, b, s, c in zip(image_ids, boxes, scores, classes):
        instances = Instances((600, 600))
        instances.pred_boxes = Boxes(torch.tensor(b, dtype=torch.float32).reshape(-1, 4))
        instances.scores = torch.tensor(s, dtype=torch.float32)
        instances.pred_classes = torch.tensor(c, dtype=torch.int64)
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    return evaluator.evaluate()


def test_evaluator_by_hand(register, tmp_path, caplog):
    """Category ids 3 and 11. Class 0: one box found, one missed in the unseen image 2. Class 1: exact box, so 100."""
    truth = dataset(
        2,
        [annotation(1, 3, [10, 10, 50, 50]), annotation(2, 3, [10, 10, 50, 50]), annotation(1, 11, [100, 100, 50, 50])],
    )
    truth["categories"] = [{"id": 11, "name": "cat"}, {"id": 3, "name": "person"}]
    caplog.set_level(logging.INFO)
    name, output = register(truth, ["person", "cat"]), tmp_path / "out"
    for backend in available_backends():
        results = run(
            FastCOCOEvaluator(name, output_dir=str(output), backend=backend),
            [1],
            [[[10, 10, 60, 60], [100, 100, 150, 150]]],
            [[0.9, 0.8]],
            [[0, 1]],
        )
        bbox = results["bbox"]
        # precision is 1 up to recall 0.5: 51 of the 101 recall points
        assert bbox["AP-person"] == pytest.approx(100 * 51 / 101)
        assert bbox["AP-cat"] == pytest.approx(100)
        assert bbox["AP"] == bbox["AP50"] == pytest.approx(100 * (51 / 101 + 1) / 2)
        assert np.isnan(bbox["APs"]) and bbox["APm"] == pytest.approx(bbox["AP"])
        assert {x["category_id"] for x in json.loads((output / "coco_instances_results.json").read_text())} == {3, 11}
        assert f"with {backend}" in caplog.text
    assert "Evaluation results for bbox" in caplog.text and "Per-category bbox AP" in caplog.text
    assert "maxDets=100 ] = 0.752" in caplog.text


def test_single_class_has_its_line(register):
    name = register(dataset(1, [annotation(1, 1, [10, 10, 50, 50])], num_classes=1), ["cell"])
    results = run(FastCOCOEvaluator(name), [1], [[[10, 10, 60, 60]]], [[0.9]], [[0]])
    assert results["bbox"]["AP-cell"] == results["bbox"]["AP"] == pytest.approx(100)


def test_no_detection_is_zero_and_says_so(register, caplog):
    name = register(dataset(2, [annotation(1, 1, [10, 10, 50, 50])], num_classes=2), ["a", "b"])
    results = run(FastCOCOEvaluator(name), [1, 2], [[], []], [[], []], [[], []])
    assert results["bbox"]["AP"] == 0 and results["bbox"]["AP-a"] == 0
    assert np.isnan(results["bbox"]["AP-b"]) and np.isnan(results["bbox"]["APl"])
    assert "No detections at all in 2 images" in caplog.text


def test_without_annotations_only_the_detections_are_written(register, tmp_path):
    truth = dataset(1, [], num_classes=1)
    del truth["annotations"]
    evaluator = FastCOCOEvaluator(register(truth, ["cell"]), output_dir=str(tmp_path))
    assert run(evaluator, [1], [[[10, 10, 60, 60]]], [[0.9]], [[0]]) == {}
    assert len(json.loads((tmp_path / "coco_instances_results.json").read_text())) == 1


def test_class_beyond_the_data_is_an_error(register):
    name = register(dataset(1, [annotation(1, 1, [10, 10, 50, 50])], num_classes=2), ["a", "b"])
    with pytest.raises(ValueError, match="predicted class 2 .*num_classes=2"):
        run(FastCOCOEvaluator(name), [1], [[[10, 10, 60, 60]]], [[0.9]], [[2]])


@pytest.mark.parametrize("backend", available_backends())
def test_chosen_images_alone_count(backend):
    truth, detections = random_case(2)
    kept = {1, 4, 5}
    smaller = dict(truth)
    for key, name in (("images", "id"), ("annotations", "image_id")):
        smaller[key] = [x for x in truth[key] if x[name] in kept]
    expected = coco_numbers(smaller, [x for x in detections if x["image_id"] in kept], backend).stats
    np.testing.assert_array_equal(coco_numbers(truth, detections, backend, img_ids=[5, 1, 4]).stats, expected)
    assert expected[0] != coco_numbers(truth, detections, backend).stats[0]
