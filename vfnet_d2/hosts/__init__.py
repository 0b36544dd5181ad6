"""Detectors that the varifocal loss was tried in: VarifocalNet, Table 5. Their classification loss is a line of the config."""

from .atss import ATSS, ATSSHead
from .foveabox import FoveaBox, FoveaHead
from .reppoints import RepPoints
from .reppoints_head import RepPointsHead

__all__ = ["ATSS", "ATSSHead", "FoveaBox", "FoveaHead", "RepPoints", "RepPointsHead"]
