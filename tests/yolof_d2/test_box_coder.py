import math

from yolof_d2.box_coder import CenterClampBox2BoxTransform

import torch

ANCHOR = torch.tensor([[100.0, 200, 164, 328]])  # 64 x 128, centre (132, 264)


def decode(*deltas, **kwargs):
    return CenterClampBox2BoxTransform(**kwargs).apply_deltas(torch.tensor([deltas]), ANCHOR)[0].tolist()


def close(a, b):
    return all(abs(x - y) < 1e-3 for x, y in zip(a, b))


def test_zero_deltas_give_the_anchor():
    assert decode(0.0, 0, 0, 0) == ANCHOR[0].tolist()


def test_shift_and_scale():
    # centre + (0.25 * 64, -0.125 * 128), size (64 * 2, 128 / 2)
    assert close(decode(0.25, -0.125, math.log(2), -math.log(2)), [148 - 64, 248 - 32, 148 + 64, 248 + 32])


def test_the_centre_moves_at_most_32_pixels_in_each_direction():
    assert close(decode(0.6, -0.6, 0, 0), [132, 168, 196, 296])  # 38.4 and -76.8 become 32 and -32
    assert close(decode(0.4, 9.0, 0, 0), [125.6, 232, 189.6, 360])  # 25.6 stays
    assert close(decode(0.6, -0.6, 0, 0, center_clamp=None), [138.4, 123.2, 202.4, 251.2])
    assert close(decode(0.6, -0.6, 0, 0, center_clamp=8), [108, 192, 172, 320])


def test_growth_has_a_limit_and_shrinking_has_none():
    x0, y0, x1, y1 = decode(0.0, 0, 100, -100)
    assert abs(x1 - x0 - 64 * 1000 / 16) < 0.1
    assert y1 - y0 == 0


def test_beyond_a_clamp_there_is_no_gradient():
    deltas = torch.tensor([[0.6, 0.1, 5.0, 1.0]], requires_grad=True)
    CenterClampBox2BoxTransform().apply_deltas(deltas, ANCHOR)[:, 2:].sum().backward()
    assert deltas.grad[0, [0, 2]].tolist() == [0, 0]
    assert (deltas.grad[0, [1, 3]] > 0).all()


def test_half_deltas_are_decoded_in_float32_and_batches_broadcast():
    deltas = torch.tensor([0.1, 0.2, 0.7, 1.1]).half().expand(3, 1, 4)
    boxes = CenterClampBox2BoxTransform().apply_deltas(deltas, ANCHOR.half())
    assert boxes.dtype == torch.float32 and boxes.shape == (3, 1, 4)
    assert torch.equal(boxes, CenterClampBox2BoxTransform().apply_deltas(deltas.float(), ANCHOR))
