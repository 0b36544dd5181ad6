"""YOLOF: You Only Look One-level Feature (Chen et al., CVPR 2021)."""

import dense_d2  # noqa: F401  (makes Detectron2 importable)
