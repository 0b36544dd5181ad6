import copy
import itertools
import logging
import random

from dense_d2.data.loader import TrainLoader, build_test_loader, build_train_loader
from dense_d2.data.mapper import DenseMapper, UnreadableImage
from dense_d2.data.mosaic import Mosaic
from dense_d2.data.sampler import StreamSampler
from dense_d2.data.shift import RandomShift
from dense_d2.data.train_dataset import TrainDataset, sample_rng
from dense_d2.datasets import DatasetError, load_records, register_coco

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T

AUGMENTATIONS = [T.ResizeShortestEdge((64, 96), 160, "range"), T.RandomFlip(), RandomShift(8)]


def make_loader(dataset, **changes):
    mapper = DenseMapper(True, augmentations=AUGMENTATIONS)
    settings = {"mapper": mapper, "total_batch_size": 2, "num_workers": 0, "seed": 5, "composition": Mosaic(size=64)}
    return build_train_loader(dataset=dataset, **{**settings, **changes})


def fingerprint(batches):
    return [
        [
            (s["file_name"], tuple(s["image"].shape), int(s["image"].sum()), s["instances"].gt_boxes.tensor.tolist())
            for s in batch
        ]
        for batch in batches
    ]


@pytest.fixture(scope="module")
def name(toy_coco):
    return register_coco(*toy_coco)


@pytest.fixture(scope="module")
def straight(name):
    return fingerprint(itertools.islice(make_loader(name), 12))


def test_workers_do_not_change_the_batches(name, straight):
    assert fingerprint(itertools.islice(make_loader(name, num_workers=2), 12)) == straight


def test_a_loader_starts_at_any_iteration(name, straight):
    for start in (1, 7):
        loader = make_loader(name)
        loader.start_iter = start
        assert fingerprint(itertools.islice(loader, 12 - start)) == straight[start:]


def test_another_seed_gives_another_order_and_other_samples(name, straight):
    other = fingerprint(itertools.islice(make_loader(name, seed=6), 12))
    assert [s[0] for batch in other for s in batch] != [s[0] for batch in straight for s in batch]
    assert not {str(s) for batch in other for s in batch} & {str(s) for batch in straight for s in batch}


def test_epochs_differ_in_order_and_in_augmentation(name):
    batches = itertools.islice(make_loader(name, aspect_ratio_grouping=False, composition=None, total_batch_size=1), 22)
    samples = [entry for batch in fingerprint(batches) for entry in batch]
    first, second = samples[:11], samples[11:]
    assert sorted(s[0] for s in first) == sorted(s[0] for s in second)
    assert [s[0] for s in first] != [s[0] for s in second]
    assert not set(map(str, first)) & set(map(str, second))


def test_global_generators_are_left_alone(name):
    def states():
        return str(np.random.get_state()), random.getstate(), torch.get_rng_state().tolist()

    before = states()
    next(iter(make_loader(name)))
    with pytest.raises(KeyError), sample_rng(1, 2, 3):
        raise KeyError
    assert states() == before


def test_a_sample_seeds_all_three_generators():
    def draw(*key):
        with sample_rng(*key):
            return np.random.rand(), random.random(), torch.rand(1).item()

    base = draw(1, 2, 3)
    assert draw(1, 2, 3) == base
    for other in ((0, 2, 3), (1, 0, 3), (1, 2, 0), (1, 3, 2)):
        assert all(a != b for a, b in zip(draw(*other), base))


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("grouped", [False, True])
def test_ranks_share_every_epoch_without_overlap(world_size, grouped):
    is_wide = np.arange(7) % 3 == 0 if grouped else None
    keys = []
    for rank in range(world_size):
        sampler = StreamSampler(7, 0, 2, is_wide, rank=rank, world_size=world_size)
        keys += itertools.islice(sampler, 7 * 6)
    assert len(set(keys)) == len(keys)
    for epoch in range(4):
        assert {index for _, e, index in keys if e == epoch} == set(range(7))


def test_without_grouping_rank_r_takes_every_wth_key_of_the_stream():
    stream = list(itertools.islice(StreamSampler(5, 3, 1), 20))
    assert [epoch for _, epoch, _ in stream] == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
    for rank in range(3):
        taken = list(itertools.islice(StreamSampler(5, 3, 1, rank=rank, world_size=3), 6))
        assert [key[1:] for key in taken] == [key[1:] for key in stream[rank:18:3]]
        assert [key[0] for key in taken] == list(range(6))


def test_a_group_of_keys_has_one_aspect_ratio():
    is_wide = np.arange(20) % 3 == 0
    keys = list(itertools.islice(StreamSampler(20, 0, 4, is_wide), 400))
    for start in range(0, 400, 4):
        assert len({is_wide[index] for _, _, index in keys[start : start + 4]}) == 1
    started = StreamSampler(20, 0, 4, is_wide, start_iter=30)
    assert list(itertools.islice(started, 280)) == keys[120:]


def test_batches_are_of_wide_images_or_of_others(name):
    shapes = [{s["width"] > s["height"] for s in batch} for batch in itertools.islice(make_loader(name), 12)]
    assert {tuple(shape) for shape in shapes} == {(False,), (True,)}


def test_images_without_boxes_are_left_out_unless_wanted(name):
    assert len(make_loader(name).dataset) == 11
    assert len(make_loader(name, filter_empty=False).dataset) == 12
    records = load_records(name)
    records[0]["annotations"] = [a for a in records[0]["annotations"] if a["iscrowd"]]
    assert len(records[0]["annotations"]) == 1
    assert len(make_loader(records).dataset) == 10


def test_several_data_sets_and_records_of_ones_own(name, images):
    assert len(make_loader([name, register_coco(*images)], filter_empty=False).dataset) == 24
    records = load_records(name)
    records[1]["annotations"] = [{**records[1]["annotations"][0], "bbox": [5, 5, 0, 9]}]
    assert len(make_loader(records).dataset) == 10


class FailingMapper:
    """Reads nothing; fails for the given file names."""

    def __init__(self, bad):
        self.bad = bad

    def __call__(self, record):
        if record["file_name"] in self.bad:
            raise UnreadableImage(record["file_name"], "broken")
        return dict(record, draw=np.random.rand())


def make_failing(bad, size=8, max_unreadable_images=10, composition=None):
    records = [{"file_name": str(i), "width": 1 + i % 2, "height": 1, "annotations": []} for i in range(size)]
    is_wide = np.array([r["width"] > 1 for r in records])
    dataset = TrainDataset(records, FailingMapper(bad), 0, composition, is_wide, max_attempts=max_unreadable_images + 1)
    return TrainLoader(dataset, StreamSampler(size, 0, 2, is_wide), 0, max_unreadable_images)


def test_a_broken_image_is_replaced_by_one_of_its_kind_and_reported_once(caplog):
    good = [s["file_name"] for b in itertools.islice(make_failing(()), 80) for s in b]
    loader = make_failing(("3",))
    with caplog.at_level(logging.WARNING):
        samples = [s for b in itertools.islice(loader, 80) for s in b]
    assert {sample["file_name"] for expected, sample in zip(good, samples) if expected == "3"} == set("157")
    assert all(sample["file_name"] == expected for expected, sample in zip(good, samples) if expected != "3")
    assert caplog.text.count("Unreadable image") == 1
    assert loader.unreadable == {"3": "broken"}


def test_more_broken_images_than_allowed_stop_the_run_with_the_list():
    with pytest.raises(DatasetError, match=r"3 image files could not be read(.|\n)*broken"):
        list(itertools.islice(make_failing("0246", max_unreadable_images=2), 100))
    with pytest.raises(DatasetError, match="2 image files"):  # in different samples
        list(itertools.islice(make_failing("07", max_unreadable_images=1), 100))
    with pytest.raises(DatasetError, match="1 image files"):
        list(itertools.islice(make_failing("6", max_unreadable_images=0), 100))
    list(itertools.islice(make_failing("25", max_unreadable_images=2), 100))


def test_as_many_broken_images_as_allowed_are_all_replaced(name):
    """Also where one sample meets them all before it finds the good one."""
    bad = {r["file_name"] for r in load_records(name)[1:]}
    settings = dict(mapper=FailingMapper(bad), composition=None, filter_empty=False)
    loader = make_loader(name, **settings, max_unreadable_images=11)
    good = {s["file_name"] for b in itertools.islice(loader, 30) for s in b}
    assert good == {load_records(name)[0]["file_name"]}
    with pytest.raises(DatasetError, match="11 image files"):
        list(itertools.islice(make_loader(name, **settings, max_unreadable_images=10), 30))


def test_a_set_of_broken_images_ends_too():
    with pytest.raises(DatasetError, match="image files could not be read"):
        next(iter(make_failing("01234567", max_unreadable_images=100)))


def test_a_broken_mosaic_partner_is_replaced_and_reported():
    def compose(sample, draw, *, strong, size):
        return dict(sample, partners=[draw()["file_name"] for _ in range(3)])

    loader = make_failing(("6",), composition=compose)
    partners = {p for b in itertools.islice(loader, 40) for s in b for p in s["partners"]}
    assert partners == set("0123457")
    assert loader.unreadable == {"6": "broken"}


def test_a_truncated_file_on_disk(tmp_path, toy_coco):
    records = copy.deepcopy(load_records(register_coco(*toy_coco)))
    broken = tmp_path / "broken.png"
    with open(records[3]["file_name"], "rb") as file:
        broken.write_bytes(file.read()[:2000])
    records[3]["file_name"] = str(broken)
    loader = make_loader(records, num_workers=1)
    assert all(len(batch) == 2 for batch in itertools.islice(loader, 12))
    assert list(loader.unreadable) == [str(broken)]


@pytest.mark.parametrize("seed", [-1, None])
def test_a_seed_is_needed(name, seed):
    with pytest.raises(ValueError, match=r"seed is .*integer >= 0"):
        make_loader(name, seed=seed)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_makes_its_share_of_every_batch(name, monkeypatch, rank):
    settings = dict(composition=None, aspect_ratio_grouping=False, total_batch_size=4)
    whole = [sample for batch in fingerprint(itertools.islice(make_loader(name, **settings), 5)) for sample in batch]
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda: rank)
    own = fingerprint(itertools.islice(make_loader(name, **settings), 5))
    assert [len(batch) for batch in own] == [2] * 5
    assert [sample for batch in own for sample in batch] == whole[rank::2]


def test_batch_size_must_fit_the_processes(name, monkeypatch):
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 3)
    for size in (2, 0):
        with pytest.raises(ValueError, match=f"total_batch_size is {size}.*number of processes, 3"):
            make_loader(name, total_batch_size=size)


def test_nothing_to_train_on():
    with pytest.raises(DatasetError, match="no image is left"):
        make_loader([{"file_name": "a", "annotations": []}])


def test_test_loader_gives_every_image_once_in_order(name):
    loader = build_test_loader(dataset=name, mapper=DenseMapper(False, augmentations=[]), num_workers=0)
    batches = list(loader)
    assert all(len(batch) == 1 for batch in batches)
    assert [batch[0]["image_id"] for batch in batches] == list(range(5, 125, 10))
