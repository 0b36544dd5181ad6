"""Detectors that the varifocal loss was tried in: VarifocalNet, Table 5. Their classification loss is a line of the config."""

from .atss import ATSS, ATSSHead

__all__ = ["ATSS", "ATSSHead"]
