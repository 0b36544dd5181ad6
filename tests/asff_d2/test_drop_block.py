import types

from asff_d2.drop_block import DropBlock, DropBlockSchedule

import pytest
import torch
from torch import nn


def test_rate_is_that_of_the_first_map_until_the_next_reset():
    block = DropBlock(keep_prob=0.9)
    block.reset(3)
    block(torch.ones(1, 1, 19, 19))
    assert block.rate() == pytest.approx(0.1 * 19**2 / (9 * 17**2))
    block(torch.ones(1, 1, 10, 10))
    assert block.width == 19
    block.reset(5)
    block(torch.ones(1, 1, 10, 10))
    assert block.rate() == pytest.approx(0.1 * 10**2 / (25 * 6**2))
    block.reset(7, width=6)  # a square larger than the map
    assert block.rate() == pytest.approx(0.1 * 6**2 / 7**2)


def test_squares_are_dropped_and_the_rest_scaled():
    torch.manual_seed(0)
    block = DropBlock()
    x = torch.rand(4, 16, 20, 20) + 1
    block.reset(3)
    y = block(x)
    kept = y != 0
    assert 0.8 < kept.float().mean() < 0.95
    torch.testing.assert_close(y[kept], (x / kept.float().mean())[kept])
    # every dropped cell lies in a square of dropped cells, or in one that the border cuts
    dropped = nn.functional.pad((~kept).float(), [2] * 4, value=1.0)
    centers = -nn.functional.max_pool2d(-dropped, 3, stride=1)
    assert torch.equal(nn.functional.max_pool2d(centers, 3, stride=1) > 0, ~kept)
    assert (kept.float().mean(dim=(0, 2, 3)).unique().numel()) > 1  # channels are drawn by themselves


def test_the_share_of_a_large_map_is_counted_beyond_the_range_of_float16():
    block = DropBlock()
    block.reset(3)
    y = block(torch.ones(1, 8, 128, 128, dtype=torch.float16))
    assert y.max().item() == pytest.approx(8 * 128**2 / (y > 0).sum().item(), rel=1e-3)


def test_off_in_evaluation_and_without_a_size():
    block, x = DropBlock(), torch.rand(1, 2, 8, 8)
    assert block(x) is x
    block.reset(3)
    assert block.eval()(x) is x
    with pytest.raises(ValueError, match="odd"):
        block.reset(4)


def run(hook, model, iterations):
    hook.trainer = types.SimpleNamespace(model=model, iter=0)
    hook.before_train()
    sizes = []
    for hook.trainer.iter in iterations:
        hook.before_step()
        sizes.append([block.block_size for block in model])
        model(torch.rand(1, 2, 12 + hook.trainer.iter, 12 + hook.trainer.iter))
    return sizes


def new_pair():
    return DropBlockSchedule(starts=[2, 4], block_sizes=[[1, 3], [3, 5]]), nn.Sequential(DropBlock(), DropBlock())


def test_schedule_and_resuming():
    hook, model = new_pair()
    assert run(hook, model, range(6)) == [[None, None]] * 2 + [[1, 3]] * 2 + [[3, 5]] * 2
    assert [block.width for block in model] == [16, 16]
    # stopped after iteration 2 and resumed: the rate stays that of the map of iteration 2
    hook, model = new_pair()
    run(hook, model, range(3))
    resumed, model = new_pair()
    resumed.load_state_dict(hook.state_dict())
    assert run(resumed, model, [3]) == [[1, 3]]
    assert [block.width for block in model] == [14, 14]
    assert run(resumed, model, [4]) == [[3, 5]] and model[0].width == 16


def test_a_resumed_run_draws_alike(monkeypatch):
    def draws(iterations, parts=1):
        model = nn.Sequential(DropBlock(keep_prob=0.5), DropBlock(keep_prob=0.5))
        hook = DropBlockSchedule(starts=[0], block_sizes=[[1, 1]], seed=4)
        hook.trainer = types.SimpleNamespace(model=model, iter=0)
        hook.before_train()
        found = []
        for hook.trainer.iter in iterations:
            hook.before_step()
            found += [
                tuple((block(torch.ones(1, 1, 8, 8)) > 0).flatten().tolist()) for block in model for _ in range(parts)
            ]
        return found

    assert draws([0, 1, 2])[2 * 2 :] == draws([2])
    first = draws([0, 1, 2], parts=2)
    assert len(set(first)) == 3 * 2 * 2  # each iteration, module and part for itself
    monkeypatch.setattr("asff_d2.drop_block.comm.get_rank", lambda: 1)
    assert not set(first) & set(draws([0, 1, 2], parts=2))  # and each process


def test_schedule_errors():
    with pytest.raises(ValueError, match="ascending"):
        DropBlockSchedule(starts=[5, 1], block_sizes=[[1], [3]])
    with pytest.raises(ValueError, match="the model has 2"):
        run(DropBlockSchedule(starts=[1], block_sizes=[[3]]), nn.Sequential(DropBlock(), DropBlock()), [0])
