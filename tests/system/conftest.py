"""Fixtures of system tests, which all use the whole network."""

import pathlib
from collections.abc import Iterator

import browsing
import pytest
from helpers import SMALL_HPARAMS, run_main
from selenium import webdriver

import model

WHOLE_NETWORK = model.MOBILENET_V1


@pytest.fixture(scope="module", autouse=True)
def whole(whole_network):
    """Each test uses the whole network."""


@pytest.fixture(scope="session")
def trained(dataset, tmp_path_factory) -> pathlib.Path:
    """A train_dir with checkpoints 0 and 2 of a seeded run; do not change it."""
    train_dir = tmp_path_factory.mktemp("trained") / "run"
    flags = dataset.train_flags(
        train_dir, hparams=SMALL_HPARAMS, max_steps=2, checkpoint_steps=2, seed=3
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "MOBILENET_V1", WHOLE_NETWORK)
        assert run_main(flags) == 0
    return train_dir


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[webdriver.Chrome]:
    """A headless browser with a new profile."""
    driver = browsing.start(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()
