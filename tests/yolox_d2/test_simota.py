from tests.yolox_d2.reference_simota import reference_simota
from tests.yolox_d2.scenes import plain_scene, positives, random_scene
from yolox_d2.simota import SimOTA

import pytest
import torch

GEOMETRIES = {"center": 1.5, "union": 2.5}


def check_against_plain_loops(scene, geometry, radius=None):
    setting = dict(geometry=geometry, radius=radius or GEOMETRIES[geometry])
    ours, (matched_idxs, ious) = SimOTA(**setting)(*scene), reference_simota(*scene, **setting)
    assert torch.equal(ours.matched_idxs, matched_idxs)
    torch.testing.assert_close(ours.ious, ious)
    for chunk in (1, 1000):
        chunked = SimOTA(**setting, chunk=chunk)(*scene)
        assert torch.equal(chunked.matched_idxs, matched_idxs) and torch.equal(chunked.ious, ours.ious)
    return ours


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("num_gt, num_classes", [(1, 80), (4, 1), (15, 5), (40, 3)])
def test_equals_the_plain_loops(geometry, num_gt, num_classes):
    for seed in range(2):
        scene = random_scene(2, num_gt, num_classes=num_classes, seed=seed)
        assert (check_against_plain_loops(scene, geometry).matched_idxs >= 0).any(dim=1).all()


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("radius", [0.3, 1.2, 2])
def test_equals_the_plain_loops_at_any_radius(geometry, radius):
    assert (check_against_plain_loops(random_scene(2, 15, seed=2), geometry, radius).matched_idxs >= 0).any()
    check_against_plain_loops(plain_scene([[28, 28, 44, 44]]), geometry, radius)  # fewer than ten candidates, if any


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(
    "change",
    {
        "crowd: every cell is claimed by many": lambda b: b * 0.05 + 75,
        "centres outside": lambda b: b - 90,
        "centres on grid lines": lambda b: (b / 32).round() * 32,
        "sides through centres of cells": lambda b: (b / 8).round() * 8 + 4,
        "corner: three cells are near": lambda b: b.clamp(max=1),
        "points": lambda b: b[..., [0, 1, 0, 1]],
        "lines": lambda b: b[..., [0, 1, 2, 1]],
        "equal boxes": lambda b: b[:, :1].expand_as(b).clone(),
        "larger than the image": lambda b: b * 3 - 100,
    }.items(),
    ids=lambda change: change[0].split(":")[0].replace(" ", "_"),
)
def test_equals_the_plain_loops_on_adversarial_boxes(geometry, change):
    for seed in range(2):
        scene = random_scene(2, 10, seed=seed)
        scene.gt_boxes = change[1](scene.gt_boxes)
        check_against_plain_loops(scene, geometry)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_images_with_no_box_beside_images_with_many_wherever_the_padding_is(geometry):
    scene = random_scene(4, 100, seed=3)
    scene.gt_valid[0] = False
    scene.gt_valid[1] = torch.rand(100, generator=torch.Generator().manual_seed(0)) < 0.2
    scene.gt_valid[2, 1:] = False
    scene.gt_boxes *= scene.gt_valid[..., None]
    ours = check_against_plain_loops(scene, geometry)
    assert (ours.matched_idxs[0] == -1).all() and (ours.ious[0] == 0).all()
    for n in range(4):
        alone = SimOTA(geometry=geometry, radius=GEOMETRIES[geometry])(*scene.image(n))
        assert torch.equal(alone.matched_idxs[0], ours.matched_idxs[n])


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_equals_the_plain_loops_on_ties(geometry):
    scene = random_scene(2, 12, seed=1)
    scene.pred_boxes = (
        scene.gt_boxes[:, :1].expand(-1, len(scene.priors.grid), -1).clone()
    )  # all predictions are the first box
    scene.cls_logits, scene.obj_logits = scene.cls_logits * 0, scene.obj_logits * 0
    scene.gt_classes *= 0
    check_against_plain_loops(scene, geometry)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_predictions_are_computed_with_in_float32(dtype):
    scene = random_scene(2, 10, seed=2).change(lambda x: x.to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = SimOTA()(*scene)
    matched_idxs, ious = reference_simota(*scene)
    assert torch.equal(ours.matched_idxs, matched_idxs) and ours.ious.dtype == torch.float32
    torch.testing.assert_close(ours.ious, ious)


def test_no_boxes_at_all():
    for num_gt in (0, 3):
        scene = random_scene(2, num_gt)
        scene.gt_valid[:] = False
        scene.gt_boxes *= 0
        ours = check_against_plain_loops(scene, "center")
        assert (ours.matched_idxs == -1).all() and (ours.ious == 0).all()


# 64 x 64 pixels: cells 0..63 have stride 8 (8 a row), 64..79 stride 16, 80..83 stride 32.


def test_as_many_positives_as_the_sum_of_ious_and_the_cheapest():
    box, half, third = [24, 24, 48, 48], [24, 24, 48, 36], [24, 24, 48, 32]
    # the box's centre is on the corner of 27, 28, 35, 36 shifted half a cell: (36, 36) is the centre of cell 36
    scene = plain_scene([box], {36: half, 35: box, 27: half, 28: third, 26: half})
    # 1/2 + 1 + 1/2 + 1/3 = 2.33: cell 26 is not within 1.5 cells of the centre, so no candidate
    assert positives(SimOTA()(*scene)) == {27: 0, 35: 0}  # the best, and the first of two equal
    ious = SimOTA()(*scene).ious[0]
    assert ious[[27, 35, 36]].tolist() == [0.5, 1.0, 0.0]
    scene.cls_logits[0, 36, 0] = 1.0  # more certain of the right class: cheaper than 27
    assert positives(SimOTA()(*scene)) == {35: 0, 36: 0}
    scene.cls_logits[0, 36, 1] = 3.0  # and of the wrong one
    assert positives(SimOTA()(*scene)) == {27: 0, 35: 0}
    scene.obj_logits[0, 27] = 3.0  # at the logits 0, more objectness helps the right class as it spoils the other
    scene.cls_logits[0, 27] = torch.tensor([0.0, -9.0])
    assert positives(SimOTA()(*scene)) == {27: 0, 35: 0}


def test_at_least_one_and_at_most_ten_positives():
    box = [0, 0, 64, 64]
    assert positives(SimOTA()(*plain_scene([box]))) == {27: 0}  # IoU 0 everywhere: the first of those near (32, 32)
    everywhere = plain_scene([box], dict.fromkeys(range(84), box))
    assert positives(SimOTA()(*everywhere)) == dict.fromkeys([27, 28, 35, 36, 69, 70, 73, 74, 80, 81], 0)
    assert len(positives(SimOTA(topk=3)(*everywhere))) == 3


def test_the_ious_that_count_are_those_with_all_candidates_of_the_image():
    first, second = [4, 4, 12, 12], [50, 50, 62, 62]
    preds = dict.fromkeys([54, 55], first)  # cells near the second box predict the first
    assert sum(g == 0 for g in positives(SimOTA()(*plain_scene([first, second], preds))).values()) == 2
    assert sum(g == 0 for g in positives(SimOTA()(*plain_scene([first], preds))).values()) == 1


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_padding_has_no_candidates(geometry):
    box = [50, 50, 62, 62]
    scene = plain_scene([box, [0, 0, 0, 0]], dict.fromkeys([0, 1, 54], box))  # 0 and 1 are near the corner
    scene.gt_valid[0, 1] = False
    assert positives(check_against_plain_loops(scene, geometry)) == {54: 0}


def test_a_contested_cell_goes_to_the_box_it_is_cheapest_for_though_that_one_did_not_pick_it():
    # all three have their centre in cell 36 and want one cell
    boxes = [[32, 32, 40, 40], [31, 31, 41, 41], [28, 28, 44, 44]]
    scene = plain_scene(boxes, {36: [32, 32, 40, 40]})
    assert positives(SimOTA()(*scene)) == {36: 0}  # two boxes end with nothing
    # the third box wants floor(1 + 0.77) = 1 and picks 27, yet fits what 36 predicts better than those that picked 36
    scene = plain_scene(boxes, {36: [29, 29, 43, 43], 27: [28, 28, 44, 44]})
    assert positives(SimOTA()(*scene)) == {27: 2, 36: 2}


def test_probabilities_that_are_0_or_1_cost_100_a_class():
    scene = random_scene(2, 10, seed=5)
    scene.cls_logits, scene.obj_logits = scene.cls_logits * 200, scene.obj_logits * 200
    check_against_plain_loops(scene, "center")
    # of two wrong predictions, IoU 0 the one and saturated the other, 3 * -log(1e-8) = 55 is the cheaper
    box = [24, 24, 48, 48]
    scene = plain_scene([box], {36: box}, gt_classes=[1])
    scene.cls_logits[0, 36] = torch.tensor([200.0, -200.0])
    scene.obj_logits[0, 36] = 200.0
    assert positives(SimOTA()(*scene)) == {27: 0}


def test_a_centre_outside_takes_what_others_leave():
    outside, inside = [-80, -80, -60, -60], [28, 28, 44, 44]
    assert positives(SimOTA()(*plain_scene([outside]))) == {}
    # its penalised costs are equal: the first candidate, of which the box inside has the cheaper claim
    assert positives(SimOTA()(*plain_scene([outside, inside]))) == {27: 1}
    scene = plain_scene([outside, inside], {37: inside})
    assert positives(SimOTA()(*scene)) == {27: 0, 37: 1}
    scene.cls_logits[0, 28, 0] = 0.01  # a little cheaper than 27, which float32 does not see beside a penalty of 1e6
    assert positives(SimOTA()(*scene)) == {27: 0, 37: 1}
    assert positives(SimOTA(penalty=100.0)(*scene)) == {28: 0, 37: 1}


def test_candidates_near_no_box_that_two_boxes_want():
    # the two small boxes have no cell's centre inside; what is left for them are cells in the large one
    large, small = [0, 0, 64, 64], [9, 9, 11, 11]
    scene = plain_scene([large, small, small], {9: small})
    assert positives(SimOTA(geometry="union", radius=2.5)(*scene))[9] == 1
    check_against_plain_loops(scene, "union")
    scene.gt_classes[0, 1] = 1
    scene.cls_logits[0, 9] = torch.tensor([2.0, -2.0])
    assert positives(SimOTA(geometry="union", radius=2.5)(*scene))[9] == 2
    scene.cls_logits[0, 9] = torch.tensor(
        [0.001, 0.0]
    )  # a little cheaper, which float32 does not see beside a penalty of 1e5
    assert positives(SimOTA(geometry="union", radius=2.5)(*scene))[9] == 1


def test_padding_gets_no_candidate_that_is_near_no_box():
    scene = plain_scene([[0, 0, 64, 64], [9, 9, 11, 11], [9, 9, 11, 11], [0, 0, 0, 0]], gt_classes=[1, 1, 1, 0])
    scene.gt_valid[0, 3] = False
    scene.cls_logits[..., 0] = 3.0  # of which the class that padding stands for would be the cheapest
    assert 3 not in positives(check_against_plain_loops(scene, "union")).values()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_predictions_that_are_not_finite_do_no_harm_to_others(value):
    scene = random_scene(2, 10, seed=4)
    expected = SimOTA()(*scene)
    boxes, cls, obj = names = "pred_boxes", "cls_logits", "obj_logits"
    for broken in ([boxes], [cls], [obj], names):
        ours = SimOTA()(*scene.change(lambda x: torch.stack([torch.full_like(x[0], value), x[1]]), broken))
        assert torch.equal(ours.matched_idxs[1], expected.matched_idxs[1])
        assert (ours.matched_idxs < 10).all() and ours.ious.isfinite().all()
    taken = (expected.matched_idxs[0] >= 0).nonzero()[0, 0]
    scene.cls_logits[0, taken] = float("nan")
    assert SimOTA()(*scene).matched_idxs[0, taken] == -1  # the dearest, where there is a choice
    scene = plain_scene([[24, 24, 48, 48]])
    scene.cls_logits *= float("nan")
    assert positives(SimOTA()(*scene)) == {27: 0}  # where there is none, the first


def test_no_gradient_and_any_layout():
    scene = random_scene(2, 10)
    expected = SimOTA()(*scene)
    scene = scene.change(lambda x: x.transpose(0, 1).contiguous().transpose(0, 1).requires_grad_())
    ours = SimOTA()(*scene)
    assert torch.equal(ours.matched_idxs, expected.matched_idxs) and not ours.ious.requires_grad


@pytest.mark.parametrize("setting", [{"radius": -1}, {"radius": 0}, {"topk": 0}])
def test_a_setting_with_no_candidates_is_an_error(setting):
    ((name, value),) = setting.items()
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be above 0"):
        SimOTA(**setting)


def test_an_unknown_geometry_is_an_error():
    with pytest.raises(ValueError, match="'square'"):
        SimOTA(geometry="square")
