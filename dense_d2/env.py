"""What is installed, and what is wrong with it: `python -m dense_d2.env`, or `make env`.

Exit status 1 if a problem keeps the project from working.
"""

import importlib.metadata
import importlib.util
import os
import platform
import sys

__all__ = ["collect", "main"]

_OPTIONAL = {
    "hotcoco": "COCO evaluation about 50 times as fast as pycocotools",
    "faster_coco_eval": "COCO evaluation about 8 times as fast as pycocotools",
    "tensorboard": "curves in TensorBoard",
}
_DISTRIBUTIONS = {"faster_coco_eval": "faster-coco-eval"}


def collect():
    """Looks at the environment.

    Returns:
        (facts, problems, notes): facts as (name, value) pairs; problems keep the project from working, notes do not.
    """
    facts = [("Python", f"{platform.python_version()} at {sys.executable}")]
    facts.append(("machine", f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"))
    problems, notes = [], []
    torch = _import("torch", facts, problems)
    if torch is not None:
        _check_torchvision(torch, facts, problems)
        _check_gpu(torch, facts, notes)
    for name in ("numpy", "PIL", "cv2", "omegaconf", "hydra", "pycocotools", "safetensors"):
        _import(name, facts, problems)
    if torch is not None:
        _check_detectron2(facts, problems, notes)
    for name, purpose in _OPTIONAL.items():
        if importlib.util.find_spec(name) is None:
            notes.append(f"{name} is not installed (optional): {purpose}.")
        else:
            facts.append((name, importlib.metadata.version(_DISTRIBUTIONS.get(name, name))))
    return facts, problems, notes


def _import(name, facts, problems):
    try:
        module = importlib.import_module(name)
    except Exception as error:  # a broken binary raises whatever it likes
        problems.append(f"{name} cannot be imported: {error}")
        return None
    facts.append((name, getattr(module, "__version__", "installed")))
    return module


def _check_torchvision(torch, facts, problems):
    torchvision = _import("torchvision", facts, problems)
    if torchvision is None:
        return
    try:
        from torchvision.ops import nms

        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except Exception as error:
        problems.append(
            f"torchvision {torchvision.__version__} does not work with torch {torch.__version__} ({str(error).splitlines()[0]}). "
            "The two come as a pair, from the same source: reinstall both together, such as torch 2.12.1 with "
            "torchvision 0.27.1."
        )


def _check_gpu(torch, facts, notes):
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        facts.append(("GPU", f"{', '.join(names)} (CUDA {torch.version.cuda})"))
    else:
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        facts.append(("GPU", f"none (torch is {built})"))
        notes.append("No GPU: everything runs on the CPU, which suits the demo and the tests but no training on COCO.")


def _check_detectron2(facts, problems, notes):
    try:
        import detectron2

        from . import compat
    except Exception as error:
        problems.append(f"Detectron2: {error}")
        return
    operators = "with" if compat.has_compiled_ops() else "without"
    facts.append(("detectron2", f"{detectron2.__version__}, {operators} compiled operators"))
    if not compat.has_compiled_ops():
        notes.append(compat.COMPILED_OPS_HINT)


def main():
    facts, problems, notes = collect()
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        print(f"{name:{width}}  {value}")
    for note in notes:
        print(f"\nnote: {note}")
    for problem in problems:
        print(f"\nPROBLEM: {problem}")
    print("\nThis environment does not work: see the problems above." if problems else "\nThis environment works.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
