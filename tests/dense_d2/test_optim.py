"""Parameter groups and learning-rate schedules."""

import math

from dense_d2.engine import CosineCycles, WarmupCosine, WarmupMultiStep, param_groups
from dense_d2.errors import UserError

import pytest
from torch import nn


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


def test_learning_rate_follows_the_batch_size():
    groups = param_groups(Net(), lr=0.01, weight_decay=0.0, batch_size=16, lr_batch_size=64)
    assert [group["lr"] for group in groups] == [0.0025]


def test_schedule_in_iterations():
    schedule = WarmupMultiStep(max_iter=100, milestones=[90, 60], gamma=0.1, warmup_iters=10, warmup_factor=0.2)
    at = {i: schedule(i / 100) for i in (0, 5, 10, 59, 60, 89, 90, 99)}
    assert at == pytest.approx({0: 0.2, 5: 0.6, 10: 1, 59: 1, 60: 0.1, 89: 0.1, 90: 0.01, 99: 0.01})
    short = WarmupMultiStep(max_iter=4, milestones=[60, 90], warmup_iters=10, warmup_factor=0.0)
    assert [short(i / 4) for i in range(4)] == pytest.approx([0, 0.1, 0.2, 0.3])  # a trial sees the same start
    assert WarmupMultiStep(max_iter=100, milestones=[29])(29 / 100) == 0.1  # 29 / 100 * 100 is below 29
    assert WarmupCosine(max_iter=100, warmup_iters=50, warmup_power=1)(29 / 100) == pytest.approx(0.58)


def test_cosine_cycles_start_anew():
    schedule = CosineCycles(max_iter=20, cycle_iters=10, end_factor=0.01)
    at = [schedule(i / 20) for i in (0, 5, 9, 10, 15)]
    assert at == pytest.approx([1, 0.505, 0.01 + 0.99 * (1 - 0.9510565) / 2, 1, 0.505])


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
    with pytest.raises(UserError, match="Lower lr_multiplier.warmup_iters, flat_iters, or"):
        WarmupCosine(max_iter=100, warmup_iters=60, flat_iters=40)
    with pytest.raises(UserError, match="Lower lr_multiplier.warmup_iters, cosine_from, flat_iters, or"):
        WarmupCosine(max_iter=100, warmup_iters=10, cosine_from=200)
    with pytest.raises(ValueError, match="step_iters is 0"):
        WarmupCosine(max_iter=100, step_iters=0)
    with pytest.raises(ValueError, match="cycle_iters is 0"):
        CosineCycles(max_iter=100, cycle_iters=0)
