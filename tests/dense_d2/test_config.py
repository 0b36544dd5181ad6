from dense_d2 import config
from dense_d2.config import ConfigError, load_config

import pytest
from detectron2.config import CfgNode
from omegaconf import OmegaConf

ROW = """
from detectron2.config import LazyCall as L
from torch.nn import Linear

model = L(Linear)(in_features=1)
train = dict(max_iter=10, output_dir="output", ddp=dict(), hooks=dict())
sizes = dict(short=[640, 800])
"""


@pytest.fixture
def row(tmp_path):
    path = tmp_path / "row.py"
    path.write_text(ROW)
    return path


def test_overrides_reach_values_lists_and_new_constructor_arguments(row):
    cfg = load_config(row, ["train.max_iter=3", "sizes.short.1=900", "model.out_features=4"])
    assert cfg.train.max_iter == 3
    assert list(cfg.sizes.short) == [640, 900]
    assert cfg.model.out_features == 4


@pytest.mark.parametrize(
    "override, suggestion",
    [
        ("trian.max_iter=9", "'train.max_iter'"),
        ("train.max_itr=9", "'train.max_iter'"),
        ("model.out_featurs=4", "'model.out_features'"),
        ("max_iter=9", "'train.max_iter'"),
        ("sizes.shrt=1", "'sizes.short'"),
    ],
)
def test_a_misspelt_key_names_the_right_one(row, override, suggestion):
    with pytest.raises(ConfigError, match="has no key") as error:
        load_config(row, [override])
    assert suggestion in str(error.value)


def test_open_sections_take_the_users_keys(row):
    assert load_config(row, ["train.ddp.static_graph=true"]).train.ddp.static_graph is True


def test_unreadable_override_says_how_to_quote(row):
    with pytest.raises(ConfigError, match="quote values"):
        load_config(row, ["train.output_dir=a=(b"])


def test_missing_file_suggests_its_neighbour(row):
    with pytest.raises(FileNotFoundError, match="row.py"):
        load_config(row.with_name("rwo.py"))


def test_saved_config_is_read_back_equal(row, tmp_path):
    cfg = load_config(row, ["train.max_iter=7"])
    (tmp_path / "config.yaml").write_text(config.dump_config(cfg))
    again = load_config(tmp_path / "config.yaml")
    assert again.model._target_ == "torch.nn.modules.linear.Linear"
    assert OmegaConf.to_container(again.train) == OmegaConf.to_container(cfg.train)
    assert config.dump_config(again) == config.dump_config(cfg)


def test_yaml_never_runs_code(tmp_path):
    canary = tmp_path / "canary"
    path = tmp_path / "config.yaml"
    path.write_text(f"train: !!python/object/apply:os.mkdir ['{canary}']\n")
    with pytest.raises(ConfigError, match="plain YAML"):
        load_config(path)
    path.write_text(f"MODEL: !!python/object/apply:os.mkdir ['{canary}']\n")
    with pytest.raises(ConfigError):
        load_config(path)
    assert not canary.exists()


def test_yaml_builds_only_what_a_config_needs(tmp_path):
    path = tmp_path / "config.yaml"
    for target in ("os.system", "torch.load", "subprocess.run", "torch.hub.load"):
        path.write_text(f"train: {{hooks: {{x: {{_target_: {target}, command: ls}}}}}}")
        with pytest.raises(ConfigError, match=f"wants to call {target}"):
            load_config(path)


@pytest.mark.parametrize(
    "override, message",
    [
        ("train.max_iter=abc", "the value now is 10"),
        ("train.max_iter=1.5", "the value now is 10"),
        ("train.max_iter=1,2", "sweeps are not supported"),
        ("train.max_iter=inf", "the value now is 10"),
        ("train=true", "a section; set one of its keys, max_iter, output_dir"),
        ("--eval-only", "flags go before"),
    ],
)
def test_values_of_another_kind_are_refused(row, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(row, [override])
    assert load_config(row, ["train.max_iter=1e4"]).train.max_iter == 10000


def test_null_does_not_stand_for_a_section(row):
    for key in ("model", "train"):
        with pytest.raises(ConfigError, match=f"'{key}=null': a section cannot be null"):
            load_config(row, [f"{key}=null"])
    for key in ("model.device", "train.max_iter", "train.output_dir", "model.in_features"):
        assert OmegaConf.select(load_config(row, [f"{key}=null"]), key) is None
    nano = "configs/yolox/yolox_nano.py"  # an argument whose default is null, though it is a section there
    assert load_config(nano, ["dataloader.train.multi_scale=null"]).dataloader.train.multi_scale is None


def test_an_override_that_cuts_what_others_follow_is_refused():
    with pytest.raises(ConfigError, match="dataloader.train.multi_scale.first follows .*composition.input_size"):
        load_config("configs/asff/asff_thin_bccd.py", ["dataloader.train.composition=null"])


def test_two_whole_numbers_stand_for_a_side(row):
    assert list(load_config(row, ["model.in_features=[320,416]"]).model.in_features) == [320, 416]
    assert load_config(row, ["model.in_features=[320,416]", "model.in_features=96"]).model.in_features == 96
    for wrong in ("[320]", "[320,416,3]", "[320,4.5]", "[320,true]"):
        with pytest.raises(ConfigError, match="the value now is 1"):
            load_config(row, [f"model.in_features={wrong}"])


def test_misspelt_keys_in_files_are_errors(tmp_path):
    cfg = load_config("configs/yolof/yolof_thin_shapes.py")
    text = config.dump_config(cfg)
    path = tmp_path / "config.yaml"
    for right, wrong in (
        ("eval_period:", "evl_period:"),
        ("lr_multiplier:", "lr_multiplyer:"),
        ("enabled:", "enbled:"),
    ):
        path.write_text(text.replace(right, wrong))
        with pytest.raises(ConfigError, match=f"Did you mean '{right[:-1]}'"):
            load_config(path)
    with pytest.raises(ConfigError, match="'train.max_itr'"):
        load_config("configs/yolof/yolof_thin_shapes.py", ["train={max_itr: 5}"])


def test_the_fixed_keys_are_those_of_the_common_configs():
    cfg = load_config("configs/yolof/yolof_thin_shapes.py")
    for where, keys in config._KEYS.items():
        assert set(OmegaConf.select(cfg, where)) == set(keys), where


def test_yacs_files_are_recognised_by_their_keys(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text("MODEL:\n  META_ARCHITECTURE: RetinaNet\n")
    cfg = load_config(path, ["SOLVER.MAX_ITER=5", "SOLVER.BASE_LR", "0.5"])
    assert isinstance(cfg, CfgNode)
    assert (cfg.MODEL.META_ARCHITECTURE, cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR) == ("RetinaNet", 5, 0.5)
    with pytest.raises(ConfigError, match="SOLVER.MAX_ITER"):
        load_config(path, ["SOLVER.MAX_ITR=5"])
    path.write_text("MODEL:\n  META_ARCHITECTUR: RetinaNet\n")
    with pytest.raises(ConfigError, match="MODEL.META_ARCHITECTURE"):
        load_config(path)


def test_a_config_that_raises_leaves_the_import_system_alone(tmp_path):
    import builtins

    before = builtins.__import__
    path = tmp_path / "bad.py"
    path.write_text("raise ZeroDivisionError")
    with pytest.raises(ZeroDivisionError):
        load_config(path)
    assert builtins.__import__ is before


def test_a_folder_is_no_config_and_not_suggested_for_itself():
    with pytest.raises(FileNotFoundError, match=r"No config file 'configs/yolox'\.$"):
        load_config("configs/yolox")
