import gc
import json
import logging
import os

from dense_d2 import coco_file
from dense_d2.datasets import DatasetError, drop_bad_boxes, load_records, register_coco, resolve_datasets
from tests.toy import CLASS_NAMES

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from omegaconf import OmegaConf


def make_config(train=(), test=(), num_classes=80):
    sections = {
        split: {"name": f"coco_2017_{split}", "images": "", "annotations": "", **dict(files)}
        for split, files in (("train", train), ("test", test))
    }
    cfg = OmegaConf.create({"dataset": sections, "model": {"num_classes": num_classes}})
    OmegaConf.set_struct(cfg, True)
    return cfg


def files(images, annotations):
    return {"images": str(images), "annotations": str(annotations)}


@pytest.fixture
def edited(tmp_path, toy_coco):
    """edited(change) writes a changed copy of the annotations and returns (images_dir, path)."""

    def write(change, name="edited.json"):
        with open(toy_coco[1]) as file:
            content = json.load(file)
        content = change(content) or content
        path = tmp_path / name
        path.write_text(json.dumps(content))
        return toy_coco[0], str(path)

    return write


def test_records_have_contiguous_classes_ordered_by_id(toy_coco):
    name = register_coco(*toy_coco)
    metadata = MetadataCatalog.get(name)
    assert name.startswith("annotations-")
    assert metadata.thing_classes == CLASS_NAMES
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 3: 1, 7: 2}
    assert metadata.evaluator_type == "coco"
    with open(toy_coco[1]) as file:
        content = json.load(file)
    records = load_records(name)
    assert [r["image_id"] for r in records] == [i["id"] for i in content["images"]]
    flat = [(r["image_id"], a) for r in records for a in r["annotations"]]
    assert len(flat) == len(content["annotations"])
    for (image_id, record), raw in zip(flat, content["annotations"]):
        assert image_id == raw["image_id"]
        assert record["bbox"] == raw["bbox"]
        assert record["bbox_mode"] == BoxMode.XYWH_ABS
        assert record["category_id"] == {1: 0, 3: 1, 7: 2}[raw["category_id"]]
        assert record["iscrowd"] == raw["iscrowd"]
    assert os.path.isfile(records[0]["file_name"])


def test_images_are_ordered_by_id_and_have_both_sides_or_none(edited):
    def change(content):
        content["images"][1]["file_name"] = "folder/file.png"
        content["images"].reverse()
        del content["images"][0]["height"]
        content["annotations"][0]["ignore"] = 1

    records = load_records(register_coco(*edited(change)))
    assert [r["image_id"] for r in records] == list(range(5, 125, 10))
    assert ["width" in r or "height" in r for r in records] == [True] * 11 + [False]
    assert records[0]["annotations"][0]["iscrowd"] == 1
    assert records[1]["file_name"] == os.path.join(os.path.dirname(records[0]["file_name"]), "folder", "file.png")


def test_the_same_files_are_one_dataset_parsed_once(toy_coco, tmp_path, monkeypatch):
    coco_file._read_coco.cache_clear()
    calls = []
    real = json.loads
    monkeypatch.setattr(coco_file.json, "loads", lambda text: calls.append(1) or real(text))
    name = register_coco(*toy_coco)
    assert register_coco(*toy_coco) == name
    assert register_coco(os.path.join(toy_coco[0], "."), toy_coco[1]) == name
    load_records(name)
    assert len(calls) == 1 and gc.isenabled()
    assert register_coco(str(tmp_path), toy_coco[1]) != name


def test_resolve_takes_names_and_class_count_from_the_files_and_is_idempotent(toy_coco):
    cfg = make_config(train=files(*toy_coco), test=files(*toy_coco))
    assert resolve_datasets(cfg) is cfg
    assert cfg.model.num_classes == 3
    assert cfg.dataset.train.name == cfg.dataset.test.name == register_coco(*toy_coco)
    again = OmegaConf.create(OmegaConf.to_yaml(cfg))
    assert resolve_datasets(again) == cfg


def test_a_split_without_files_keeps_its_name(toy_coco):
    cfg = resolve_datasets(make_config(test=files(*toy_coco)))
    assert cfg.dataset.train.name == "coco_2017_train"
    assert cfg.model.num_classes == 3


def test_registered_names_leave_the_class_count_alone():
    assert resolve_datasets(make_config(num_classes=3)).model.num_classes == 3


def test_a_test_file_with_translated_classes_leaves_the_class_count_alone(toy_coco, edited):
    def one_class(content):
        content["categories"] = content["categories"][:1]

    test = files(*edited(one_class))
    for train, num_classes in (((), 80), (files(*toy_coco), 3)):
        cfg = make_config(train, test)
        OmegaConf.update(cfg, "dataloader", {"evaluator": {"coco_classes": True}}, force_add=True)
        assert resolve_datasets(cfg).model.num_classes == num_classes
        assert MetadataCatalog.get(cfg.dataset.test.name).thing_classes == ["triangle"]
    cfg.dataloader.evaluator.coco_classes = False
    with pytest.raises(DatasetError, match="lists differ"):
        resolve_datasets(cfg)


def test_configs_without_a_dataset_are_left_alone():
    cfg = OmegaConf.create({"model": {"num_classes": 7}})
    assert resolve_datasets(cfg) == {"model": {"num_classes": 7}}


def test_files_that_disagree_in_their_classes(toy_coco, edited):
    def rename(content):
        content["categories"][0]["name"] = "pyramid"

    with pytest.raises(DatasetError, match=r"only in train: triangle; only in test: pyramid"):
        resolve_datasets(make_config(files(*toy_coco), files(*edited(rename))))

    def renumber(content):
        content["categories"][0]["id"] = 2

    with pytest.raises(
        DatasetError, match="order by id differs: disc, square, triangle against disc, triangle, square"
    ):
        resolve_datasets(make_config(files(*toy_coco), files(*edited(renumber))))

    def shift_ids(content):
        for entry in content["categories"]:
            entry["id"] += 10

    assert resolve_datasets(make_config(files(*toy_coco), files(*edited(shift_ids, "b.json")))).model.num_classes == 3


def test_settings_that_cannot_work_say_why(toy_coco, edited):
    with pytest.raises(DatasetError, match=r"dataset\.train\.images=.* without dataset\.train\.annotations"):
        resolve_datasets(make_config(train={"images": toy_coco[0]}))
    with pytest.raises(DatasetError, match=r"dataset\.test\.annotations: there is no file .*nowhere"):
        resolve_datasets(make_config(test=files(toy_coco[0], "/nowhere")))
    with pytest.raises(DatasetError, match=r"dataset\.test\.images: there is no directory .*nowhere"):
        resolve_datasets(make_config(test=files("/nowhere", toy_coco[1])))
    with pytest.raises(DatasetError, match="no usable categories"):
        resolve_datasets(make_config(train=files(*edited(lambda content: content.pop("categories") and None))))


def test_a_misspelt_name_suggests_the_right_one():
    with pytest.raises(DatasetError, match="'coco_2017_trian' is not registered; did you mean coco_2017_train"):
        load_records("coco_2017_trian")


def test_a_builtin_name_without_files_says_where_it_looked(monkeypatch, tmp_path):
    DatasetCatalog.register("toy_missing", list)
    try:
        MetadataCatalog.get("toy_missing").set(json_file=str(tmp_path / "no.json"), image_root=str(tmp_path))
        with pytest.raises(DatasetError, match=r"no\.json, which does not exist(.|\n)*DETECTRON2_DATASETS"):
            load_records("toy_missing")
    finally:
        DatasetCatalog.remove("toy_missing")
        MetadataCatalog.remove("toy_missing")


BAD_BOXES = {
    "non-finite-box": [[1, 1, float("nan"), 5], [1, float("inf"), 5, 5], [1e308, 0, 1e308, 5], [10**400, 0, 5, 5]],
    "negative-size-box": [[20, 20, -5, 5]],
    "zero-size-box": [[20, 20, 0, 5], [20, 20, 5, 0], [1, 1, 1e-300, 5], [900, 900, 0, 5]],
    "box-outside-image": [[200, 10, 5, 5], [10, 500, 5, 5], [-10, 10, 10, 5], [160, 0, 3, 3]],
}


def test_bad_boxes_are_dropped_with_one_warning_that_names_the_images(edited, caplog):
    def spoil(content):
        entry = content["annotations"][0]
        bad = [box for boxes in BAD_BOXES.values() for box in boxes] + [
            None,
            [1, 2, 3],
            ["1", 2, 3, 4],
            "box",
            [True] * 4,
        ]
        for box in bad:
            content["annotations"].append({**entry, "id": len(content["annotations"]) + 1, "bbox": box})
        content["annotations"].append({**entry, "id": 5000, "category_id": 2})
        content["annotations"].append({**entry, "id": 5001, "image_id": 6})
        content["annotations"].append({"id": 5002})
        content["annotations"].append(None)

    with open(edited(lambda content: None)[1]) as file:
        clean = json.load(file)
    name = register_coco(*edited(spoil))
    with caplog.at_level(logging.WARNING):
        records = load_records(name)
    assert sum(len(r["annotations"]) for r in records) == len(clean["annotations"])
    assert len(caplog.records) == 1
    assert "dropped 19 of" in caplog.text
    assert (
        "9 non-finite-box, 1 negative-size-box, 4 zero-size-box, 4 box-outside-image, 1 unknown-category-id"
        in caplog.text
    )
    assert "in 1 images: toy_000.png" in caplog.text
    caplog.clear()
    drop_bad_boxes(records)
    assert not caplog.records


def test_a_box_partly_outside_stays_and_xyxy_is_understood():
    box = {"bbox": [-5, -5, 3, 40], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 100}
    annotation = {**box, "segmentation": [[1] * 6], "keypoints": [1, 2, 2]}
    record = {
        "file_name": "a",
        "width": 20,
        "height": 20,
        "annotations": [annotation, {**annotation, "bbox": [5, 5, 3, 9]}],
    }
    (cleaned,) = drop_bad_boxes([record])
    assert cleaned["annotations"] == [box]
    assert len(record["annotations"]) == 2
    (with_masks,) = drop_bad_boxes([record], keep_masks=True)
    assert with_masks["annotations"] == [{**box, "segmentation": [[1] * 6]}]
    (anywhere,) = drop_bad_boxes([{"file_name": "a", "annotations": [{**box, "bbox": [900, 900, 905, 905]}]}])
    assert len(anywhere["annotations"]) == 1  # of an image of unknown size


def test_classes_beyond_those_of_the_data_are_dropped(toy_coco):
    box = {"bbox": [5, 5, 9, 9], "bbox_mode": BoxMode.XYWH_ABS}
    record = {"file_name": "a", "annotations": [{**box, "category_id": number} for number in (-1, 0, 2, 3)]}
    (cleaned,) = drop_bad_boxes([record], register_coco(*toy_coco))
    assert [a["category_id"] for a in cleaned["annotations"]] == [0, 2]


def test_many_images_are_not_all_named(caplog):
    annotation = {"bbox": [0, 0, 0, 0], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    drop_bad_boxes([{"file_name": f"{i}.png", "annotations": [annotation]} for i in range(13)])
    assert "in 13 images: 0.png, 1.png" in caplog.text
    assert "9.png and 3 more" in caplog.text
