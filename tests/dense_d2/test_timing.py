import logging

from dense_d2.evaluation import PureComputeTime, describe_machine

import pytest
from detectron2.evaluation import inference_on_dataset

NAME = "detectron2.evaluation.evaluator"
LINE = "Total inference pure compute time: 0:00:04 (0.081300 s / iter per device, on 2 devices)"


@pytest.fixture
def evaluator_logger():
    logger = logging.getLogger(NAME)
    state = logger.level, logger.disabled, logger.propagate
    yield logger
    logger.level, logger.disabled, logger.propagate = state
    logging.disable(logging.NOTSET)
    assert not logger.filters and "isEnabledFor" not in vars(logger)


def test_reads_the_compute_line_only(evaluator_logger):
    evaluator_logger.setLevel(logging.INFO)
    with PureComputeTime() as clock:
        evaluator_logger.info("Total inference time: 0:00:09 (0.500000 s / iter per device, on 2 devices)")
        assert clock.seconds is None
        evaluator_logger.info(LINE)
    assert (clock.seconds, clock.num_devices) == (0.0813, 2)
    evaluator_logger.info(LINE.replace("0.0813", "9.0"))
    assert clock.seconds == 0.0813


@pytest.mark.parametrize("silence", ["level", "disabled", "everything", "nothing"])
def test_works_at_any_log_level_and_shows_what_was_shown_before(evaluator_logger, caplog, silence):
    evaluator_logger.setLevel(logging.WARNING if silence == "level" else logging.INFO)
    evaluator_logger.disabled = silence == "disabled"
    if silence == "everything":
        logging.disable(logging.INFO)
    with PureComputeTime() as clock:
        inference_on_dataset(lambda batch: batch, [[{}]] * 3, None)
    assert clock.seconds >= 0
    assert ("pure compute" in caplog.text) == (silence == "nothing")
    assert evaluator_logger.disabled == (silence == "disabled")
    assert evaluator_logger.level == (logging.WARNING if silence == "level" else logging.INFO)


def test_state_returns_after_an_error(evaluator_logger):
    with pytest.raises(KeyError), PureComputeTime():
        raise KeyError


def test_describe_machine():
    machine = describe_machine("cpu")
    assert machine["device_type"] == "cpu" and machine["device"] and machine["threads"] >= 1
    assert all(machine[key][0].isdigit() for key in ("torch", "torchvision"))
    assert machine["detectron2"].split()[0] in ("detectron2", "pb1-detectron2")
