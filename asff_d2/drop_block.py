"""DropBlock as ASFF* trains with it, and the schedule of its block sizes.

Source: Ghiasi et al. 2018; the schedule and the details are those of ASFF's released code.
"""

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

__all__ = ["DropBlock", "DropBlockSchedule"]


class DropBlock(nn.Module):
    """Zeroes squares of a feature map, drawn for every channel by itself, in training and once it has a block size.

    The rate of the squares' centres depends on the width of the map. As released, it is computed for the first map after a
    change of the block size and then kept, although the sizes of the images vary.

    Args:
        keep_prob: share of the map to keep, about.
    """

    def __init__(self, keep_prob=0.9):
        super().__init__()
        self.keep_prob = keep_prob
        self.block_size, self.width = None, None
        self.seed = None  # of the next draw; None: the global generator

    def reset(self, block_size, width=None):
        """Args: block_size in cells, odd, or None for off; width in cells of the map that the rate is computed for."""
        if block_size is not None and block_size % 2 == 0:
            raise ValueError(f"DropBlock's block size is {block_size}; use an odd number")
        self.block_size, self.width = block_size, width

    def rate(self):
        """Probability that a cell is the centre of a dropped square."""
        size, width = self.block_size, self.width
        return (1 - self.keep_prob) * width**2 / (size**2 * max(width - size + 1, 1) ** 2)

    def forward(self, x):
        """(N, C, H, W) -> the same, with the kept part scaled up by the share of it."""
        if not self.training or self.block_size is None:
            return x
        if self.width is None:
            self.width = x.shape[-1]
        generator = None
        if self.seed is not None:
            generator = torch.Generator(x.device).manual_seed(self.seed)
            self.seed += 1  # another one for the next part of an accumulated batch
        centers = (torch.rand(x.shape, device=x.device, generator=generator) < self.rate()).to(x.dtype)
        mask = 1 - F.max_pool2d(centers, self.block_size, stride=1, padding=self.block_size // 2)
        return x * mask * (mask.numel() / mask.sum(dtype=torch.float32)).to(x.dtype)

    def extra_repr(self):
        return f"keep_prob={self.keep_prob}"


class DropBlockSchedule(HookBase):
    """Sets the block sizes of all `DropBlock` modules of the model; for `train.hooks`.

    What they draw depends on seed, process and iteration alone, so that a resumed run draws alike.

    Args:
        starts: iterations at which a phase begins, ascending; before the first one nothing is dropped.
        block_sizes: one list a phase: sizes in the order in which the model holds its DropBlocks (the neck of YOLOv3 from
            stride 32 to stride 8).
        seed: of the draws.
    """

    def __init__(self, starts, block_sizes, seed=0):
        self.seed = seed
        self.starts, self.block_sizes = list(starts), [list(sizes) for sizes in block_sizes]
        if len(self.starts) != len(self.block_sizes) or self.starts != sorted(self.starts):
            raise ValueError(
                f"DropBlockSchedule: starts={self.starts}, block_sizes={self.block_sizes}; list ascending iterations and "
                "one list of sizes for each"
            )
        self.phase, self.widths, self.blocks = 0, [], []

    def before_train(self):
        self.blocks = [m for m in self.trainer.model.modules() if isinstance(m, DropBlock)]
        for sizes in self.block_sizes:
            if len(sizes) != len(self.blocks):
                raise ValueError(
                    f"DropBlockSchedule lists {len(sizes)} block sizes, the model has {len(self.blocks)} DropBlock modules: "
                    "list one size each"
                )
        if self.phase:  # resumed
            for block, size, width in zip(self.blocks, self.block_sizes[self.phase - 1], self.widths):
                block.reset(size, width)

    def before_step(self):
        phase = sum(start <= self.trainer.iter for start in self.starts)
        if phase != self.phase:
            self.phase = phase
            for block, size in zip(self.blocks, self.block_sizes[phase - 1] if phase else [None] * len(self.blocks)):
                block.reset(size)
        for index, block in enumerate(self.blocks):
            words = np.random.SeedSequence((self.seed, comm.get_rank(), self.trainer.iter, index))
            block.seed = int(words.generate_state(1)[0])

    def state_dict(self):
        return {"phase": self.phase, "widths": [block.width for block in self.blocks]}

    def load_state_dict(self, state_dict):
        self.phase, self.widths = state_dict["phase"], list(state_dict["widths"])
