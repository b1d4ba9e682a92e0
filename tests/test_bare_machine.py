"""On a machine with JAX, flax, optax, diffrax, orbax-checkpoint and what these require, and no other package.

Imports are not blocked: the interpreter sees a folder of links to exactly those distributions, and the checkout.
"""

import importlib.metadata
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from scoreflow_jax.command_line import load_config
from scoreflow_jax.plain_config import to_plain
from tests.commands.runs import SHRUNK
from tests.conftest import COMPILED, ROOT

GIVEN = ("jax", "jaxlib", "flax", "optax", "diffrax", "orbax-checkpoint")
MISSING = (
    "PIL", "array_record", "clu", "grain", "matplotlib", "ml_collections", "sklearn", "tensorflow", "tensorflow_datasets",
    "tqdm",
)  # fmt: skip


def required(names):
    """The distributions of these names and of all that they require, with the extras that are asked for and no others."""
    requirements = pytest.importorskip("packaging.requirements")
    found, seen, waiting = {}, set(), [(name, "") for name in names]
    while waiting:
        name, extra = waiting.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if (key, extra) in seen:
            continue
        seen.add((key, extra))
        try:
            found[key] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # then it is missing here as well
            continue
        for line in found[key].requires or ():
            requirement = requirements.Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(requirement.name, e) for e in ("", *requirement.extras)]
    return found


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Runs the interpreter with those packages alone, in the checkout; returns the finished process."""
    site = tmp_path_factory.mktemp("site")
    for distribution in required(GIVEN).values():
        for file in distribution.files or ():  # one by one: folders such as google belong to several distributions
            if ".." in file.parts or file.suffix == ".pth":
                continue
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            if not (site / file).exists():
                (site / file).symlink_to(os.path.realpath(distribution.locate_file(file)))
    environment = {
        "PATH": os.environ["PATH"],
        # The same programs as elsewhere.
        **{name: os.environ.get(name, "") for name in ("JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS")},
        "HOME": str(site.parent),
        "PYTHONPATH": str(site),
        "PYTHONNOUSERSITE": "1",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": COMPILED,
    }

    def run(*arguments):
        command = [sys.executable, "-S", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)

    return run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Random images in an npz, and the smoke variant of CIFAR-10's config on it as JSON."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 40), ("test", 24)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
        arrays[f"{split}_labels"] = np.arange(count) % 10
    np.savez(folder / "images.npz", **arrays)
    config = to_plain(load_config(str(ROOT / "configs" / "cifar10.py:smoke")))
    config["data"].update(source="arrays", path=str(folder / "images.npz"), shape=(8, 8, 3))
    config["model"].update(SHRUNK)
    config["solver"].update(method="euler", num_steps=2)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def trained(python, data, tmp_path_factory):
    """A run of four steps, made in two goes of two; and what was said."""
    workdir, said = tmp_path_factory.mktemp("run"), []
    for steps in (2, 4):
        done = python(
            "main.py", "--mode=train", f"--config={data / 'config.json'}", f"--workdir={workdir}",
            f"--config.train.num_steps={steps}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        said.append(done)
    return workdir, said


def losses(workdir):
    return [json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_the_other_packages_are_really_missing(python):
    code = (
        "import importlib, pkgutil\n"
        "found = []\n"
        f"for name in {MISSING!r}:\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "        found.append(name)\n"
        "    except ModuleNotFoundError as error:\n"
        "        assert error.name == name\n"
        "import jax, flax, optax, diffrax, orbax.checkpoint\n"
        "print(found)"
    )
    done = python("-c", code)
    assert done.stdout.strip() == "[]", done.stderr[-2000:]


def test_trains_with_previews_as_arrays(trained):
    workdir, (first, _) = trained
    preview = np.load(workdir / "train" / "samples_0000002.npz")
    assert (preview["images"].shape, preview["images"].dtype) == ((40, 8, 8, 3), np.uint8)
    assert preview["labels"].tolist() == [*range(10)] * 4
    assert not list(workdir.rglob("*.png"))
    assert "step 2/2: loss" in first.stdout
    assert first.stderr.splitlines() == [
        "no pictures: Pillow and matplotlib not installed. What they would show is kept as npz"
    ]


def test_resumes_exactly_and_as_a_whole_installation_trains(trained, data, tmp_path):
    """Two steps and two more here are the four of a machine with grain and all else, number by number."""
    workdir, (_, second) = trained
    assert "resuming from step 2" in second.stdout
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": COMPILED}
    command = [sys.executable, "main.py", "--mode=train", f"--config={data / 'config.json'}", f"--workdir={tmp_path}"]
    subprocess.run(command, capture_output=True, check=True, cwd=ROOT, env=environment)
    assert (tmp_path / "train" / "samples_0000004.png").is_file()
    assert losses(workdir) == losses(tmp_path)


def test_samples_from_the_config_that_the_run_wrote(python, trained):
    workdir, _ = trained
    done = python("main.py", "--mode=sample", f"--config={workdir / 'config.json'}", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert np.load(workdir / "sample" / "samples.npz")["images"].shape == (10, 8, 8, 3)
    assert json.loads((workdir / "sample" / "report.json").read_text())["step"] == 4
    assert f"see {workdir / 'sample'}\n" in done.stdout
    assert not (workdir / "sample" / "grid.png").exists()


def test_evaluates_what_needs_no_other_package(python, trained):
    workdir, _ = trained
    done = python(
        "main.py", "--mode=eval", f"--config={workdir / 'config.json'}", f"--workdir={workdir}",
        "--config.eval.reversibility.on=False",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    page = (workdir / "eval" / "4" / "report.md").read_text()
    assert "not measured: scikit-learn is not installed" in page
    assert "![" not in page
    figures = json.loads((workdir / "eval" / "4" / "report.json").read_text())["generation"]["by_seed"]["1"]
    assert isinstance(figures["kid"], float)
    assert isinstance(figures["nfe"], float)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "configs/digits.py needs ml_collections"),
        (["--config={json}", "--config.train.num_workers=2"], "num_workers is 2, but grain"),
        (["--config={json}", "--config.data.source=image_folder"], "source=image_folder needs Pillow"),
        (["--config={json}", "--config.data.source=tfds"], "source=tfds needs Pillow"),
    ],
)
def test_training_without_what_it_needs_is_one_line(python, data, tmp_path, arguments, message):
    arguments = [a.format(json=data / "config.json") for a in arguments]
    done = python("main.py", "--mode=train", f"--workdir={tmp_path / 'run'}", *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("mode", "message"),
    [(("figures",), "needs Pillow and matplotlib"), (("pack", "--out={out}"), "packs need array_record")],
)
def test_modes_that_need_more_are_one_line(python, data, tmp_path, mode, message):
    out = tmp_path / "pack"
    name, *more = (part.format(out=out) for part in mode)
    done = python(
        "main.py", f"--mode={name}", f"--config={data / 'config.json'}", f"--workdir={tmp_path / 'run'}", *more
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not out.exists()
