"""One training step, parameter groups, the schedule, EMA and the environment of a launch."""

import math
import sys
from types import SimpleNamespace

from dense_d2.engine import (
    EMA,
    SWA,
    CosineCycles,
    StepTrainer,
    SwitchOn,
    WarmupCosine,
    WarmupMultiStep,
    launch,
    param_groups,
)
from dense_d2.engine.hooks import SharedStatistics, evaluation_weights
from dense_d2.engine.launch import _first_host, _slurm_environment
from dense_d2.engine.step import amp_dtype
from dense_d2.errors import UserError

import pytest
import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import EventStorage
from torch import nn


class MeanSquare(nn.Module):
    """Loss: mean over the batch of (w * x)^2."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([2.0]))
        self.dtypes = []

    def forward(self, batch):
        x = torch.tensor([float(item) for item in batch])
        self.dtypes.append((x[:, None] @ self.w[None]).dtype)
        return {"loss_square": ((self.w * x) ** 2).mean()}


def one_step(batch, **options):
    model = MeanSquare()
    trainer = StepTrainer(model, [batch], torch.optim.SGD(model.parameters(), lr=0.1), **options)
    with EventStorage() as storage:
        trainer.run_step()
    return model, storage.latest()


def test_a_step_descends_the_mean_loss():
    model, logged = one_step([1, 2, 3])
    # loss 4 * 14 / 3, gradient 2 * 2 * 14 / 3
    assert logged["total_loss"][0] == pytest.approx(56 / 3)
    assert model.w.item() == pytest.approx(2 - 0.1 * 56 / 3, abs=1e-6)


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_accumulation_equals_the_whole_batch(parts):
    whole, _ = one_step([1, 2, 3, 4, 5])
    split, logged = one_step([1, 2, 3, 4, 5], accumulate=parts)
    assert len(split.dtypes) == parts
    assert split.w.item() == pytest.approx(whole.w.item(), rel=1e-6)
    assert logged["total_loss"][0] == pytest.approx(4 * 55 / 5)
    with pytest.raises(UserError, match="accumulate=0"):
        one_step([1], accumulate=0)


def test_clipping_bounds_the_gradient_and_logs_its_norm():
    model, logged = one_step([1, 2, 3], clip_grad_norm=0.5)
    assert model.w.item() == pytest.approx(2 - 0.1 * 0.5, rel=1e-5)
    assert logged["grad_norm"][0] == pytest.approx(56 / 3, rel=1e-6)


def test_amp_computes_in_its_dtype_and_keeps_float32_weights():
    model, _ = one_step([1, 2], amp=torch.bfloat16)
    assert model.dtypes == [torch.bfloat16] and model.w.dtype == torch.float32
    assert amp_dtype("auto", "cpu") is torch.bfloat16
    with pytest.raises(ValueError, match="bfloat16"):
        amp_dtype("fp8", "cpu")


def test_float16_scales_the_loss_and_clips_what_is_scaled_back():
    model = MeanSquare()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = StepTrainer(model, [[1, 2, 3]], optimizer, amp=torch.float16, clip_grad_norm=0.5)
    with EventStorage() as storage:
        trainer.run_step()
    assert storage.latest()["grad_norm"][0] == pytest.approx(56 / 3, rel=1e-3)
    assert model.w.item() == pytest.approx(2 - 0.1 * 0.5, rel=1e-5)
    scaler = trainer.state_dict()["grad_scaler"]
    assert (scaler["scale"], scaler["_growth_tracker"]) == (65536, 1)
    again = StepTrainer(MeanSquare(), [], optimizer, amp=torch.float16)
    again.load_state_dict({"grad_scaler": {**scaler, "scale": 8.0}, **SimpleTrainer.state_dict(trainer)})
    assert again.grad_scaler.get_scale() == 8
    assert not StepTrainer(MeanSquare(), [], optimizer, amp=torch.bfloat16).grad_scaler.is_enabled()


def test_a_loss_that_is_not_finite_stops_before_the_weights_change():
    model = MeanSquare()
    trainer = StepTrainer(model, [[float("inf")]], torch.optim.SGD(model.parameters(), lr=0.1))
    with EventStorage(), pytest.raises(FloatingPointError):
        trainer.run_step()
    assert model.w.item() == 2


def test_step_state_holds_optimizer_and_scaler():
    model = MeanSquare()
    trainer = StepTrainer(model, [[1]], torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    with EventStorage():
        trainer.run_step()
    state = trainer.state_dict()
    assert state["optimizer"]["state"][0]["momentum_buffer"].item() == 4.0
    assert "grad_scaler" in state


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.Sequential(nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))
        self.backbone[0].bias.requires_grad_(False)


def groups_of(model, **options):
    groups = param_groups(model, lr=0.12, weight_decay=1e-4, **options)
    return {(round(g["lr"], 6), g["weight_decay"]): sum(p.numel() for p in g["params"]) for g in groups}


def test_groups_follow_the_rules_and_skip_what_is_frozen():
    assert groups_of(Net()) == {(0.12, 1e-4): 12 + 8 + 8 + 2 + 4}
    found = groups_of(Net(), weight_decay_norm=0.0, lr_factors={"backbone": 0.334})
    assert found == {(0.04008, 1e-4): 12, (0.04008, 0.0): 8, (0.12, 1e-4): 10, (0.12, 0.0): 4}
    assert groups_of(Net(), weight_decay_bias=0.5)[(0.12, 0.5)] == 2
    with pytest.raises(ValueError, match="bakcbone"):
        groups_of(Net(), lr_factors={"bakcbone": 0.1})


def test_rules_for_biases_norms_and_nested_prefixes():
    model = nn.ModuleDict(
        {
            "a": nn.ModuleDict({"b": nn.Conv2d(1, 2, 1), "conv_offset": nn.Conv2d(1, 3, 1)}),
            "a_tied": nn.Conv2d(1, 2, 1),
            "norms": nn.ModuleList([nn.GroupNorm(1, 7), nn.LayerNorm(11), nn.InstanceNorm2d(13, affine=True)]),
        }
    )
    model["a_tied"].weight = model["a"]["b"].weight  # counted where it comes first
    found = groups_of(
        model,
        weight_decay_norm=0.0,
        weight_decay_bias=0.5,
        bias_lr_factor=2.0,
        lr_factors={"a": 0.5, "a.b": 0.25},
    )
    assert found == {
        (0.03, 1e-4): 2,  # a.b
        (0.06, 0.5): 2,
        (0.06, 1e-4): 6,  # a.conv_offset, its bias too
        (0.24, 0.5): 2,  # the bias of `a_tied`
        (0.12, 0.0): 2 * (7 + 11 + 13),
    }


def test_schedule_in_iterations():
    schedule = WarmupMultiStep(max_iter=100, milestones=[90, 60], gamma=0.1, warmup_iters=10, warmup_factor=0.2)
    at = {i: schedule(i / 100) for i in (0, 5, 10, 59, 60, 89, 90, 99)}
    assert at == pytest.approx({0: 0.2, 5: 0.6, 10: 1, 59: 1, 60: 0.1, 89: 0.1, 90: 0.01, 99: 0.01})
    short = WarmupMultiStep(max_iter=4, milestones=[60, 90], warmup_iters=10, warmup_factor=0.0)
    assert [short(i / 4) for i in range(4)] == pytest.approx([0, 0.1, 0.2, 0.3])  # a trial sees the same start
    assert WarmupMultiStep(max_iter=100, milestones=[29])(29 / 100) == 0.1  # 29 / 100 * 100 is below 29
    assert WarmupCosine(max_iter=100, warmup_iters=50, warmup_power=1)(29 / 100) == pytest.approx(0.58)


class OneHookTrainer:
    def __init__(self, model):
        self.model = model


def attach(hook, model):
    hook.trainer = OneHookTrainer(model)
    hook.before_train()


def test_ema_follows_its_formula_and_leaves_the_raw_weights_alone():
    model = nn.BatchNorm1d(1)
    hook = EMA(decay=0.9, warmup=0)
    attach(hook, model)
    with torch.no_grad():
        model.weight.fill_(3.0)
        model.running_mean.fill_(2.0)
        model.num_batches_tracked.fill_(5)
    hook.after_step()
    assert hook.weights["weight"].item() == pytest.approx(0.9 * 1 + 0.1 * 3)
    assert hook.weights["running_mean"].item() == pytest.approx(0.2)
    assert hook.weights["num_batches_tracked"].item() == 5
    seen = {}
    for suffix, weights in evaluation_weights(model, [hook]):
        with weights:
            seen[suffix] = model.weight.item()
    assert seen == pytest.approx({"": 3.0, "_ema": 1.2})
    assert model.weight.item() == 3.0


def test_ema_sees_through_the_wrapper_of_several_processes():
    model = nn.BatchNorm1d(1)
    hook = EMA(decay=0.9, warmup=0)
    attach(hook, SimpleNamespace(module=model))
    assert hook.weights.keys() == model.state_dict().keys()
    with pytest.raises(ValueError, match="EMA decay is 1"):
        EMA(decay=1)


def test_ema_restores_the_raw_weights_when_evaluation_fails():
    model = nn.BatchNorm1d(1)
    hook = EMA(decay=0.5, warmup=0)
    attach(hook, model)
    with torch.no_grad():
        model.weight.fill_(3.0)
    with pytest.raises(KeyError), hook.applied_to(model):
        assert model.weight.item() == 1.0
        raise KeyError
    assert model.weight.item() == 3.0


def test_ema_warmup_starts_at_the_weights_themselves():
    model = nn.BatchNorm1d(1)
    hook = EMA(decay=0.9998, warmup=2000)
    attach(hook, model)
    with torch.no_grad():
        model.weight.fill_(3.0)
    hook.after_step()
    decay = 0.9998 * (1 - 2.718281828459045 ** (-1 / 2000))
    assert hook.weights["weight"].item() == pytest.approx(decay + (1 - decay) * 3)
    again = EMA(decay=0.9998, warmup=2000)
    again.load_state_dict(hook.state_dict())
    assert again.updates == 1 and torch.equal(again.weights["weight"], hook.weights["weight"])


def test_swa_is_the_mean_of_the_ends_of_cycles():
    model = nn.BatchNorm1d(1)
    hook = SWA(cycle_iters=2)
    attach(hook, model)
    assert hook.state_dict() == {}  # of the first cycle nothing is known yet
    assert [suffix for suffix, _ in evaluation_weights(model, [hook])] == [""]
    for iteration in range(7):
        with torch.no_grad():
            model.weight.fill_(iteration)
        hook.trainer.iter = iteration
        if iteration == 5:  # a resumed run goes on with the same average
            again = SWA(cycle_iters=2)
            again.load_state_dict(hook.state_dict())
            again.trainer, hook = hook.trainer, again
            hook.before_train()
        hook.after_step()
    assert hook.updates == 3
    assert hook.weights["weight"].item() == pytest.approx((1 + 3 + 5) / 3)


def test_cosine_cycles_start_anew():
    schedule = CosineCycles(max_iter=20, cycle_iters=10, end_factor=0.01)
    at = [schedule(i / 20) for i in (0, 5, 9, 10, 15)]
    assert at == pytest.approx([1, 0.505, 0.01 + 0.99 * (1 - 0.9510565) / 2, 1, 0.505])


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


def test_schedule_of_yolox():
    """Section 2.1 and the released code: 300 epochs of 1849 iterations, learning rate 0.01."""
    schedule = WarmupCosine(max_iter=554_700, warmup_iters=9245, flat_iters=27_735, end_factor=0.05)
    rates = {i: 0.01 * schedule(i / 554_700) for i in (0, 1849, 9245, 268_105, 526_964, 526_965, 554_699)}
    expected = [0, 4.0e-4, 0.01, 5.25e-3, 5e-4, 5e-4, 5e-4]
    assert list(rates.values()) == pytest.approx(expected, rel=1e-6)


def test_schedule_of_asff_changes_once_an_epoch():
    """Power 4 over 5 epochs, flat until epoch 20, a cosine of 250 steps, flat; with 10 iterations an epoch."""
    settings = dict(warmup_iters=50, warmup_power=4, cosine_from=200, flat_iters=310, end_factor=0.01, step_iters=10)
    schedule = WarmupCosine(max_iter=3010, **settings)
    at = [schedule(i / 3010) for i in (25, 50, 199, 209, 210, 219, 1450, 2700, 3009)]
    first = 0.01 + 0.99 * (1 + math.cos(math.pi / 250)) / 2
    assert at == pytest.approx([0.0625, 1, 1, 1, first, first, 0.505, 0.01, 0.01])


def test_a_schedule_without_room_is_an_error():
    with pytest.raises(UserError, match="warmup_iters"):
        WarmupCosine(max_iter=100, warmup_iters=60, flat_iters=40)


def test_switch_on_depends_on_the_iteration_alone():
    hook, model = SwitchOn("use_l1", last_iters=3), SimpleNamespace(use_l1=False)
    seen = []
    for iteration in (0, 6, 7, 9, 2):  # the last: a run that was resumed earlier
        hook.trainer = SimpleNamespace(model=model, iter=iteration, max_iter=10)
        hook.before_train()
        hook.before_step()
        seen.append(model.use_l1)
    assert seen == [False, False, True, True, False]
    hook.attribute = "use_l2"
    with pytest.raises(UserError, match="use_l2"):
        hook.before_train()


def test_learning_rate_follows_the_batch_size():
    groups = param_groups(MeanSquare(), lr=0.01, weight_decay=0.0, batch_size=16, lr_batch_size=64)
    assert [group["lr"] for group in groups] == [0.0025]


def share_statistics(monkeypatch, iteration, *periods):
    """A network and its average after the hook, where the other of two processes has zeros everywhere."""
    monkeypatch.setattr("dense_d2.engine.hooks.comm.get_world_size", lambda: 2)
    monkeypatch.setattr("dense_d2.engine.hooks.mean_over_ranks", lambda value: value / 2)
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.BatchNorm2d(1, track_running_stats=False))
    for value in model.state_dict().values():
        value.fill_(8)
    average, hook = EMA(), SharedStatistics(*periods)
    hook.trainer = average.trainer = SimpleNamespace(
        model=model, iter=iteration, max_iter=10, _hooks=[average, SWA(2), hook]
    )
    average.before_train()
    hook.after_step()
    return {name: (value.item(), average.weights[name].item()) for name, value in model.state_dict().items()}


def test_before_an_evaluation_processes_share_their_statistics_and_nothing_else(monkeypatch):
    for iteration, periods in ((3, (0, 4)), (5, (6, 0)), (9, (4, 0))):  # evaluation, checkpoint, end
        found = share_statistics(monkeypatch, iteration, *periods)
        shared = {"1.running_mean", "1.running_var"}
        assert found == {name: (4, 4) if name in shared else (8, 8) for name in found} and shared < set(found)
    assert set(share_statistics(monkeypatch, 4, 4, 3).values()) == {(8, 8)}
