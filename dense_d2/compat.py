"""Lets one code base run on Detectron2 v0.6 and on upstream main, with today's libraries.

The only file that looks at what is installed. It must be imported before Detectron2: `import dense_d2` does that, and so
does every paper package. `detectron2.__version__` is 0.6 on both, so features are probed, never versions; where Detectron2
needs nothing, nothing is changed.
"""

import importlib
import importlib.util
import inspect
import sys
import types

import numpy as np
import PIL.Image

__all__ = [
    "COMPILED_OPS_HINT",
    "batch_images",
    "create_local_process_group",
    "has_bfloat16",
    "has_compiled_ops",
    "make_grad_scaler",
]

COMPILED_OPS_HINT = (
    "Detectron2 is installed without its compiled operators. Our detectors need none (torchvision has NMS and deformable "
    "convolution); ROIAlignRotated, Detectron2's own DeformConv and its C++ COCOeval do. Install upstream Detectron2 from "
    "source to use them."
)

# Removed from NumPy 1.24, used by v0.6 inside functions.
_NUMPY_ALIASES = {"bool": bool, "int": int, "float": float, "object": object, "str": str}


class _MissingOps(types.ModuleType):
    """Stands for `detectron2._C`: every operator is there, and raises only when it is called."""

    # what Detectron2's environment report asks for
    get_compiler_version = staticmethod(lambda: "none (installed without compiled operators)")
    get_cuda_version = staticmethod(lambda: "not available")
    has_cuda = staticmethod(lambda: False)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args, **kwargs):
            raise RuntimeError(f"detectron2._C.{name} was called. {COMPILED_OPS_HINT}")

        return missing


def _repair_libraries():
    for name, builtin in _NUMPY_ALIASES.items():
        if name not in vars(np):
            setattr(np, name, builtin)
    if not hasattr(PIL.Image, "LINEAR"):
        PIL.Image.LINEAR = PIL.Image.BILINEAR


def _repair_detectron2():
    if importlib.util.find_spec("detectron2") is None:
        raise ImportError(
            "Detectron2 is not installed. `make demo` or `make test` installs it into .venv; for your own environment see the "
            "install matrix in README.md (v0.6 without a compiler, or upstream main from source)."
        )
    try:
        importlib.import_module("detectron2.layers")
    except ImportError:  # v0.6 imports its compiled operators unconditionally; upstream main does not
        if has_compiled_ops():
            raise
        import detectron2

        detectron2._C = sys.modules["detectron2._C"] = _MissingOps("detectron2._C")
        importlib.import_module("detectron2.layers")


def has_compiled_ops():
    """Whether Detectron2 came with its compiled operators (`detectron2._C`)."""
    if isinstance(sys.modules.get("detectron2._C"), _MissingOps):
        return False
    return importlib.util.find_spec("detectron2._C") is not None


_repair_libraries()
_repair_detectron2()

from detectron2.structures import ImageList  # noqa: E402  (needs the repairs above)

_ACCEPTS_CONSTRAINTS = "padding_constraints" in inspect.signature(ImageList.from_tensors).parameters


def batch_images(images, backbone, pad_value=0.0):
    """Pads images to a common size, bottom and right.

    Args:
        images: list of (C, Hi, Wi) tensors.
        backbone: says what sizes it takes: `size_divisibility`, and `padding_constraints` on upstream main.
        pad_value: fill, in the unit of `images`.
    Returns:
        ImageList of shape (N, C, H, W).
    """
    constraints = getattr(backbone, "padding_constraints", None)
    if _ACCEPTS_CONSTRAINTS and constraints:
        return ImageList.from_tensors(images, backbone.size_divisibility, pad_value, padding_constraints=constraints)
    return ImageList.from_tensors(images, backbone.size_divisibility, pad_value)


def make_grad_scaler(device_type, enabled):
    """A gradient scaler for float16; disabled, it passes losses and steps through."""
    import torch

    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler(device_type, enabled=enabled)
    return torch.cuda.amp.GradScaler(enabled=enabled)


def has_bfloat16():
    """Whether the current GPU computes in bfloat16, which newer PyTorch also reports where it only emulates it."""
    import torch

    if torch.version.hip:
        return torch.cuda.is_bf16_supported()
    return torch.cuda.get_device_capability()[0] >= 8


def create_local_process_group(workers_per_machine):
    """Tells Detectron2's `comm` which processes share a machine. Every process calls it, once."""
    from detectron2.utils import comm

    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(workers_per_machine)
        return
    import torch.distributed as dist

    for machine in range(dist.get_world_size() // workers_per_machine):
        ranks = list(range(machine * workers_per_machine, (machine + 1) * workers_per_machine))
        group = dist.new_group(ranks)
        if dist.get_rank() in ranks:
            comm._LOCAL_PROCESS_GROUP = group
