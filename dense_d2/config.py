"""Loading of configs: LazyConfig `.py` rows, the `config.yaml` a run writes, and yacs `.yaml` files.

A misspelt key is an error that suggests the right one, in files as on the command line. Loading a yaml never runs code.
"""

import builtins
import copy
import difflib
import inspect
import os

import yaml
from detectron2.config import CfgNode, LazyConfig, get_cfg
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from .datasets import resolve_datasets
from .errors import UserError

__all__ = ["ConfigError", "dump_config", "load_config", "register_yacs_defaults"]

# Dictionaries whose keys are the user's: keyword arguments of DistributedDataParallel, and named hooks.
_OPEN_SECTIONS = ("train.ddp", "train.hooks")

# What a yaml may build. A .py config is code that its user chose to run; a config.yaml travels with checkpoints.
_YAML_TARGETS = (
    "dense_d2.",
    "yolof_d2.",
    "yolox_d2.",
    "vfnet_d2.",
    "asff_d2.",
    "detectron2.modeling.",
    "detectron2.layers.",
    "detectron2.data.transforms.",
    "detectron2.evaluation.",
    "detectron2.solver.",
    "fvcore.common.param_scheduler.",
    "torch.optim.",
    "torch.nn.",
)

# The sections of a training config whose keys are fixed; a test compares them with configs/common.
_SECTIONS = ("model", "dataset", "dataloader", "optimizer", "lr_multiplier", "train", "tta")
_KEYS = {
    "dataset": ("train", "test"),
    "dataset.train": ("name", "images", "annotations"),
    "dataset.test": ("name", "images", "annotations"),
    "dataloader": ("train", "test", "evaluator"),
    "train": (
        *("output_dir", "init_checkpoint", "reinit_head", "device", "max_iter", "seed", "deterministic"),
        *("cudnn_benchmark", "check_data", "amp", "accumulate", "clip_grad_norm", "ddp", "checkpointer"),
        *("fuse_conv_bn", "eval_period", "log_period", "pictures", "hooks"),
    ),
    "train.amp": ("enabled", "dtype", "evaluate"),
    "train.checkpointer": ("period", "max_to_keep"),
    "tta": ("enabled", "min_sizes", "max_size", "flip", "nms_thresh"),
}

_yacs_defaults = []


class ConfigError(UserError):
    """A config file or an override that cannot be used; the message says what to write instead."""


def register_yacs_defaults(add_config):
    """Makes `load_config` call `add_config(cfg)` before it reads a yacs file. Paper packages call this on import."""
    if add_config not in _yacs_defaults:
        _yacs_defaults.append(add_config)
    return add_config


def load_config(path, overrides=()):
    """Reads a config and applies overrides.

    Args:
        path: a LazyConfig `.py`, the `config.yaml` of an earlier run, or a yacs `.yaml` (its keys are upper-case).
        overrides: `key=value` strings in Hydra's grammar; for yacs files also `KEY VALUE` pairs as Detectron2 takes them.
    Returns:
        DictConfig, with class count and dataset names resolved (see `dense_d2.datasets`), or a yacs CfgNode.
    Raises:
        ConfigError: unknown key, or a file that is no config.
        FileNotFoundError: no such file.
    """
    path, overrides = str(path), list(overrides)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"No config file {path!r}.{_suggest(path, _sibling_files(path))}")
    if path.endswith(".py"):
        cfg = _load_python(path)
    elif path.endswith((".yaml", ".yml")):
        content = _load_yaml(path)
        if all(key.isupper() or key == "_BASE_" for key in content):
            return _load_yacs(path, overrides)
        _check_targets(content, path)
        cfg = OmegaConf.create(content, flags={"allow_objects": True})
    else:
        raise ConfigError(f"{path!r} is neither a .py nor a .yaml config.")
    _apply_overrides(cfg, overrides)
    if {"model", "train", "dataloader"} <= set(cfg):
        _check_sections(cfg, path)
        _check_links(cfg, path)
    if "dataset" in cfg:
        resolve_datasets(cfg)
    return cfg


def dump_config(cfg):
    """The config as YAML text that `load_config` reads back: callables become their dotted names."""
    if isinstance(cfg, CfgNode):
        return cfg.dump()
    container = OmegaConf.to_container(copy.deepcopy(cfg), resolve=False)
    return yaml.safe_dump(_plain(container), default_flow_style=None, allow_unicode=True, width=120)


def _plain(node):
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_plain(value) for value in node]
    if callable(node):
        return f"{node.__module__}.{node.__qualname__}"
    return node


def _load_python(path):
    builtin_import = builtins.__import__
    try:
        return LazyConfig.load(path)
    finally:
        builtins.__import__ = builtin_import  # Detectron2 leaves its own behind when a config raises


def _load_yaml(path):
    with open(path) as file:
        try:
            content = yaml.safe_load(file)
        except yaml.YAMLError as error:
            raise ConfigError(f"{path} is no plain YAML (nothing in it is ever executed): {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no config: expected sections, got {type(content).__name__}.")
    return content


def _check_targets(node, path):
    if isinstance(node, dict):
        target = node.get("_target_")
        if isinstance(target, str) and not target.startswith(_YAML_TARGETS):
            raise ConfigError(
                f"{path} wants to call {target}. A yaml may only build what this project, Detectron2's models and data, and "
                "torch's layers and optimisers offer; put anything else into a .py config."
            )
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _check_targets(child, path)


def _check_sections(cfg, path):
    for where, known in {"": _SECTIONS, **_KEYS}.items():
        section = OmegaConf.select(cfg, where) if where else cfg
        if not isinstance(section, DictConfig):
            raise ConfigError(f"{path}: {where} is {section!r}, but it is a section with the keys {', '.join(known)}.")
        for key in set(section) - set(known):
            name = f"{where}.{key}".lstrip(".")
            raise ConfigError(f"{path}: the config has no key {name!r}.{_suggest(key, known)}")


def _check_links(cfg, path):
    try:
        OmegaConf.to_container(cfg, resolve=True)
    except InterpolationResolutionError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{path}: {error.full_key} follows a setting that is not there: {reason}") from error


def _load_yacs(path, overrides):
    cfg = get_cfg()
    for add_config in _yacs_defaults:
        add_config(cfg)
    pairs = []
    for item in overrides:
        pairs += item.split("=", 1) if "=" in item else [item]
    try:
        cfg.merge_from_file(path, allow_unsafe=False)
        cfg.merge_from_list(pairs)
    except (KeyError, AssertionError) as error:  # yacs: unknown key in a file, on the command line
        text = str(error.args[0]) if error.args else str(error)
        key = text.split(":")[-1].strip()
        hint = " Import the detector's package first if it is one of ours." if not _yacs_defaults else ""
        raise ConfigError(f"{path}: {text}.{_suggest(key, _yacs_keys(cfg))}{hint}") from error
    except ValueError as error:  # yacs: a value of another type
        raise ConfigError(f"{path}: {error}.") from error
    return cfg


def _yacs_keys(node, prefix=""):
    for key, value in node.items():
        yield prefix + key
        if isinstance(value, CfgNode):
            yield from _yacs_keys(value, f"{prefix}{key}.")


def _apply_overrides(cfg, overrides):
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    parser = OverridesParser.create()
    for text in overrides:
        try:
            (override,) = parser.parse_overrides([text])
        except OverrideParseException as error:
            if text.startswith("-"):
                raise ConfigError(f"{text!r} is a flag: flags go before the key=value overrides.") from error
            raise ConfigError(
                f"Cannot read the override {text!r}: write key=value, and quote values with spaces or special characters, "
                f"as in 'dataset.train.images=\"my images\"'. ({str(error).splitlines()[0]})"
            ) from error
        if override.is_delete() or override.is_sweep_override():
            raise ConfigError(
                f"{text!r}: write key=value; deletions and sweeps are not supported, lists need brackets."
            )
        key = override.key_or_group
        _check_key(cfg, key)
        value = override.value()
        if value is None and not _may_be_null(cfg, key):
            raise ConfigError(f"{text!r}: a section cannot be null; set one of its keys, or leave it as it is.")
        OmegaConf.update(cfg, key, _as_type_of(OmegaConf.select(cfg, key), value, text), merge=True)


def _may_be_null(cfg, key):
    """Whether null can stand at `key`: not for a section, unless it is an argument whose default is null."""
    if not isinstance(OmegaConf.select(cfg, key), DictConfig):
        return True
    where, _, name = key.rpartition(".")
    parameter = _parameters(OmegaConf.select(cfg, where) if where else cfg).get(name)
    return parameter is not None and parameter.default is None


def _as_type_of(old, new, text):
    """`new`, if it can stand where `old` stands: a number for a number, a section for a section. Two whole numbers can
    stand for one: (height, width) for a side."""
    if isinstance(old, DictConfig) and not isinstance(new, dict) and new is not None:
        raise ConfigError(f"{text!r}: this is a section; set one of its keys, {', '.join(old)}.")
    if new is None:
        fits = True
    elif isinstance(old, bool):
        fits = isinstance(new, bool)
    elif isinstance(old, (int, float)):
        fits = isinstance(new, (int, float)) and not isinstance(new, bool)
        if fits and isinstance(old, int) and isinstance(new, float):
            fits, new = new.is_integer(), int(new) if new.is_integer() else new  # 1e4
        elif isinstance(old, int) and isinstance(new, list):
            fits = [type(number) for number in new] == [int, int]
    else:
        fits = True
    if not fits:
        raise ConfigError(f"{text!r}: the value now is {old!r}, a {type(old).__name__}; give one of that kind.")
    return new


def _check_key(cfg, key):
    """Raises ConfigError unless `key` exists, or may be added where it is."""
    node, done = cfg, []
    for part in key.split("."):
        if isinstance(node, ListConfig):
            known = part.isdigit() and int(part) < len(node)
        else:
            known = isinstance(node, DictConfig) and part in node
        if not known:
            where = ".".join(done)
            if where in _OPEN_SECTIONS or part in _parameters(node):
                return
            candidates = list(_keys(cfg)) + [f"{where}.{name}" for name in _parameters(node)]
            raise ConfigError(f"The config has no key {key!r}.{_suggest(key, candidates)}")
        done.append(part)
        node = node[int(part)] if isinstance(node, ListConfig) else node._get_node(part)
        if isinstance(node, (DictConfig, ListConfig)) and node._is_interpolation():
            node = node._dereference_node()


def _parameters(node):
    """The keyword arguments that the callable of a `_target_` node takes, by name."""
    if not isinstance(node, DictConfig) or "_target_" not in node:
        return {}
    target = node._target_
    if isinstance(target, str):
        from detectron2.utils.registry import locate

        target = locate(target)
    target = getattr(target, "__init__", target) if inspect.isclass(target) else target
    target = inspect.unwrap(target)
    parameters = inspect.signature(target).parameters
    return {name: value for name, value in parameters.items() if name not in ("self", "args", "kwargs")}


def _keys(node, prefix=""):
    items = node.items_ex(resolve=False) if isinstance(node, DictConfig) else enumerate(node)
    for key, value in items:
        yield f"{prefix}{key}"
        if isinstance(value, (DictConfig, ListConfig)) and not value._is_interpolation():
            yield from _keys(value, f"{prefix}{key}.")


def _suggest(key, candidates):
    candidates = list(dict.fromkeys(str(candidate) for candidate in candidates))
    close = difflib.get_close_matches(key, candidates, n=1, cutoff=0.6)
    if not close:  # right name, wrong section
        close = [candidate for candidate in candidates if candidate.split(".")[-1] == key.split(".")[-1]][:3]
    return f" Did you mean {' or '.join(repr(name) for name in close)}?" if close else ""


def _sibling_files(path):
    folder = os.path.dirname(path) or "."
    paths = [os.path.join(os.path.dirname(path), name) for name in os.listdir(folder)] if os.path.isdir(folder) else []
    return [path for path in paths if os.path.isfile(path)]
