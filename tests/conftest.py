import dense_d2  # noqa: F401  (makes Detectron2 importable for every test module)
from tests.toy import write_toy_coco

import pytest


@pytest.fixture(scope="session")
def toy_coco(tmp_path_factory):
    """(images_dir, annotations_path) of the generated data set. Read only: write your own copy to change it."""
    return write_toy_coco(tmp_path_factory.mktemp("toy"))
