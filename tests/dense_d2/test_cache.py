import io
import os
import pickle
import socket
from pathlib import Path

from dense_d2.data import DenseMapper, PictureReader
from dense_d2.data import cache as cache_module
from dense_d2.data.cache import MemoryCache, free_memory, open_cache
from dense_d2.data.disk_cache import DiskCache
from dense_d2.data.mapper import UnreadableImage
from dense_d2.datasets import load_records, register_coco
from dense_d2.errors import UserError
from tests.dense_d2.test_composition import fingerprint, make_loader

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def name(images):
    return register_coco(*images)


def reader_with(kind, records, folder="", max_size=96):
    reader = PictureReader(max_size)
    reader.cache, records = open_cache(kind, str(folder), records, reader)
    return reader, records


@pytest.mark.parametrize("kind", ["memory", "disk"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_cache_does_not_change_a_bit(name, kind, num_workers, tmp_path):
    plain = fingerprint(make_loader(name), 12)
    loader = make_loader(name, cache=kind, cache_dir=str(tmp_path), num_workers=num_workers)
    assert fingerprint(loader, 12) == plain
    assert fingerprint(loader, 12) == plain  # now from the cache
    again = make_loader(name, cache=kind, cache_dir=str(tmp_path), num_workers=num_workers)
    assert fingerprint(again, 12) == plain


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_an_image_is_read_once_and_is_read_only_or_a_copy(name, kind, tmp_path, monkeypatch):
    reader, records = reader_with(kind, load_records(name), tmp_path)
    first = [reader(record).image for record in records]
    monkeypatch.setattr("dense_d2.data.picture.read_image", None)
    for record, image in zip(records, first):
        again = reader(record)
        assert np.array_equal(again.image, image)
        assert kind == "disk" or not again.image.flags.writeable
        assert again.record.keys() == {"file_name", "image_id", "height", "width"}


def test_memory_is_shared_with_whoever_opens_it(name):
    records = load_records(name)
    reader, records = reader_with("memory", records)
    shapes = reader.cache.shapes
    other = pickle.loads(pickle.dumps(reader.cache))
    image = reader(records[4]).image
    shared = other.get(records[4], None)
    assert np.array_equal(shared, image)
    assert np.array_equal(MemoryCache(shapes, reader.cache.path).get(records[4], None), image)


def test_the_first_process_of_a_machine_makes_the_block_of_all(name, monkeypatch):
    first, _ = reader_with("memory", load_records(name))
    paths = [("another machine", "/nowhere"), (socket.gethostname(), first.cache.path)]
    monkeypatch.setattr(cache_module.comm, "get_local_rank", lambda: 1)
    monkeypatch.setattr(cache_module.comm, "all_gather", lambda mine: [*paths, mine])
    assert reader_with("memory", load_records(name))[0].cache.path == first.cache.path


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_a_changed_file_is_read_anew(name, kind, tmp_path):
    reader, records = reader_with(kind, load_records(name), tmp_path)
    record = records[1]
    first = reader(record).image
    before = first.copy()
    path = record["file_name"]
    Image.new("RGB", (record["width"], record["height"]), (1, 2, 3)).save(path)
    assert reader(record).image[0, 0].tolist() == [3, 2, 1]
    time = os.stat(path).st_mtime_ns
    Image.new("RGB", (record["width"], record["height"]), (1, 2, 4)).save(path)  # as many bytes
    os.utime(path, ns=(time, time + 1))
    assert reader(record).image[0, 0].tolist() == [4, 2, 1]
    Image.new("RGB", (record["width"], record["height"]), (9, 9, 9)).save(path, compress_level=0)
    os.utime(path, ns=(time, time + 1))  # as old, but larger
    assert reader(record).image[0, 0].tolist() == [9, 9, 9]
    assert np.array_equal(first, before)
    os.remove(path)
    with pytest.raises(UnreadableImage, match="No such file"):
        reader(record)


def test_entries_belong_to_one_size_and_to_one_format(name, tmp_path, monkeypatch):
    records = load_records(name)
    small, numbered = reader_with("disk", records, tmp_path, max_size=64)
    large, _ = reader_with("disk", records, tmp_path, max_size=96)
    assert max(small(numbered[3]).image.shape) == 64
    assert max(large(numbered[3]).image.shape) == 96
    path = small.cache.path(numbered[3]["file_name"])
    assert small.cache.path("a/0.png") != small.cache.path("b/0.png")
    before = os.stat(path).st_ino
    small(numbered[3])
    assert os.stat(path).st_ino == before
    monkeypatch.setattr("dense_d2.data.disk_cache.FORMAT", b"dd2-img9")
    small(numbered[3])
    assert os.stat(path).st_ino != before


@pytest.mark.parametrize("keep", [0, 10, -1])
def test_a_damaged_entry_is_replaced(name, tmp_path, keep):
    reader, records = reader_with("disk", load_records(name), tmp_path)
    image = reader(records[0]).image
    path = reader.cache.path(records[0]["file_name"])
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[:keep])
    assert np.array_equal(reader(records[0]).image, image)
    assert Path(path).read_bytes() == content


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_annotations_that_do_not_fit_a_cached_image_are_found(name, kind, tmp_path):
    reader, records = reader_with(kind, load_records(name), tmp_path)
    reader(records[0])
    for side in ("width", "height"):
        with pytest.raises(UnreadableImage, match="Mismatched"):
            reader({**records[0], side: 500})
    small, records = reader_with(kind, load_records(name), tmp_path, max_size=32)
    image = small(records[0]).image
    height, width = records[0]["height"], records[0]["width"]
    with pytest.raises(UnreadableImage, match="Mismatched"):  # though it would shrink to the same size
        small({**records[0], "height": 2 * height, "width": 2 * width})
    assert np.array_equal(small(records[0]).image, image)


def test_a_folder_below_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert DiskCache("~/cache", None).folder == str(tmp_path / "cache" / "dense_d2_images")


def test_what_lies_in_the_folder_stays(name, tmp_path):
    mine = tmp_path / "00"
    mine.write_text("mine")
    reader, records = reader_with("disk", load_records(name), tmp_path)
    reader(records[0])
    assert mine.read_text() == "mine"
    assert set(os.listdir(tmp_path)) == {"00", "images", "annotations.json", "dense_d2_images"}


def test_sizes_that_the_annotations_lack_come_from_the_files(name, tmp_path):
    records = [{k: v for k, v in r.items() if k not in ("width", "height")} for r in load_records(name)]
    records[1]["width"] = 120
    reader, numbered = reader_with("memory", records)
    assert [(r["width"], r["height"]) for r in numbered] == [(r["width"], r["height"]) for r in load_records(name)]
    reader(numbered[2])
    records[0]["file_name"] = str(tmp_path / "missing.png")
    reader, numbered = reader_with("memory", records)
    with pytest.raises(UnreadableImage, match="missing"):
        reader(numbered[0])


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_a_cache_that_does_not_fit_is_an_error(name, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "free_memory", lambda: 1000)
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match=rf"cache={kind} needs .* GB.* are free; .*none"):
        reader_with(kind, load_records(name), tmp_path)


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_nine_tenths_of_what_is_free_may_be_taken(name, kind, tmp_path, monkeypatch):
    records = load_records(name)[3:4]  # 96 x 64 x 3 = 18432 bytes
    for free in (20481, 20479):
        monkeypatch.setattr(cache_module, "free_memory", lambda free=free: free)
        usage = type("Usage", (), {"free": free})
        monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda folder, usage=usage: usage)
        if free == 20481:
            reader_with(kind, records, tmp_path)
    with pytest.raises(UserError, match="needs 0.0 GB"):
        reader_with(kind, records, tmp_path)


def test_a_full_disk_cache_needs_no_more_room(name, tmp_path, monkeypatch):
    reader, records = reader_with("disk", load_records(name), tmp_path)
    for record in records:
        reader(record)
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 0}))
    reader_with("disk", load_records(name), tmp_path)
    with pytest.raises(UserError, match="cache=disk needs"):  # entries of another size are no help
        reader_with("disk", load_records(name), tmp_path, max_size=64)
    others = [dict(record, file_name=record["file_name"] + ".other") for record in records]
    with pytest.raises(UserError, match="cache=disk needs"):  # nor those of other images
        reader_with("disk", others, tmp_path)


def test_a_full_disk_stops_the_run(name, tmp_path, monkeypatch):
    reader, records = reader_with("disk", load_records(name), tmp_path)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dense_d2.data.disk_cache.os.replace", full)
    with pytest.raises(UserError, match=r"cannot write .*No space left.*cache=none"):
        reader(records[0])
    assert not [files for _, _, files in os.walk(reader.cache.folder) if files]


@pytest.mark.parametrize(
    ("kind", "message"), [("ram", "one of none, memory, disk"), ("disk", "set dataloader.train.cache_dir")]
)
def test_requests_that_make_no_sense(name, kind, message):
    with pytest.raises(UserError, match=message):
        reader_with(kind, load_records(name))


def test_only_a_picture_reader_has_a_cache(name):
    with pytest.raises(UserError, match="DenseMapper reads afresh"):
        open_cache("memory", "", load_records(name), DenseMapper(True, augmentations=[]))


@pytest.mark.parametrize(
    ("limit", "expected"), [(None, 3000 * 1024), ("max", 3000 * 1024), ("900000", 620_000), ("9000000", 3000 * 1024)]
)
def test_free_memory_is_that_of_the_machine_or_of_a_tighter_group(monkeypatch, limit, expected):
    files = {"/proc/meminfo": "MemTotal: 9000 kB\nMemFree: 20 kB\nMemAvailable: 3000 kB\n"}
    if limit:
        group = {"max": limit, "current": "300000", "stat": "anon 70000\ninactive_file 20000\n"}
        files.update({f"/sys/fs/cgroup/memory.{key}": text for key, text in group.items()})

    def fake_open(path):
        if path not in files:
            raise FileNotFoundError(path)
        return io.StringIO(files[path])

    monkeypatch.setattr(cache_module, "open", fake_open, raising=False)
    assert free_memory() == expected
