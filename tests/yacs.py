"""Yacs files of the project, and what tests compare of the models they build."""

import os

from detectron2.config import get_cfg

FILES = os.path.join(os.path.dirname(__file__), "..", "configs", "yacs")


def load_yaml(add_config, name):
    cfg = get_cfg()
    add_config(cfg)
    cfg.merge_from_file(os.path.join(FILES, f"{name}.yaml"))
    return cfg


def settings(module):
    """Public attributes that are plain values, by name."""
    plain = (int, float, str, list)
    return {k: v for k, v in vars(module).items() if isinstance(v, plain) and not k.startswith("_")}
