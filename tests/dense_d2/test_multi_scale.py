from dense_d2.data.multi_scale import MultiScale
from dense_d2.errors import UserError

import pytest
from omegaconf import OmegaConf

SIZES = [320, 352, 384, 416]


def test_a_size_lasts_ten_iterations_and_is_the_same_for_all_who_ask():
    first, second = MultiScale(SIZES), MultiScale(SIZES)
    sizes = [first.size_at(i, 7) for i in range(4000)]
    assert sizes[::-1] == [second.size_at(i, 7) for i in reversed(range(4000))]
    blocks = [sizes[i : i + 10] for i in range(0, 4000, 10)]
    assert all(len(set(block)) == 1 for block in blocks)
    counts = [sum(block[0] == (size, size) for block in blocks) for size in SIZES]
    assert all(70 < count < 130 for count in counts)
    assert sizes != [first.size_at(i, 8) for i in range(4000)]


def test_the_first_period_and_the_fixed_end():
    scale = MultiScale([320], period=5, first=608, max_iter=30, fixed_iters=12)
    assert [scale.size_at(i, 0) for i in range(30)] == [(608, 608)] * 5 + [(320, 320)] * 13 + [(608, 608)] * 12


def test_a_rectangle_keeps_its_shape():
    scale = MultiScale([96, 320, 448], period=1, first=OmegaConf.create([320, 416]))
    assert [scale.size_at(i, 0) for i in (0, 0)] == [(320, 416)] * 2
    assert {scale.size_at(i, 0) for i in range(1, 40)} == {(96, 128), (320, 416), (448, 576)}  # 124.8, 416, 582.4
    tall = MultiScale([320], period=1, first=(416, 320))
    assert tall.size_at(1, 0) == (320, 256)  # 246.2
    assert MultiScale([320], period=1, first=(640, 32)).size_at(1, 0) == (320, 32)  # 16


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match="sizes is empty"):
        MultiScale([])
    with pytest.raises(ValueError, match="fixed_iters is 3"):
        MultiScale(SIZES, first=320, fixed_iters=3)
    with pytest.raises(ValueError, match="period is 0"):
        MultiScale(SIZES, 0)
    with pytest.raises(UserError, match=r"sides of \[300, 400\] pixels, but multiples of 32"):
        MultiScale([320, 300], first=(320, 400))
    with pytest.raises(UserError, match=r"sides of \[0\] pixels"):
        MultiScale([0, 32])
