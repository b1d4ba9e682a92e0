"""Settings of the whole suite, and what several tests need."""

import gc
import importlib.metadata
import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
# Most of the suite's time is XLA's compiler, and most of its programs run once: without optimization files of such tests cost a
# tenth to two fifths less. Processes that tests start inherit it. Modules that compute for longer ask for `optimized`.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Without MLIR's passes for every fusion, and without cutting programs into parts for threads to compile, the compiler takes two
# thirds of the time, and about as long as before where it optimizes. JAX 0.12 does not know the first flag and would end at it.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1")

import jax
import numpy as np
import pytest
from absl import flags
from PIL import Image

from scoreflow_jax import parallel

# Cores of its own for each of the suite's processes: where two share two cores, each with threads for both, a file takes up to
# twice as long. What tests start inherits it, and JAX counts the cores when it starts its devices, below.
worker = os.environ.get("PYTEST_XDIST_WORKER", "")
if worker and hasattr(os, "sched_setaffinity"):
    cores, place = sorted(os.sched_getaffinity(0)), int(worker.removeprefix("gw"))
    own = cores[place :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])]
    os.sched_setaffinity(0, own or {cores[place % len(cores)]})

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_legacy_prng_key", "error")
# One program is compiled once in a run of the suite, by whichever of its processes comes first (the variable is inherited); a new
# folder each time, so that no run profits from another.
COMPILED = os.environ.setdefault("SCOREFLOW_JAX_TESTS_COMPILED", tempfile.mkdtemp(prefix="scoreflow_jax_tests_"))
jax.config.update("jax_compilation_cache_dir", COMPILED)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="scoreflow_jax_tests_")  # where features are kept
flags.FLAGS(["pytest"])  # grain's workers refuse flags that nobody parsed

LONGEST = (
    "test_notebooks.py", "test_quality.py", "test_family_modes.py", "test_points.py", "test_processes.py", "test_configs.py",
    "test_stochastic.py", "test_ode.py", "test_evaluation.py", "test_data_modes.py", "test_bare_machine.py", "test_train.py",
    "test_difference_flow.py", "test_stop.py", "test_evaluate.py", "test_sample.py", "test_densities.py", "test_import.py",
    "test_import_score_sde.py",
)  # fmt: skip
"""Files that take more than half a minute, begun first: a process that comes to one of them last leaves the others idle."""

ROOT = pathlib.Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first; xdist keeps this order with --no-loadscope-reorder."""
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session", autouse=True)
def _one_device():
    """Most of the suite computes on one device, which two cores serve twice as fast as four virtual ones."""
    parallel.all_devices = lambda: jax.devices()[:1]


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Compiled programs of a file are of no use to the next, and together they took 5 GB of each of the suite's processes."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="module")
def optimized():
    """Programs compiled as users have them, for a module that runs them for longer than it compiles them."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def four_devices():
    """All four virtual devices, for a module that asks for them."""
    before, parallel.all_devices = parallel.all_devices, jax.devices
    yield
    parallel.all_devices = before


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


@pytest.fixture(scope="session")
def pictures_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Small random pictures of several sizes, in the folders that the 256x256 configs read."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for folder in ("afhq/{}/cat", "afhq/{}/dog", "afhq/{}/wild", "images/{}/all"):
        for split in ("train", "test"):
            target = root / folder.format(split)
            target.mkdir(parents=True)
            for i in range(20):
                pixels = rng.integers(0, 256, (36 + i % 3, 40, 3), np.uint8)
                Image.fromarray(pixels).save(target / f"{i:02d}.png")
    return root


def shared(*parts: str) -> pathlib.Path:
    """A path of the material beside the checkout; skips the test where it is absent."""
    path = ROOT.parent.joinpath("shared", *parts)
    if not path.exists():
        pytest.skip(f"no {'/'.join(parts)} beside this checkout")
    return path
