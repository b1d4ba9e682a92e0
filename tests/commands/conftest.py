"""A run that several tests look at."""

import pytest

from scoreflow_jax.commands import train
from tests.commands.runs import experiment_of


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """A trained smoke run of the digits."""
    workdir = tmp_path_factory.mktemp("digits")
    train.run_command(experiment_of("digits.py"), workdir)
    return workdir
