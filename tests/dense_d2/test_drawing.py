"""Where labels go, and colours. Boxes on pictures: test_visualize."""

from dense_d2 import drawing


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
