import json
import logging
import os
import shutil

from dense_d2.check_data import check_before_training
from dense_d2.datasets import DatasetError, resolve_datasets

import pytest
from detectron2.utils import comm
from omegaconf import OmegaConf


def make_config(images, **changes):
    files = {"name": "", "images": images[0], "annotations": images[1]}
    cfg = OmegaConf.create(
        {
            "dataset": {"train": files, "test": dict(files)},
            "model": {"num_classes": 80},
            "train": {"check_data": True},
            "dataloader": {"train": {"max_unreadable_images": 1}, "test": {}},
        }
    )
    return resolve_datasets(OmegaConf.merge(cfg, changes))


def test_training_goes_on_after_findings_that_cost_boxes_only(images, caplog):
    with open(images[1]) as file:
        content = json.load(file)
    content["annotations"][1]["bbox"] = [1, 1, 0, 0]
    with open(images[1], "w") as file:
        json.dump(content, file)
    with caplog.at_level(logging.INFO):
        check_before_training(make_config(images))
    assert "zero-size-box: 1 (dropped)" in caplog.text


@pytest.mark.parametrize(
    "damage", [{"bbox": [1, 2, None, 4]}, {"bbox": None}, {"image_id": None}, {"category_id": "x"}]
)
def test_annotations_that_no_evaluation_can_read_stop_before_it_starts(images, damage):
    with open(images[1]) as file:
        content = json.load(file)
    content["annotations"][1].update(damage)
    if damage.get("image_id", 0) is None:
        del content["annotations"][1]["image_id"]
    with open(images[1], "w") as file:
        json.dump(content, file)
    cfg = make_config(images)
    if "category_id" not in damage:
        check_before_training(cfg, splits=("train",))
        with pytest.raises(DatasetError, match="test data"):
            check_before_training(cfg, splits=("test",))
    else:  # an unknown category is no class, and never counted
        check_before_training(cfg)


def test_training_stops_before_it_starts_when_files_are_missing(images, caplog):
    cfg = make_config(images)
    os.remove(os.path.join(images[0], "toy_003.png"))
    message = r"train data annotations-\w+ cannot be used\. missing-image-file: 1 \(toy_003\.png\)"
    with caplog.at_level(logging.DEBUG), pytest.raises(DatasetError, match=message):
        check_before_training(cfg)
    assert "Traceback" not in caplog.text
    check_before_training(OmegaConf.merge(cfg, {"train": {"check_data": False}}))


def test_unreadable_images_stop_beyond_the_loaders_limit_and_in_a_test_set_at_once(images):
    cfg = make_config(images)
    for number, splits in ((3, ("test",)), (4, ("train",))):
        check_before_training(cfg, splits=("train",))
        with open(os.path.join(images[0], f"toy_{number:03d}.png"), "wb"):
            pass
        with pytest.raises(DatasetError, match="unreadable-image"):
            check_before_training(cfg, splits=splits)


def test_data_with_another_class_count_than_the_model(images, tmp_path):
    cfg = make_config(images)
    cfg.model.num_classes = 4
    with pytest.raises(DatasetError, match="has 3 classes and the model 4"):
        check_before_training(cfg)


def test_a_misspelt_name(images):
    cfg = make_config(images)
    cfg.dataset.test = {"name": "coco_2017_vall", "images": "", "annotations": ""}
    with pytest.raises(DatasetError, match="did you mean coco_2017_val"):
        check_before_training(cfg)


def test_other_processes_check_nothing_but_get_the_verdict(images, monkeypatch):
    cfg = make_config(images)
    shutil.rmtree(images[0])
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    monkeypatch.setattr(comm, "all_gather", lambda verdict: ["", verdict])
    check_before_training(cfg)
    monkeypatch.setattr(comm, "all_gather", lambda verdict: ["the files are gone", verdict])
    with pytest.raises(DatasetError, match="the files are gone"):
        check_before_training(cfg)


def test_any_failure_of_the_check_reaches_the_other_processes(images, monkeypatch):
    cfg = make_config(images)
    sent = []
    monkeypatch.setattr("dense_d2.check_data._check_splits", lambda *args: 1 / 0)
    monkeypatch.setattr(comm, "all_gather", lambda verdict: sent.append(verdict) or [verdict])
    with pytest.raises(DatasetError, match="ZeroDivisionError"):
        check_before_training(cfg)
    assert len(sent) == 1
