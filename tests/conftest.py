"""Settings of the whole suite, and what several tests need."""

import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import jax
import pytest
from absl import flags

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_legacy_prng_key", "error")
# One program is compiled once in a run of the suite; a new folder each time, so that no run profits from another.
jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp(prefix="scoreflow_jax_tests_"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
flags.FLAGS(["pytest"])  # grain's workers refuse flags that nobody parsed

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def tfds_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A small CIFAR-10 of random images, prepared by tensorflow-datasets' own builder as array_record files."""
    pytest.importorskip("tensorflow", reason="preparing a data set needs TensorFlow")
    from tests.data.fake_cifar10 import prepare

    return prepare(tmp_path_factory.mktemp("tfds"))


def shared(*parts: str) -> pathlib.Path:
    """A path of the material beside the checkout; skips the test where it is absent."""
    path = ROOT.parent.joinpath("shared", *parts)
    if not path.exists():
        pytest.skip(f"no {'/'.join(parts)} beside this checkout")
    return path
