"""Deformable convolution on a CPU, from PyTorch's own operators: several times as fast as torchvision's, gradients included.

A bilinear sample is a weighted sum of four rows of the table of all cells, which is what `embedding_bag` computes; the
samples of a location times the kernel are one matrix product.

Shapes: N images, C channels, k x k the kernel, T = k*k taps, G groups of offsets, H x W the output map.
"""

import torch
from torch.nn import functional as F

__all__ = ["deform_conv2d_cpu"]


def deform_conv2d_cpu(x, offset, weight, bias, stride, padding, dilation, mask):
    """See `deform_conv.deform_conv2d`; all tensors are float32. Cells outside the map count 0."""
    num_images, channels, height, width = x.shape
    kernel, size = weight.shape[-1], offset.shape[-2:]
    groups = channels // weight.shape[1]
    offset = offset.view(num_images, -1, kernel**2, 2, *size)
    rows, columns = (
        offset[:, :, :, axis].permute(0, 3, 4, 2, 1) + taps
        for axis, taps in enumerate(_taps(size, kernel, stride, padding, dilation))
    )
    cells, factors = _corners(rows, columns, height, width)  # (N, H, W, T, G, 4)
    if mask is not None:
        factors = factors * mask.view(num_images, -1, kernel**2, *size).permute(0, 3, 4, 2, 1)[..., None]

    # a cell is G rows of the table, one for each group of channels
    num_groups = offset.shape[1]
    table = x.permute(0, 2, 3, 1).reshape(-1, channels // num_groups)
    image = torch.arange(num_images, dtype=torch.int32).view(-1, 1, 1, 1, 1, 1) * (height * width)
    ids = (cells + image) * num_groups + torch.arange(num_groups, dtype=torch.int32)[:, None]
    samples = F.embedding_bag(ids.view(-1, 4), table, per_sample_weights=factors.reshape(-1, 4), mode="sum")

    samples = samples.view(-1, kernel**2, groups, channels // groups).permute(2, 0, 1, 3).flatten(2)
    kernels = weight.permute(2, 3, 1, 0).flatten(0, 2).unflatten(1, (groups, -1)).transpose(0, 1)
    y = samples @ kernels  # (groups, N * H * W, C_out / groups)
    y = y.transpose(0, 1).reshape(num_images, *size, -1).permute(0, 3, 1, 2)
    return y if bias is None else y + bias[:, None, None]


def _taps(size, kernel, stride, padding, dilation):
    """Rows (H, 1, T, 1) and columns (W, T, 1) of the undeformed taps, in cells of the input map."""
    steps = torch.arange(kernel) * dilation - padding
    rows = (torch.arange(size[0]) * stride)[:, None] + steps.repeat_interleave(kernel)
    columns = (torch.arange(size[1]) * stride)[:, None] + steps.repeat(kernel)
    return rows[:, None, :, None], columns[:, :, None]


def _corners(rows, columns, height, width):
    """The four cells around each position, (..., 4) numbers within the map, and how much of each a bilinear sample has."""
    axes = []
    for position, side in ((rows, height), (columns, width)):
        position = position.clamp(-2, side + 1)  # beyond, nothing is sampled either
        low = position.floor()
        part = position - low
        cells = torch.stack([low, low + 1], dim=-1)
        inside = (cells >= 0) & (cells < side)
        axes.append((cells.int().clamp(0, side - 1), torch.stack([1 - part, part], dim=-1) * inside))
    (row, row_part), (column, column_part) = axes
    cells = row[..., :, None] * width + column[..., None, :]
    return cells.flatten(-2), (row_part[..., :, None] * column_part[..., None, :]).flatten(-2)
