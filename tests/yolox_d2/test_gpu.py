"""On a GPU that PyTorch only pretends to have: no tensor is on the wrong device, and the host waits for nothing it need not."""

from tests.yolof_d2.tiny import batch
from tests.yolox_d2.reference_simota import regions
from tests.yolox_d2.tiny import tiny_head, tiny_yolox
from tools.benchmark_yolox import assignment_inputs
from yolox_d2.one_to_one import OneToOneAssigner

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

SOME = ([[10.0, 10, 60, 70], [30.0, 5, 120, 90]], [1, 2])


class Journal(TorchDispatchMode):
    """Names of the convolutions and of the copies to the device that the host waits for, in turn."""

    def __init__(self):
        super().__init__()
        self.entries = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        moves = name == "_to_copy" and args[0].device != kwargs.get("device", args[0].device)
        if name == "convolution" or (moves and not kwargs.get("non_blocking")):
            self.entries.append(name)
        return function(*args, **kwargs)


@pytest.fixture
def questions(monkeypatch):
    """What depends on values has one answer, and is counted."""
    asked = []

    def nonzero(self, as_tuple=False):
        asked.append("nonzero")
        found = torch.zeros(2, self.dim(), dtype=torch.int64, device=self.device)
        return found.unbind(1) if as_tuple else found

    monkeypatch.setattr(torch.Tensor, "nonzero", nonzero)
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda self: asked.append("bool") or True)
    return asked


@pytest.mark.parametrize("end_to_end", [False, True])
def test_training_step(questions, end_to_end):
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            assigner = OneToOneAssigner(max_rounds=32) if end_to_end else None
            model = tiny_yolox(head=tiny_head(selector=end_to_end), use_l1=True, select_assigner=assigner).train()
            model._cached_priors(((16, 16), (8, 8), (4, 4)), model.device)  # copied once for each size
        samples = [{**sample, "input_size": (128, 128)} for sample in batch(SOME, SOME)]
        del questions[:]
        with Journal() as journal:
            losses = model(samples)
    assert {(loss.device.type, loss.dtype) for loss in losses.values()} == {("cuda", torch.float32)}
    last_copy = max(i for i, entry in enumerate(journal.entries) if entry == "_to_copy")
    assert last_copy < journal.entries.index("convolution")
    assert questions == ["nonzero"] * 3 + ["bool"] * 2 * end_to_end


def test_the_plain_loops_of_the_benchmark():
    with FakeTensorMode(allow_non_fake_inputs=True):
        priors, _, gt = assignment_inputs(3, "cuda", images=1, side=64)
        assert [x.device.type for x in regions(priors, gt.boxes[0], 1.5, "center")] == ["cuda", "cuda"]
