import shutil

import dense_d2  # noqa: F401  (makes Detectron2 importable for every test module)
from tests.toy import write_toy_coco

import pytest


@pytest.fixture(scope="session")
def toy_coco(tmp_path_factory):
    """(images_dir, annotations_path) of the generated data set. Read only: write your own copy to change it."""
    return write_toy_coco(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def images(tmp_path, toy_coco):
    """A copy of the generated data set to damage: (images_dir, annotations_path) as strings."""
    shutil.copytree(toy_coco[0], tmp_path / "images")
    shutil.copy(toy_coco[1], tmp_path / "annotations.json")
    return str(tmp_path / "images"), str(tmp_path / "annotations.json")
