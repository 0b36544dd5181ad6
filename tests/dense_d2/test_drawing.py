"""Where labels go, and colours. Boxes on pictures: test_visualize."""

from dense_d2 import drawing

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes


def test_labels_stay_inside_and_apart():
    taken = []
    for box in ([0, 0, 50, 50], [0, 0, 52, 52], [590, 600, 640, 640], [300, 300, 330, 320]):
        place = drawing._place_label(box, (0, 0, 100, 12), (640, 640), taken)
        assert place[0] >= 0 and place[1] >= 0 and place[2] <= 640 and place[3] <= 640
        assert not any(drawing._overlap(place, other) for other in taken)
        taken.append(place)
    everywhere = [(0, 0, 640, 640)]
    assert drawing._place_label([10, 10, 90, 90], (0, 0, 100, 12), (640, 640), everywhere) is None


def test_many_classes_have_many_colours():
    assert len({drawing.colour_of(k) for k in range(80)}) > 75


@pytest.mark.parametrize(
    "sides", [(5.0, 5.0, 9.0, 9.0), (-9.0, 1.0, -5.0, 2.0), (-np.inf, 1.0, np.nan, 2.0), (np.inf, 1.0, np.inf, 2.0)]
)
def test_boxes_outside_or_not_a_number_leave_no_trace(sides):
    """A network that diverges makes them; PIL takes a NaN for a line of billions of pixels."""
    panel = drawing.draw_boxes(np.zeros((4, 4, 3), np.uint8), Boxes(torch.tensor([sides])), torch.tensor([0]), ["a"], 4)
    assert not np.asarray(panel).any()
