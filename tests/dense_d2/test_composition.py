import itertools
import json

from dense_d2.data import (
    Composition,
    CopyPaste,
    Letterbox,
    MixUp,
    MosaicWarp,
    MultiScale,
    PictureReader,
    RandomFlip,
    RandomHSV,
    build_train_loader,
)
from dense_d2.data.picture import Picture
from dense_d2.datasets import DatasetError, load_records, register_coco
from tests.dense_d2.painted import painted

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import BoxMode


@pytest.fixture(scope="module")
def name(toy_coco):
    return register_coco(*toy_coco)


def make_composition(strong=None, **options):
    strong = [MosaicWarp(), MixUp()] if strong is None else strong
    return Composition(96, strong=strong, final=[RandomHSV(), RandomFlip(), Letterbox()], **options)


def make_loader(dataset, **changes):
    settings = dict(
        dataset=dataset,
        mapper=PictureReader(96),
        composition=make_composition(),
        total_batch_size=2,
        num_workers=0,
        seed=3,
        aspect_ratio_grouping=False,
        filter_empty=False,
    )
    return build_train_loader(**{**settings, **changes})


def fingerprint(loader, number=8):
    return [
        [(s["file_name"], s["image"].numpy().tobytes(), s["instances"].gt_boxes.tensor.tolist()) for s in batch]
        for batch in itertools.islice(loader, number)
    ]


@pytest.fixture(scope="module")
def straight(name):
    return fingerprint(make_loader(name))


def test_workers_do_not_change_a_bit(name, straight):
    assert fingerprint(make_loader(name, num_workers=2)) == straight


def test_a_resumed_loader_goes_on_to_the_bit(name, straight):
    loader = make_loader(name)
    loader.start_iter = 5
    assert fingerprint(loader, 3) == straight[5:]


def test_the_sample_is_what_a_detector_takes(name):
    sample = next(iter(make_loader(name)))[0]
    assert sample["image"].shape == (3, 96, 96)
    assert sample["image"].dtype == torch.uint8
    assert sample["image"].is_contiguous()
    assert sample["instances"].image_size == (96, 96)
    assert sample["instances"].gt_boxes.tensor.dtype == torch.float32
    assert sample["instances"].gt_classes.dtype == torch.int64
    assert set(sample) == {"file_name", "height", "width", "image_id", "image", "instances"}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_phase_changes_at_exactly_its_iteration(name, straight, num_workers):
    """Also with workers, which fetch several batches ahead, and also when the run is resumed."""
    closing = fingerprint(make_loader(name, max_iter=8, close_iters=8))
    assert not any(a == b for a, b in zip(straight, closing))
    loader = make_loader(name, max_iter=8, close_iters=3, num_workers=num_workers)
    assert fingerprint(loader) == straight[:5] + closing[5:]
    loader.start_iter = 4
    assert fingerprint(loader, 4) == straight[4:5] + closing[5:]


def test_closing_needs_the_length_of_the_run(name):
    with pytest.raises(ValueError, match="close_iters is 4 and max_iter is not given"):
        make_loader(name, close_iters=4)
    with pytest.raises(ValueError, match="close_iters is -3"):
        make_loader(name, close_iters=-3, max_iter=9)


def test_the_model_is_told_the_input_size(name):
    scale = MultiScale([64, 128], period=2, first=96)
    batches = list(itertools.islice(make_loader(name, multi_scale=scale, num_workers=2), 8))
    sides = [{s["input_size"] for s in batch} for batch in batches]
    assert sides == [{scale.size_at(i, 3)} for i in range(8)]
    assert sides[:2] == [{(96, 96)}] * 2
    assert all(s["image"].shape == (3, 96, 96) for batch in batches for s in batch)


def test_or_the_pipeline_makes_images_of_that_size(name):
    scale = MultiScale([64, 128], period=2, first=96, in_pipeline=True)
    for iteration, batch in enumerate(itertools.islice(make_loader(name, multi_scale=scale), 8)):
        size = scale.size_at(iteration, 3)
        assert all(s["image"].shape == (3, *size) and "input_size" not in s for s in batch)
        assert all(s["instances"].image_size == size for s in batch)


@pytest.mark.parametrize("in_pipeline", [False, True])
def test_a_rectangle_is_not_stretched(name, in_pipeline):
    scale = MultiScale([128, 192], period=1, first=(64, 96), in_pipeline=in_pipeline)
    composition = Composition((64, 96), strong=[MosaicWarp(), MixUp()], final=[Letterbox()])
    seen = set()
    for iteration, batch in enumerate(
        itertools.islice(make_loader(name, multi_scale=scale, composition=composition), 8)
    ):
        height, width = scale.size_at(iteration, 3)
        seen.add((height, width))
        for sample in batch:
            assert sample["image"].shape == ((3, height, width) if in_pipeline else (3, 64, 96))
            assert sample.get("input_size") == (None if in_pipeline else (width, width))  # of the padded square
    assert seen == {(64, 96), (128, 192), (192, 288)}


def test_strong_steps_run_with_their_probability():
    np.random.seed(0)
    ran = []
    composition = Composition(
        (60, 80), strong=[lambda picture, draw, size: ran.append(0) or picture], final=[], strong_prob=0.3
    )
    for _ in range(1000):
        composition(painted(), None)
    assert 240 < len(ran) < 360
    composition.strong_prob = 1.0
    before = len(ran)
    assert len(composition(painted(), None, strong=False)["instances"]) == 1
    assert len(ran) == before


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: make_composition(strong_prob=2), "strong_prob is 2"),
        (lambda: make_composition(max_boxes=0), "max_boxes is 0"),
        (lambda: MosaicWarp(scale=[0, 0]), "scale is .0, 0."),
        (lambda: RandomHSV(gains=[0.5]), "gains is .0.5."),
    ],
)
def test_what_cannot_be_meant_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_small_boxes_go_and_only_the_first_are_kept():
    picture = painted()
    picture.boxes = np.float32([[0, 0, 1, 9], [0, 0, 9, 9], [0, 0, 1.5, 1.5], [2, 2, 9, 9]])
    picture.classes = np.arange(4)
    instances = Composition((60, 80), max_boxes=2)(picture, None)["instances"]
    assert instances.gt_classes.tolist() == [1, 2]


def test_an_image_may_lose_all_boxes_unless_there_is_a_fallback():
    def lose(picture, draw, size):
        return picture.select(slice(0))

    assert len(Composition((60, 80), final=[lose])(painted(), None)["instances"]) == 0
    kept = Composition((60, 80), final=[lose], fallback=[], min_box_side=1000)(painted(), None)["instances"]
    assert kept.gt_boxes.tensor.tolist() == [[20, 16, 50, 40]]
    brighter = [lambda picture, draw, size: picture.moved(picture.image + 1, picture.boxes)]
    sample = Composition((60, 80), final=brighter, fallback=[])(painted(box=None), None)
    assert (sample["image"] == 41).all()  # it had none to lose


def test_channel_order():
    picture = painted()
    picture.image[..., 2] = 7
    for image_format, channel in (("BGR", 2), ("RGB", 0)):
        image = Composition((60, 80), image_format=image_format)(picture, None)["image"]
        assert (image[channel] == 7).all()
        assert image[2 - channel].tolist() == picture.image[..., 0].tolist()
    with pytest.raises(ValueError, match="'YUV'"):
        Composition(96, image_format="YUV")


def test_a_wrong_size_is_named():
    with pytest.raises(ValueError, match=r"\(60, 80\), and the input size is \(96, 96\)"):
        Composition(96)(painted(), None)


def test_a_data_set_without_boxes_runs(toy_coco):
    records = [{**r, "annotations": []} for r in load_records(register_coco(*toy_coco))]
    batches = list(itertools.islice(make_loader(records), 4))
    assert all(s["instances"].gt_boxes.tensor.shape == (0, 4) for batch in batches for s in batch)


def test_unreadable_images_are_replaced_and_reported(toy_coco, tmp_path):
    records = load_records(register_coco(*toy_coco))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    records[2] = {**records[2], "file_name": str(broken)}
    loader = make_loader(records, num_workers=1)
    samples = [s for batch in itertools.islice(loader, 12) for s in batch]
    assert str(broken) not in {s["file_name"] for s in samples}
    assert list(loader.unreadable) == [str(broken)]


def test_reading_shrinks_boxes_with_the_image(name):
    record = load_records(name)[3]  # 192 x 128
    assert (record["width"], record["height"]) == (192, 128)
    full = PictureReader()(record)
    assert full.image.shape == (128, 192, 3)
    for size in (96, (64, 192), (160, 96)):
        shrunk = PictureReader(size)(record)
        assert shrunk.image.shape == (64, 96, 3)
        np.testing.assert_allclose(shrunk.boxes * 2, full.boxes)
    for size, shape in (((128, 192), (128, 192, 3)), ((200, 150), (100, 150, 3))):
        assert PictureReader(size)(record).image.shape == shape
    record = load_records(name)[4]  # 160 x 120, at 50 / 160 the sides are 50 and 37.5
    full, cut = PictureReader()(record), PictureReader(50)(record)
    assert cut.image.shape == (37, 50, 3)
    assert cut.mask_scale == (50 / 160, 37 / 120)
    np.testing.assert_allclose(cut.boxes, full.boxes * 0.3125)
    assert np.array_equal(cut.image, cv2.resize(full.image, (50, 37), interpolation=cv2.INTER_LINEAR))


def test_selected_boxes_keep_their_own_class_weight_and_mask():
    boxes, weights = np.float32([[n, 0, 9, 9] for n in range(3)]), np.float32([0, 0.5, 1])
    picture = Picture(painted().image, boxes, np.arange(3), {}, weights, masks=["a", "b", "c"])
    for keep in (np.array([False, True, True]), slice(1, None), [1, 2]):
        found = picture.select(keep)
        assert found.boxes[:, 0].tolist() == found.classes.tolist() == [1, 2]
        assert found.weights.tolist() == [0.5, 1] and found.masks == ["b", "c"]
    assert picture.moved(picture.image, boxes).masks is None


def test_crowds_and_inclusive_boxes(name):
    record = load_records(name)[0]  # its last box is a crowd: 2, 2, 40, 30
    all_boxes, some = PictureReader(keep_crowds=True)(record).boxes, PictureReader()(record).boxes
    assert len(all_boxes) == len(some) + 1
    assert all_boxes[-1].tolist() == [2, 2, 42, 32]
    assert PictureReader(keep_crowds=True, last_pixel_boxes=True)(record).boxes[-1].tolist() == [2, 2, 41, 31]
    record["annotations"] = [{"bbox": [-5, 3, 500, 4], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}]
    assert PictureReader()(record).boxes.tolist() == [[0, 3, 160, 7]]
    assert PictureReader(last_pixel_boxes=True)(record).boxes.tolist() == [[0, 3, 159, 6]]
    record["annotations"][0].update(bbox=[-5, 3, 500, 7], bbox_mode=BoxMode.XYXY_ABS)
    assert PictureReader()(record).boxes.tolist() == [[0, 3, 160, 7]]
    record["annotations"][0].update(bbox=[5, 3, 0.5, 4], bbox_mode=BoxMode.XYWH_ABS)
    assert PictureReader(last_pixel_boxes=True)(record).boxes.tolist() == [[5, 3, 5, 6]]


def test_copy_paste_asks_for_masks_and_finds_them_in_the_file(name, images):
    assert Composition(96, final=[CopyPaste()]).needs_masks and not Composition(96, final=[Letterbox()]).needs_masks
    composition = make_composition(strong=[MosaicWarp(), CopyPaste()])
    with pytest.raises(ValueError, match="keep_masks=true"):
        make_loader(name, composition=composition)
    with pytest.raises(DatasetError, match="no box has a segmentation"):
        make_loader(name, composition=composition, keep_masks=True)
    records = load_records(name)
    records[0]["annotations"][0]["segmentation"] = [[1, 2, 3]]
    with pytest.raises(DatasetError, match="no box has a segmentation of three points"):
        make_loader(records, composition=composition, keep_masks=True)
    with open(images[1]) as file:
        coco = json.load(file)
    for entry in coco["annotations"]:
        x, y, w, h = entry["bbox"]
        entry["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    with open(images[1], "w") as file:
        json.dump(coco, file)
    loader = make_loader(register_coco(*images), composition=composition, keep_masks=True)
    masks = [(a["bbox"], a["segmentation"]) for r in loader.dataset.records for a in r["annotations"]]
    assert masks
    assert all(segmentation[0][:2] == box[:2] for box, segmentation in masks)
    mosaics = make_loader(register_coco(*images), composition=make_composition(strong=[MosaicWarp()]))
    pasted, plain = (
        [len(boxes) for batch in fingerprint(found) for _, _, boxes in batch] for found in (loader, mosaics)
    )
    assert sum(more > less for more, less in zip(pasted, plain)) >= 4
