from dense_d2.data.jitter_crop import RandomJitterCrop
from dense_d2.data.mapper import DenseMapper, UnreadableImage
from dense_d2.data.shift import RandomShift, ShiftTransform
from dense_d2.datasets import load_records, register_coco
from dense_d2.errors import UserError

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper, MapDataset
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from omegaconf import ListConfig
from PIL import Image
from torch.utils.data import DataLoader


def make_record(path, size=(40, 20), boxes=(), mode="RGB", **save):
    """Writes an image of `size` (w, h) whose left half is red; returns its record."""
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    pixels[:, : size[0] // 2, 0] = 255
    Image.fromarray(pixels).convert(mode).save(path, **save)
    annotations = [
        {"bbox": list(box), "bbox_mode": BoxMode.XYWH_ABS, "category_id": number, "iscrowd": 0}
        for number, box in enumerate(boxes)
    ]
    return {"file_name": str(path), "width": size[0], "height": size[1], "image_id": 1, "annotations": annotations}


def test_boxes_follow_the_image_and_the_record_is_left_alone(tmp_path):
    record = make_record(tmp_path / "a.png", boxes=[(1.5, 2, 10, 5), (30, 10, 10, 10)])
    mapper = DenseMapper(True, augmentations=[T.ResizeTransform(20, 40, 40, 80), T.HFlipTransform(80)])
    sample = mapper(record)
    assert sample["image"].shape == (3, 40, 80)
    assert sample["image"].dtype == torch.uint8
    assert sample["image"][:, 5, 79].tolist() == [0, 0, 255]  # BGR: red is last, and now on the right
    assert sample["instances"].gt_boxes.tensor.tolist() == [[57, 4, 77, 14], [0, 20, 20, 40]]
    assert sample["instances"].gt_classes.tolist() == [0, 1]
    assert sample["instances"].image_size == (40, 80)
    assert (sample["width"], sample["height"], sample["image_id"]) == (40, 20, 1)
    assert "annotations" not in sample
    assert record["annotations"][0]["bbox"] == [1.5, 2, 10, 5]
    assert "image" not in record


def test_crowds_and_emptied_boxes_are_left_out(tmp_path):
    record = make_record(tmp_path / "a.png", boxes=[(0, 0, 5, 5), (10, 0, 25, 5), (20, 0, 5, 5)])
    record["annotations"][2]["iscrowd"] = 1
    instances = DenseMapper(True, augmentations=[ShiftTransform(-6, 0, 40, 20)])(record)["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[4, 0, 29, 5]]
    assert instances.gt_classes.tolist() == [1]


def test_boxes_are_cut_to_the_image(tmp_path):
    record = make_record(tmp_path / "a.png", boxes=[(-3, -2, 10, 5), (30, 10, 20, 20), (41, 0, 5, 5), (1, 1, 0.5, 9)])
    record["annotations"].append({"bbox": [9, 8, 11, 12], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0})
    boxes = DenseMapper(True, augmentations=[])(record)["instances"].gt_boxes.tensor
    assert boxes.tolist() == [[0, 0, 7, 3], [30, 10, 40, 20], [1, 1, 1.5, 10], [9, 8, 11, 12]]


def test_no_boxes(tmp_path):
    record = make_record(tmp_path / "a.png")
    for annotations in ([], None):
        record["annotations"] = annotations or []
        instances = DenseMapper(True, augmentations=[T.RandomFlip()])(record)["instances"]
        assert instances.gt_boxes.tensor.shape == (0, 4)
        assert instances.gt_classes.dtype == torch.int64


def test_testing_keeps_the_image_only(tmp_path):
    sample = DenseMapper(False, augmentations=[], image_format="RGB")(make_record(tmp_path / "a.png"))
    assert set(sample) == {"file_name", "width", "height", "image_id", "image"}
    assert sample["image"][:, 0, 0].tolist() == [255, 0, 0]


def test_content_is_where_the_image_lies_in_padding_and_black_bands(tmp_path):
    np.random.seed(3)
    record = make_record(tmp_path / "a.png", size=(60, 40))
    mapper = DenseMapper(True, augmentations=[RandomJitterCrop(0.3), T.RandomFlip(), RandomShift(8, prob=1.0)])
    record["annotations"] = [{"bbox": [0, 0, 60, 40], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}]
    for _ in range(60):
        sample = mapper(record)
        box, content = sample["instances"].gt_boxes.tensor[0], torch.tensor(sample["content"])
        assert (box - content).abs().max() <= 1  # boxes end one pixel early in a jitter crop
    # what the crop cut away does not swallow the band that the shift uncovers
    cut = DenseMapper(True, augmentations=[T.CropTransform(10, 0, 50, 40), ShiftTransform(4, -3, 50, 40)])(record)
    assert cut["content"] == (4.0, 0.0, 50.0, 37.0)


@pytest.mark.parametrize("image_format", ["BGR", "RGB"])
def test_equals_the_stock_mapper(toy_coco, image_format):
    augmentations = [T.ResizeShortestEdge((100, 140), 200, "range"), T.RandomFlip()]
    stock = DatasetMapper(True, augmentations=augmentations, image_format=image_format)
    ours = DenseMapper(
        True, augmentations=ListConfig(augmentations, flags={"allow_objects": True}), image_format=image_format
    )
    for number, record in enumerate(load_records(register_coco(*toy_coco))):
        np.random.seed(number)
        expected = stock(record)
        np.random.seed(number)
        sample = ours(record)
        assert torch.equal(sample["image"], expected["image"])
        torch.testing.assert_close(sample["instances"].gt_boxes.tensor, expected["instances"].gt_boxes.tensor)
        assert torch.equal(sample["instances"].gt_classes, expected["instances"].gt_classes)


def test_exif_orientation_is_applied_to_the_size_that_is_compared(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    record = make_record(tmp_path / "a.jpg", size=(40, 20), exif=exif)
    with pytest.raises(UnreadableImage, match="Mismatched image shape"):
        DenseMapper(True, augmentations=[])(record)
    record.update(width=20, height=40)
    assert DenseMapper(True, augmentations=[])(record)["image"].shape == (3, 40, 20)


def test_a_missing_size_is_filled_in(tmp_path):
    record = make_record(tmp_path / "a.png")
    del record["width"], record["height"]
    sample = DenseMapper(True, augmentations=[])(record)
    assert (sample["width"], sample["height"]) == (40, 20)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "1", "I;16"])
def test_other_image_modes_become_three_channels(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    record = make_record(path, mode="L" if mode == "I;16" else mode)
    if mode == "I;16":
        Image.fromarray(np.full((20, 40), 40, dtype=np.uint16)).save(path)
    assert DenseMapper(True, augmentations=[])(record)["image"].shape == (3, 20, 40)


@pytest.mark.parametrize("content", [None, b"", b"no image", b"\xff\xd8\xff\xe0"])
def test_an_unreadable_file_is_named(tmp_path, content):
    record = make_record(tmp_path / "a.png")
    path = tmp_path / "broken.jpg"
    record["file_name"] = str(path)
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableImage, match=r"broken\.jpg: \w+"):
        DenseMapper(True, augmentations=[])(record)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_unreadable_file_is_an_error_of_the_user_from_a_worker_too(tmp_path, num_workers):
    path = tmp_path / "broken: or not.jpg"
    path.write_bytes(b"")
    dataset = MapDataset([{"file_name": str(path)}], DenseMapper(False, augmentations=[]))
    with pytest.raises(UserError) as caught:
        list(DataLoader(dataset, batch_size=None, num_workers=num_workers))
    assert str(caught.value).startswith(f"{path}: UnidentifiedImageError: cannot identify")


def test_too_little_memory_is_not_taken_for_a_broken_image(tmp_path, monkeypatch):
    def decode(*args):
        raise MemoryError

    monkeypatch.setattr("dense_d2.data.mapper._decode", decode)
    with pytest.raises(MemoryError):
        DenseMapper(True, augmentations=[])(make_record(tmp_path / "a.png"))


def test_an_error_in_an_augmentation_is_not_taken_for_a_broken_image(tmp_path):
    with pytest.raises(AssertionError):
        DenseMapper(True, augmentations=[T.ResizeTransform(1, 1, 2, 2)])(make_record(tmp_path / "a.png"))


def test_an_unknown_image_format_is_refused():
    with pytest.raises(ValueError, match="'YUV'"):
        DenseMapper(True, augmentations=[], image_format="YUV")
