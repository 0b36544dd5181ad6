import copy
import json
import logging
import os
import random

from dense_d2.check_data import check_data, main
from dense_d2.data.image_file import probe_image
from dense_d2.datasets import DatasetError, load_records, register_coco
from tests.toy import CLASS_NAMES, write_toy_coco

import pytest
from detectron2.data import MetadataCatalog
from PIL import Image


@pytest.fixture(scope="module")
def content(toy_coco):
    with open(toy_coco[1]) as file:
        return json.load(file)


@pytest.fixture
def check(tmp_path, toy_coco):
    """check(content) -> DataReport of the toy images under other annotations."""

    def run(content):
        path = tmp_path / "annotations.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        report = check_data(toy_coco[0], str(path))
        assert json.loads(report.to_json())["annotations"] == str(path)
        assert "kinds of errors" in report.table
        report.table.encode("utf-8")
        return report

    return run


def found(report):
    return {f.name: (f.severity, f.count) for f in report.findings}


def test_sound_data(check, content):
    report = check(content)
    assert found(report) == {
        "category-ids-not-1-to-n": ("info", 3),
        "crowd-box": ("info", 1),
        "image-without-boxes": ("info", 1),
    }
    boxes = [a for a in content["annotations"] if not a["iscrowd"]]
    assert [row[0] for row in report.classes] == CLASS_NAMES
    assert [row[1] for row in report.classes] == [1, 3, 7]
    for _, category_id, num_boxes, num_images in report.classes:
        own = [a["image_id"] for a in boxes if a["category_id"] == category_id]
        assert (num_boxes, num_images) == (len(own), len(set(own)))
    assert report.counts["images"] == 12
    assert report.counts["images with boxes"] == 11
    assert report.counts["usable boxes"] == len(content["annotations"])


def set_box(box, index=1):
    return lambda c: c["annotations"][index].update(bbox=box)


ANNOTATION_CASES = {
    "zero width": (set_box([30, 30, 0, 9]), "zero-size-box", "error"),
    "zero height": (set_box([30, 30, 9, 0.0]), "zero-size-box", "error"),
    "negative side": (set_box([30, 30, 9, -1]), "negative-size-box", "error"),
    "nan": (set_box([float("nan"), 30, 9, 9]), "non-finite-box", "error"),
    "infinite": (set_box([30, 30, float("inf"), 9]), "non-finite-box", "error"),
    "huge integer": (set_box([30, 30, 10**400, 9]), "non-finite-box", "error"),
    "outside": (set_box([900, 30, 9, 9]), "box-outside-image", "error"),
    "left of the image": (set_box([-30, 30, 9, 9]), "box-outside-image", "error"),
    "partly outside": (set_box([-3, 30, 9, 9]), "box-partly-outside-image", "warning"),
    "partly below": (set_box([3, 30, 9, 900]), "box-partly-outside-image", "warning"),
    "null box": (set_box(None), "malformed-box", "error"),
    "text box": (set_box("1 2 3 4"), "malformed-box", "error"),
    "text in box": (set_box(["1", 2, 3, 4]), "malformed-box", "error"),
    "short box": (set_box([1, 2, 3]), "malformed-box", "error"),
    "no box": (lambda c: c["annotations"][1].pop("bbox"), "malformed-box", "error"),
    "tiny box": (set_box([30, 30, 11, 12]), "small-box", "info"),
    "unknown category": (lambda c: c["annotations"][1].update(category_id=2), "unknown-category-id", "error"),
    "list category": (lambda c: c["annotations"][1].update(category_id=[1]), "unknown-category-id", "error"),
    "unknown image": (lambda c: c["annotations"][1].update(image_id=4), "unknown-image-id", "error"),
    "no category": (lambda c: c["annotations"][1].pop("category_id"), "missing-key", "error"),
    "no annotation id": (lambda c: c["annotations"][1].pop("id"), "missing-key", "error"),
    "null annotation": (lambda c: c["annotations"].append(None), "malformed-entry", "error"),
    "same annotation id": (lambda c: c["annotations"][1].update(id=1), "duplicate-annotation-id", "error"),
    "same image id": (lambda c: c["images"][1].update(id=5), "duplicate-image-id", "error"),
    "same file": (lambda c: c["images"][1].update(file_name="toy_000.png"), "duplicate-file", "warning"),
    "text image id": (lambda c: c["images"][-1].update(id="x"), "text-image-id", "warning"),
    "no file name": (lambda c: c["images"][1].pop("file_name"), "missing-key", "error"),
    "null file name": (lambda c: c["images"][1].update(file_name=None), "bad-value", "error"),
    "image is text": (lambda c: c["images"].append("toy_000.png"), "malformed-entry", "error"),
    "no width": (lambda c: c["images"][1].pop("width"), "image-size-missing", "warning"),
    "negative height": (lambda c: c["images"][1].update(height=-3), "image-size-missing", "warning"),
    "huge width": (lambda c: c["images"][1].update(width=2**31), "image-size-missing", "warning"),
    "other width": (lambda c: c["images"][1].update(width=121), "size-differs", "error"),
    "no such file": (lambda c: c["images"][1].update(file_name="none.png"), "missing-image-file", "error"),
    "nul in the name": (lambda c: c["images"][1].update(file_name="a\0b"), "missing-image-file", "error"),
    "surrogate in the name": (lambda c: c["images"][1].update(file_name="\ud800"), "missing-image-file", "error"),
    "a directory": (lambda c: c["images"][1].update(file_name="."), "unreadable-image", "error"),
    "empty class": (lambda c: c["categories"].append({"id": 9, "name": "star"}), "empty-class", "warning"),
    "same category id": (lambda c: c["categories"].append({"id": 1, "name": "x"}), "duplicate-category-id", "error"),
    "same name": (lambda c: c["categories"].append({"id": 9, "name": "disc"}), "duplicate-category-name", "warning"),
    "text category id": (lambda c: c["categories"].append({"id": "9", "name": "x"}), "bad-value", "error"),
    "no annotations": (lambda c: c.pop("annotations"), "not-coco-format", "error"),
    "null categories": (lambda c: c.update(categories=None), "not-coco-format", "error"),
    "images is an object": (lambda c: c.update(images={}), "not-coco-format", "error"),
    "no boxes": (lambda c: c.update(annotations=[]), "no-boxes", "error"),
}


@pytest.mark.parametrize("case", ANNOTATION_CASES)
def test_every_kind_of_bad_annotation_has_a_name(check, content, case):
    change, name, severity = ANNOTATION_CASES[case]
    content = copy.deepcopy(content)
    change(content)
    report = check(content)
    assert found(report)[name][0] == severity
    if severity == "error":
        assert report.errors


@pytest.mark.parametrize("text", ["[]", "null", "3", '"images"', "{}", '{"images": 3}'])
def test_json_that_is_no_coco_file(check, text):
    assert found(check(text))["not-coco-format"][0] == "error"


@pytest.mark.parametrize("text", ["", "{", "\x00", "[" * 100000, '{"images": [}'])
def test_text_that_is_no_json_raises_one_named_error(check, text):
    with pytest.raises(DatasetError, match=r"annotations\.json is not readable as JSON"):
        check(text)


def test_examples_name_image_and_annotation(check, content):
    content = copy.deepcopy(content)
    content["annotations"][1]["bbox"] = [30, 30, 0, 0]
    (finding,) = check(content).errors
    assert finding.count == 1
    assert finding.consequence == "dropped"
    image_id = content["annotations"][1]["image_id"]
    name = next(i["file_name"] for i in content["images"] if i["id"] == image_id)
    assert finding.examples == (f"{name}, annotation 2: [30.0, 30.0, 0.0, 0.0]",)


def test_corners_given_as_width_and_height(check, content):
    content = copy.deepcopy(content)
    for image in content["images"]:
        image.update(width=100, height=100)
    for annotation in content["annotations"]:
        annotation["bbox"] = [50, 55, 90, 95]
    assert found(check(content))["boxes-look-like-xyxy"][0] == "error"
    for annotation in content["annotations"]:
        annotation["bbox"] = [50, 55, 50, 45]
    assert "boxes-look-like-xyxy" not in found(check(content))


HOSTILE = (
    None,
    True,
    -1,
    0,
    10**30,
    1e308,
    float("nan"),
    float("-inf"),
    "",
    "a\nb",
    "\ud800",
    [],
    {},
    [[]],
    [None] * 4,
)


def test_random_hostile_files_never_crash_the_check_or_the_training(check, content, toy_coco, tmp_path):
    """Replaces, deletes and duplicates at random; whatever is left must be reported, and loadable or refused."""
    rng = random.Random(0)

    def spoil(node, depth=0):
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        for key in rng.sample(keys, min(len(keys), 3)):
            roll = rng.random()
            if isinstance(node[key], (dict, list)) and node[key] and roll < 0.8:
                spoil(node[key], depth + 1)
            elif depth and roll < 0.9:
                node[key] = rng.choice(HOSTILE)
            elif depth and isinstance(node, dict):
                del node[key]
            elif depth:
                node.append(node[key])

    logging.disable(logging.CRITICAL)
    try:
        for _ in range(60):
            hostile = copy.deepcopy(content)
            spoil(hostile)
            check(hostile)
            try:
                records = load_records(register_coco(toy_coco[0], str(tmp_path / "annotations.json")))
            except DatasetError:
                continue
            for box in [a["bbox"] for r in records for a in r["annotations"]]:
                assert 0 < box[2] < 1e300
    finally:
        logging.disable(logging.NOTSET)


def test_damaged_files_are_found_without_decoding_all(images):
    def edit(number, change):
        path = os.path.join(images[0], f"toy_{number:03d}.png")
        with open(path, "rb") as file:
            data = file.read()
        if change is None:
            os.remove(path)
        else:
            with open(path, "wb") as file:
                file.write(change(data))

    edit(1, lambda data: data[: len(data) // 2])
    edit(2, lambda data: b"")
    edit(3, lambda data: b"no image at all")
    edit(4, None)
    middle = slice(2000, 2010)
    edit(5, lambda data: data[: middle.start] + bytes(10) + data[middle.stop :])
    report = check_data(*images)
    examples = {f.name: f.examples for f in report.errors}
    assert examples["missing-image-file"] == ("toy_004.png",)
    assert [e.split(":")[0] for e in examples["unreadable-image"]] == ["toy_001.png", "toy_002.png", "toy_003.png"]
    assert "0 bytes" in examples["unreadable-image"][1]
    full = check_data(*images, decode=True)
    assert found(full)["unreadable-image"] == ("error", 4)


def test_header_facts(tmp_path):
    image = Image.new("RGB", (40, 20))
    exif = Image.Exif()
    exif[274] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert probe_image(tmp_path / "turned.jpg")[:4] == (20, 40, "RGB", True)
    image.save(tmp_path / "trailing.jpg")
    data = (tmp_path / "trailing.jpg").read_bytes()
    (tmp_path / "trailing.jpg").write_bytes(data + b"camera maker's appendix")
    assert probe_image(tmp_path / "trailing.jpg") == (40, 20, "RGB", False, "")
    (tmp_path / "cut.jpg").write_bytes(data[:-60])
    assert "runcated" in probe_image(tmp_path / "cut.jpg").error
    for extension in ("gif", "bmp", "webp", "tif"):
        path = tmp_path / f"a.{extension}"
        Image.effect_noise((40, 20), 50).save(path)
        assert probe_image(path)[:2] == (40, 20)
        assert not probe_image(path).error
        path.write_bytes(path.read_bytes()[:-300])
        assert probe_image(path).error, extension
    assert probe_image(tmp_path / "none.jpg").error == "missing"


def test_a_turned_image_is_named(images):
    exif = Image.Exif()
    exif[274] = 8
    path = os.path.join(images[0], "toy_001.png")
    Image.open(path).save(path, exif=exif)
    (finding,) = check_data(*images).errors
    assert finding.name == "size-differs"
    assert finding.examples == (
        "toy_001.png: (160, 120) in the file, turned by its EXIF orientation, (120, 160) in the annotations",
    )


def test_sixteen_bit_images_are_named(images):
    Image.new("I;16", (160, 120)).save(os.path.join(images[0], "toy_000.png"))
    assert found(check_data(*images))["sixteen-bit-image"] == ("warning", 1)


def test_command(images, capsys, content):
    arguments = ["--images", images[0], "--annotations", images[1]]
    assert main(arguments) == 0
    assert "kinds of errors: 0" in capsys.readouterr().out
    content = copy.deepcopy(content)
    content["annotations"][1]["bbox"] = [1, 1, 0, 0]
    with open(images[1], "w") as file:
        json.dump(content, file)
    assert main([*arguments, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["findings"][0]["name"] == "zero-size-box"
    assert [c["name"] for c in report["classes"]] == CLASS_NAMES
    with open(images[1], "w") as file:
        file.write("{")
    for wrong in (arguments, ["--images", "/nowhere", "--annotations", images[1]], []):
        with pytest.raises(SystemExit) as stop:
            main(wrong)
        assert stop.value.code == 2


def test_the_toy_data_is_deterministic(tmp_path, toy_coco):
    again = write_toy_coco(tmp_path)
    for path in ("toy_000.png", "toy_011.png"):
        with open(os.path.join(again[0], path), "rb") as a, open(os.path.join(toy_coco[0], path), "rb") as b:
            assert a.read() == b.read()
    with open(again[1]) as a, open(toy_coco[1]) as b:
        assert a.read() == b.read()
    assert MetadataCatalog.get(register_coco(*again)).thing_classes == CLASS_NAMES
