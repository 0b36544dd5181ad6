from dense_d2.data.random_crop import ReplaceEmpty

import pytest


def sample(num_boxes, name):
    return {"instances": range(num_boxes), "name": name}


@pytest.mark.parametrize(
    "first, others, expected", [(2, [1], "own"), (0, [0, 0, 3, 1], "third"), (0, [0, 0, 0, 0, 0], "fourth")]
)
def test_takes_others_until_one_has_a_box(first, others, expected):
    names = iter(zip(others, ("first", "second", "third", "fourth", "fifth")))
    replace = ReplaceEmpty(max_draws=4)
    chosen = replace(sample(first, "own"), lambda: sample(*next(names)), strong=True, size=None)
    assert chosen["name"] == expected
