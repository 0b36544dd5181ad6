"""The shelf: what at least two of our detectors use, or what `train_net.py` needs."""

import sys

# Before any import of Detectron2. Only `python -m dense_d2.env` starts without it, to report what is broken.
if "dense_d2.env" not in getattr(sys, "orig_argv", ()):
    from . import compat  # noqa: F401
