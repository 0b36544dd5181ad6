"""How processes are started, and what each of them is told."""

import sys
from types import SimpleNamespace

from dense_d2.engine import launch
from dense_d2.engine.launch import _first_host, _slurm_environment
from dense_d2.errors import UserError

import pytest


def test_slurm_step_becomes_torchruns_variables():
    slurm = {
        "SLURM_PROCID": "9",
        "SLURM_NTASKS": "16",
        "SLURM_LOCALID": "1",
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NODELIST": "gpu[07-08]",
        "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
        "SLURM_JOB_ID": "123456",
    }
    assert _slurm_environment(slurm) == {
        "RANK": "9",
        "WORLD_SIZE": "16",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "8",
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": "23456",
    }
    with_address = _slurm_environment({**slurm, "MASTER_ADDR": "head", "MASTER_PORT": "1"})
    assert (with_address["MASTER_ADDR"], with_address["MASTER_PORT"]) == ("head", "1")
    assert _slurm_environment({key: value for key, value in slurm.items() if key != "SLURM_STEP_ID"}) is None
    assert _slurm_environment({}) is None
    assert _slurm_environment({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}) is None
    assert [_first_host(text) for text in ("a1,b2", "n[3,5-9]", "solo")] == ["a1", "n3", "solo"]


def test_one_process_needs_no_launcher(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)

    class Arguments:
        num_gpus, num_machines = 1, 1

    assert launch(lambda args: args.num_gpus + 41, Arguments()) == 42


def test_every_process_knows_its_place(monkeypatch):
    """Two machines with three processes each: rank and size of the job, rank and size on the machine."""
    module, runs = sys.modules[launch.__module__], []
    monkeypatch.setattr(module, "_run", lambda main, args, on_gpu, url, *place: runs.append((url, *place)))
    monkeypatch.setattr(module.mp, "spawn", lambda run, nprocs, args, join: [run(i, *args) for i in range(nprocs)])
    monkeypatch.delenv("RANK", raising=False)
    url = "tcp://10.0.0.1:29500"
    arguments = SimpleNamespace(num_gpus=3, num_machines=2, machine_rank=1, dist_url=url)
    launch(None, arguments, on_gpu=False)
    assert runs == [(url, 3, 6, 0, 3), (url, 4, 6, 1, 3), (url, 5, 6, 2, 3)]
    arguments.dist_url = "auto"
    with pytest.raises(UserError, match="--dist-url tcp://<address of machine 0>"):
        launch(None, arguments, on_gpu=False)
    for name, value in (("RANK", 5), ("WORLD_SIZE", 6), ("LOCAL_RANK", 2), ("LOCAL_WORLD_SIZE", 3)):  # torchrun's
        monkeypatch.setenv(name, str(value))
    launch(None, arguments, on_gpu=False)
    assert runs[3:] == [("env://", 5, 6, 2, 3)]
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launch(lambda args: 42, arguments, on_gpu=False) == 42
