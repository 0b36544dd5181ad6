"""A yacs file whose head takes maps that its backbone does not give."""

import re

from asff_d2 import add_asff_config
from tests.yacs import load_yaml
from vfnet_d2 import add_vfnet_config
from yolof_d2 import add_yolof_config
from yolox_d2 import add_yolox_config

import pytest
import torch
from detectron2.modeling import build_model

ADD = {"yolof": add_yolof_config, "yolox": add_yolox_config, "vfnet": add_vfnet_config, "asff": add_asff_config}


HEAD = "head_in_features is {}, but the backbone gives"
CASES = [
    *[("vfnet", names, HEAD) for names in (["p3", "p4", "q6"], ["dark3"])],
    *[("yolox", names, HEAD) for names in (["p3", "p4", "p6"], ["p3", "p4", "p5", "p6"], ["dark3"])],
    ("yolof", ["res9"], HEAD),
    ("asff", ["dark3"], "in_features names {}, but the bottom_up has"),  # its neck takes the same
]


@pytest.mark.parametrize("name, names, message", CASES)
def test_maps_that_the_backbone_does_not_give_are_refused(name, names, message):
    cfg = load_yaml(ADD[name], name)
    cfg.MODEL.DEVICE = "meta"
    if name == "yolof":
        cfg.MODEL.YOLOF.ENCODER.BACKBONE_LEVEL = names[0]
    else:
        cfg.MODEL[name.upper()].IN_FEATURES = names
    with torch.device("meta"), pytest.raises(ValueError, match=re.escape(message.format(names))):
        build_model(cfg)
