"""Reading files of weights: nothing in them runs, and torn ones are named."""

import os
import pickle

from dense_d2.checkpoint_file import CheckpointError, read_checkpoint

import numpy as np
import pytest
import torch
from torch import nn


class Canary:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("nested", [False, True])
def test_nothing_in_a_pth_runs(tmp_path, nested):
    canary = tmp_path / "ran"
    state = nn.Conv2d(3, 4, 1).state_dict()
    content = {"model": state, "optimizer": {"state": Canary(canary)}} if nested else Canary(canary)
    torch.save(content, path := str(tmp_path / "x.pth"))
    with pytest.raises(CheckpointError, match="nothing in them can run code"):
        read_checkpoint(path)
    assert not canary.exists()


def test_nothing_in_a_pkl_runs(tmp_path):
    canary = tmp_path / "ran"
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"conv1_w": np.zeros(3), "evil": Canary(canary)}))
    with pytest.raises(CheckpointError, match="which is no array"):
        read_checkpoint(str(path))
    assert not canary.exists()


def test_caffe2_pickle_gives_its_arrays(tmp_path):
    path = tmp_path / "x.pkl"
    blobs = {"conv1_w": np.arange(3, dtype=np.float32), "conv1_w_momentum": np.zeros(3), "weight_order": "BGR"}
    path.write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    data = read_checkpoint(str(path))
    assert data["format"] == "caffe2" and list(data["model"]) == ["conv1_w"]
    assert data["model"]["conv1_w"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 torn"])
@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
def test_torn_files_are_named(tmp_path, content, suffix):
    path = tmp_path / f"torn{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="torn"):
        read_checkpoint(str(path))
