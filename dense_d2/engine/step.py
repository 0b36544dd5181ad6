"""One training step: mixed precision, gradient accumulation and clipping on top of Detectron2's SimpleTrainer."""

import contextlib
import time

import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import get_event_storage

from .. import compat
from ..errors import UserError

__all__ = ["StepTrainer", "amp_dtype"]


def amp_dtype(name, device):
    """The dtype that `train.amp.dtype` means on a device.

    Args:
        name: "bfloat16", "float16", or "auto": bfloat16 where the device computes in it, else float16.
        device: torch.device or its name.
    """
    dtypes = {"bfloat16": torch.bfloat16, "float16": torch.float16}
    if name == "auto":
        on_cpu = torch.device(device).type == "cpu"
        return torch.bfloat16 if on_cpu or compat.has_bfloat16() else torch.float16
    if name not in dtypes:
        raise UserError(f"train.amp.dtype={name!r} is unknown: use auto, bfloat16 or float16.")
    return dtypes[name]


class StepTrainer(SimpleTrainer):
    """Loss, backward, optimizer step.

    Args:
        model, data_loader, optimizer: as in SimpleTrainer.
        amp: torch.dtype to autocast to, or None. float16 brings a gradient scaler, which the checkpoint holds.
        accumulate: the batch is computed in this many parts, one after the other, whose gradients add up to that
            of the mean over the batch. Saves memory; the recipe stays the same but for batch statistics, and loss
            normalisers that are counted per part.
        clip_grad_norm: greatest L2 norm of all gradients together; 0 leaves them alone.
    """

    def __init__(self, model, data_loader, optimizer, *, amp=None, accumulate=1, clip_grad_norm=0.0):
        if accumulate < 1:
            raise UserError(f"train.accumulate={accumulate}: give the number of parts of a batch, 1 or more.")
        super().__init__(model, data_loader, optimizer)
        self.device = next(model.parameters()).device
        self.amp = amp
        self.accumulate = accumulate
        self.clip_grad_norm = clip_grad_norm
        self.grad_scaler = compat.make_grad_scaler(self.device.type, enabled=amp == torch.float16)

    def run_step(self):
        start = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start

        self.optimizer.zero_grad(set_to_none=True)
        parts = _split(batch, self.accumulate)
        metrics = {}
        for part in parts:
            last = part is parts[-1]
            share = len(part) / len(batch)
            with self._without_sync(skip=last):
                with self._autocast():
                    losses = self.model(part)
                self.grad_scaler.scale(sum(losses.values()) * share).backward()
            for name, value in losses.items():
                metrics[name] = metrics.get(name, 0.0) + value.detach() * share
        if self.clip_grad_norm > 0:
            self.grad_scaler.unscale_(self.optimizer)
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_grad_norm)
            get_event_storage().put_scalar("grad_norm", norm.item(), smoothing_hint=False)
        self._write_metrics(metrics, data_time)  # raises on a loss that is not finite, before the weights change
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _autocast(self):
        if self.amp is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.amp)

    def _without_sync(self, skip):
        if skip or not hasattr(self.model, "no_sync"):
            return contextlib.nullcontext()
        return self.model.no_sync()

    def state_dict(self):
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        if state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def _split(batch, parts):
    size = -(-len(batch) // parts)
    return [batch[start : start + size] for start in range(0, len(batch), size)]
