"""`make demo`, with a network and a schedule of seconds."""

import os

from tools.demo import main, run_demo

import pytest

SHORT = [
    "train.max_iter=1",
    "train.eval_period=0",
    "train.pictures=1",
    "dataloader.test.mapper.augmentations.0.short_edge_length=64",
    "dataloader.train.mapper.augmentations.0.short_edge_length=[64]",
    "dataloader.train.total_batch_size=1",
    "model.backbone.stages.base_channels=8",
    "model.backbone.stem.out_channels=8",
    "model.head.encoder.in_channels=32",
    "model.head.encoder.channels=16",
    "model.head.encoder.block_mid_channels=8",
]


def test_demo_says_where_its_results_are_and_runs_twice(tmp_path, capsys):
    for _ in range(2):
        main(["--output", str(tmp_path / "demo"), *SHORT])
    printed = capsys.readouterr().out
    assert "Box AP on the held-out shapes" in printed and "training_curve.png" in printed
    run = tmp_path / "demo" / "run"
    assert {"results.json", "pictures", "training_curve.png", "model_final.pth"} <= set(os.listdir(run))
    assert len(os.listdir(run / "pictures")) == 1


def test_demo_replaces_no_folder_of_others(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("ten years of work")
    with pytest.raises(FileExistsError):
        run_demo(str(tmp_path))
    assert (tmp_path / "run" / "thesis.txt").exists()
