import hashlib
import json
import pathlib

from tools import make_shapes as module
from tools.make_shapes import CLASSES, draw_image, make_shapes

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return make_shapes(str(tmp_path_factory.mktemp("data") / "shapes"), num_train=12, num_test=4, size=160, seed=3)


def digest(paths):
    files = sorted(pathlib.Path(paths["train_images"]).parent.rglob("*.*"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_files_are_coco_format(paths):
    for split, num_images in (("train", 12), ("test", 4)):
        content = json.loads(pathlib.Path(paths[f"{split}_annotations"]).read_text())
        assert [x["name"] for x in content["categories"]] == list(CLASSES)
        assert len(content["images"]) == num_images
        for record in content["images"]:
            with Image.open(pathlib.Path(paths[f"{split}_images"]) / record["file_name"]) as image:
                assert image.size == (record["width"], record["height"]) == (160, 160)
        ids = [x["id"] for x in content["annotations"]]
        assert ids == list(range(1, len(ids) + 1))
        assert {x["image_id"] for x in content["annotations"]} == {x["id"] for x in content["images"]}
        for x in content["annotations"]:
            left, top, width, height = x["bbox"]
            assert 24 - 0.1 <= max(width, height) <= 110 + 0.1 and min(width, height) > 10
            assert min(left, top) >= 0 and max(left + width, top + height) <= 160
            assert 0.2 * width * height < x["area"] <= width * height


def test_same_arguments_same_files_and_splits_differ(paths, tmp_path):
    again = make_shapes(str(tmp_path / "again"), num_train=12, num_test=4, size=160, seed=3)
    assert digest(again) == digest(paths)
    assert digest(make_shapes(str(tmp_path / "other"), 2, 1, 160, seed=4))["00000.jpg"] != digest(paths)["00000.jpg"]
    train, test = (pathlib.Path(paths[f"{split}_images"]) / "00000.jpg" for split in ("train", "test"))
    assert train.read_bytes() != test.read_bytes()


def test_boxes_are_tight_around_the_drawing():
    """Against an independent measure: the pixels a lone shape covers."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        shape = module._random_shape(rng, 200)
        (rows, columns), alpha = module._rasterise(shape)
        ys, xs = np.nonzero(alpha > 0.02)
        seen = (
            columns.start + xs.min(),
            rows.start + ys.min(),
            columns.start + xs.max() + 1,
            rows.start + ys.max() + 1,
        )
        np.testing.assert_allclose(shape.box, seen, atol=1.3)
        assert alpha.sum() == pytest.approx(module._area(shape.outline), rel=0.04)


def test_nothing_is_hidden_by_more_than_it_may():
    for seed in range(15):
        _, shapes = draw_image(np.random.default_rng(seed), 160)
        assert 1 <= len(shapes) <= module.MAX_SHAPES
        visible = []
        for shape in shapes:
            window, alpha = module._rasterise(shape)
            cover = np.zeros((160, 160))
            cover[window] = alpha
            visible = [(v * (1 - cover), full) for v, full in visible] + [(cover, cover.sum())]
        assert all(v.sum() >= 0.7 * full - 1e-3 for v, full in visible)


def test_shapes_stand_out_and_all_classes_occur():
    seen = set()
    for seed in range(30):
        picture, shapes = draw_image(np.random.default_rng(seed), 160)
        assert picture.dtype == np.uint8 and picture.shape == (160, 160, 3)
        x1, y1, x2, y2 = shapes[-1].box  # the front one: its centre lies inside it
        centre = picture[int((y1 + y2) / 2), int((x1 + x2) / 2)]
        assert np.abs(centre.astype(int) - np.median(picture, axis=(0, 1))).sum() > 30
        seen |= {shape.class_index for shape in shapes}
    assert seen == set(range(len(CLASSES)))


def test_reuses_its_own_and_refuses_a_strangers_directory(tmp_path):
    first = make_shapes(str(tmp_path / "a"), 2, 1, 160)
    image = pathlib.Path(first["train_images"]) / "00000.jpg"
    stamp = image.stat().st_mtime_ns
    assert make_shapes(str(tmp_path / "a"), 2, 1, 160) == first and image.stat().st_mtime_ns == stamp
    make_shapes(str(tmp_path / "a"), 1, 1, 160)
    assert len(list(pathlib.Path(first["train_images"]).iterdir())) == 1

    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("precious")
    with pytest.raises(FileExistsError, match="not empty"):
        make_shapes(str(tmp_path / "b"), 1, 1, 160)
    assert (tmp_path / "b" / "thesis.tex").read_text() == "precious"


def test_an_interrupted_run_is_done_again(tmp_path, monkeypatch):
    def fail(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "draw_image", fail)
        make_shapes(str(tmp_path / "a"), 2, 1, 160)
    assert len(list(pathlib.Path(make_shapes(str(tmp_path / "a"), 2, 1, 160)["train_images"]).iterdir())) == 2


def test_too_small_images_are_refused(tmp_path):
    with pytest.raises(ValueError, match="size is 100"):
        make_shapes(str(tmp_path / "a"), 1, 1, size=100)
