from dense_d2.data.jpeg import decode_jpeg
from dense_d2.data.mapper import UnreadableImage, read_image

import cv2
import numpy as np
import pytest
from PIL import Image


def smooth(height=60, width=90):
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}, {"restart_marker_blocks": 1}],
    ids=str,
)
def test_the_pixels_are_those_of_pillow(tmp_path, orientation, options):
    exif = Image.Exif()
    exif[274] = orientation
    path = str(tmp_path / "a.jpg")
    smooth().save(path, exif=exif, **options)
    slow = read_image({"file_name": path}, "BGR")
    with open(path, "rb") as file:
        assert np.array_equal(decode_jpeg(file.read()), slow)
    assert np.array_equal(read_image({"file_name": path}, "BGR", fast=True), slow)
    assert np.array_equal(read_image({"file_name": path}, "RGB", fast=True), slow[..., ::-1])


@pytest.mark.parametrize(("mode", "name"), [("CMYK", "a.jpg"), ("RGB", "a.png"), ("L", "a.png"), ("P", "a.gif")])
def test_everything_else_goes_the_slow_way(tmp_path, mode, name):
    path = str(tmp_path / name)
    smooth().convert(mode).save(path)
    with open(path, "rb") as file:
        assert decode_jpeg(file.read()) is None
    assert np.array_equal(read_image({"file_name": path}, "BGR", fast=True), read_image({"file_name": path}, "BGR"))


def test_grey_images(tmp_path):
    path = str(tmp_path / "a.jpg")
    smooth().convert("L").save(path)
    with open(path, "rb") as file:
        assert decode_jpeg(file.read()).shape == (60, 90, 3)
    assert np.array_equal(read_image({"file_name": path}, "BGR", fast=True), read_image({"file_name": path}, "BGR"))


@pytest.mark.parametrize("kept", [0, 1, 3, 40, 700, -2, -40])
def test_damaged_files_are_found(tmp_path, kept):
    path = tmp_path / "a.jpg"
    smooth(400, 600).save(path)
    path.write_bytes(path.read_bytes()[:kept])
    assert decode_jpeg(path.read_bytes()) is None
    if kept != -2:  # Pillow reads a file that lacks only its end mark
        with pytest.raises(UnreadableImage):
            read_image({"file_name": str(path)}, "BGR", fast=True)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}], ids=str)
@pytest.mark.parametrize("mark", [0xC0, 0xD0, 0xD9, 0xDA, 0xE0])
def test_damage_in_the_middle_is_found_where_pillow_finds_it(tmp_path, options, mark):
    path = tmp_path / "a.jpg"
    smooth(200, 300).save(path, **options)
    content = bytearray(path.read_bytes())
    content[-1500:-1498] = 0xFF, mark
    path.write_bytes(content)

    def read(fast):
        try:
            return read_image({"file_name": str(path)}, "BGR", fast=fast)
        except UnreadableImage as error:
            return str(error)

    found = read(fast=True)
    assert np.array_equal(found, read(fast=False))
    assert isinstance(found, str) or mark != 0xC0
