"""One training step, and the hooks: EMA, SWA, shared statistics, switches."""

from types import SimpleNamespace

from dense_d2.engine import EMA, SWA, StepTrainer, SwitchOn
from dense_d2.engine.hooks import SharedStatistics, evaluation_weights
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
