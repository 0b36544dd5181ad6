"""Starting processes: Detectron2's own flags, torchrun, SLURM; on GPUs with NCCL and on CPUs with Gloo."""

import datetime
import logging
import os
import re
import socket
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from .. import compat
from ..errors import UserError

__all__ = ["launch"]

_TIMEOUT = datetime.timedelta(minutes=30)


def launch(main, args, on_gpu=None):
    """Runs `main(args)` in every process of the job.

    The job is, in this order: what torchrun says (RANK, WORLD_SIZE, LOCAL_RANK), what SLURM says (a step of more than one
    task), or `args.num_gpus` processes on each of `args.num_machines`, started here. Without a GPU, `num_gpus` counts CPU
    processes.

    Args:
        main: callable that a new process can import.
        args: with num_gpus, num_machines, machine_rank and dist_url, as Detectron2's parser gives them.
        on_gpu: whether the processes compute on GPUs, one each; None: if there are any.
    """
    on_gpu = torch.cuda.is_available() if on_gpu is None else on_gpu
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return _run_as_member(main, args, on_gpu, os.environ)
    slurm = _slurm_environment(os.environ)
    if slurm is not None:
        os.environ.update(slurm)
        return _run_as_member(main, args, on_gpu, os.environ)
    world_size = args.num_gpus * args.num_machines
    if world_size <= 1:
        return main(args)
    if on_gpu and args.num_gpus > torch.cuda.device_count():
        raise UserError(f"--num-gpus {args.num_gpus}, but this machine has {torch.cuda.device_count()}.")
    if args.num_machines > 1 and ("127.0.0.1" in args.dist_url or args.dist_url == "auto"):
        raise UserError(
            "--num-machines above 1 needs --dist-url tcp://<address of machine 0>:<free port> on all of them."
        )
    url = f"tcp://127.0.0.1:{_free_port()}" if args.dist_url == "auto" else args.dist_url
    try:
        mp.spawn(_spawned, nprocs=args.num_gpus, args=(main, args, on_gpu, url, world_size), join=True)
    except mp.ProcessExitedException as error:  # it has said why
        sys.exit(error.exit_code)


def _spawned(local_rank, main, args, on_gpu, url, world_size):
    rank = args.machine_rank * args.num_gpus + local_rank
    _run(main, args, on_gpu, url, rank, world_size, local_rank, args.num_gpus)


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _run_as_member(main, args, on_gpu, environment):
    world_size = int(environment["WORLD_SIZE"])
    if world_size == 1:
        return main(args)
    local_rank = int(environment.get("LOCAL_RANK", 0))
    local_size = int(environment.get("LOCAL_WORLD_SIZE", 1))
    _run(main, args, on_gpu, "env://", int(environment["RANK"]), world_size, local_rank, local_size)


def _run(main, args, on_gpu, url, rank, world_size, local_rank, local_size):
    if on_gpu:
        torch.cuda.set_device(local_rank % torch.cuda.device_count())  # SLURM may show each task its own GPU only
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // local_size))
    try:
        dist.init_process_group(
            "nccl" if on_gpu else "gloo", init_method=url, rank=rank, world_size=world_size, timeout=_TIMEOUT
        )
    except Exception as error:
        raise RuntimeError(f"Process {rank} of {world_size} cannot join the job at {url}: {error}") from error
    try:
        compat.create_local_process_group(local_size)
        dist.barrier()
        main(args)
    finally:
        dist.destroy_process_group()


def _slurm_environment(environment):
    """torchrun's variables from SLURM's, or None outside a SLURM step of several tasks."""
    if "SLURM_PROCID" not in environment or int(environment.get("SLURM_NTASKS", 1)) <= 1:
        return None
    if "SLURM_STEP_ID" not in environment:  # sbatch without srun: one process
        return None
    first_node = _first_host(environment.get("SLURM_STEP_NODELIST") or environment["SLURM_JOB_NODELIST"])
    tasks_per_node = environment.get("SLURM_NTASKS_PER_NODE") or environment["SLURM_STEP_TASKS_PER_NODE"]
    derived = {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": environment["SLURM_NTASKS"],
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": re.match(r"\d+", tasks_per_node).group(),
        "MASTER_ADDR": environment.get("MASTER_ADDR", first_node),
        "MASTER_PORT": environment.get("MASTER_PORT", str(20000 + int(environment["SLURM_JOB_ID"]) % 20000)),
    }
    logging.getLogger(__name__).info("SLURM step: %s", derived)
    return derived


def _first_host(node_list):
    """'node[03-07,11],other1' -> 'node03'."""
    match = re.match(r"([^,\[]+)(?:\[(\d+))?", node_list)
    return match.group(1) + (match.group(2) or "")
