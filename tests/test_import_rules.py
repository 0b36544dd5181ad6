"""The dependency rules: papers never import each other, the shelf imports no paper, versions are looked at in one place."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAPERS = ("yolof_d2", "yolox_d2", "vfnet_d2", "asff_d2")
SOURCES = [path for package in ("dense_d2", *PAPERS) for path in sorted((ROOT / package).rglob("*.py"))]


def imported_roots(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_packages_import_only_what_they_may(path):
    package = path.relative_to(ROOT).parts[0]
    forbidden = {*PAPERS, "configs", "tools", "tests"} - {package}
    assert not forbidden & set(imported_roots(path))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_compat_compares_versions(path):
    if path.name in ("compat.py",):
        return
    compared = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare) and "__version__" in ast.dump(node)
    ]
    assert not compared


def test_train_net_registers_all_papers():
    assert set(PAPERS) <= set(imported_roots(ROOT / "train_net.py"))


def test_the_walk_sees_the_sources():
    assert ROOT / "dense_d2" / "compat.py" in SOURCES
    assert set(imported_roots(ROOT / "dense_d2" / "config.py")) >= {"detectron2", "omegaconf", "yaml"}
