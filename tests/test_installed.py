"""What `pip install` makes of this repository: all of the package, its configs inside it, one command; used anywhere."""

import os
import pathlib
import subprocess
import sys
import zipfile

import pytest

import scoreflow_jax
from scoreflow_jax import config_files
from scoreflow_jax.command_line import DEFAULT_CONFIG, parse
from scoreflow_jax.config_files import load_config
from scoreflow_jax.errors import UserError
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built by pip, with setuptools of the package index."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "source").mkdir()
    for name in (
        "scoreflow_jax",
        "configs",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    ):  # pip leaves build/ where it builds
        (folder / "source" / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--disable-pip-version-check", "-w", folder]
    done = subprocess.run([*command, folder / "source"], capture_output=True, text=True)
    if done.returncode and ("No matching distribution" in done.stderr or "ConnectionError" in done.stderr):
        pytest.skip("no package index to take setuptools from")
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder that it is installed in, with scoreflow in bin/."""
    folder = tmp_path_factory.mktemp("installed")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--disable-pip-version-check",
        "--target",
        folder,
    ]
    subprocess.run([*command, wheel], check=True)
    return folder


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder that is no checkout; afterwards `configs` is the project's for others."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    load_config(str(ROOT / "configs" / "digits.py"))


def scoreflow(installed, folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, installed / "bin" / "scoreflow", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def files_of(folder, prefix):
    found = (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {f"{prefix}/{p.relative_to(folder).as_posix()}" for p in found}


def test_a_wheel_has_the_package_its_configs_and_no_other_name(wheel):
    with zipfile.ZipFile(wheel) as file:
        held = set(file.namelist())
        own = f"scoreflow_jax-{scoreflow_jax.__version__}.dist-info"
        assert "scoreflow = scoreflow_jax.command_line:main" in file.read(f"{own}/entry_points.txt").decode()
    package = {name for name in held if not name.startswith(f"{own}/")}
    assert package == files_of(ROOT / "scoreflow_jax", "scoreflow_jax") | files_of(
        ROOT / "configs", "scoreflow_jax/configs"
    )


def test_the_command_finds_configs_and_what_they_share_anywhere(installed, elsewhere):
    """Beside a package of the user's that is called configs as well, and a config of theirs that is made of ours."""
    (elsewhere / "configs").mkdir()
    (elsewhere / "configs" / "__init__.py").write_text("raise RuntimeError('somebody else')")
    (elsewhere / "mine.py").write_text(
        "from configs import common\n\ndef get_config(variant=''):\n    return common.base('mine')\n"
    )
    for name, expected in (("cifar10_small:smoke", "cifar10_small_smoke"), ("mine.py", "mine")):
        done = scoreflow(installed, elsewhere, "--mode=config", f"--config={name}", "--out=made.json")
        assert done.returncode == 0, done.stderr
        assert load_config("made.json")["name"] == expected
    done = scoreflow(installed, elsewhere, "--help")
    assert done.stdout.startswith("usage: scoreflow --mode=MODE")
    done = scoreflow(installed, elsewhere, "--config=cifar11", "--mode=train")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "error: no config file cifar11; did you mean cifar10?" in done.stderr


def test_an_installed_package_holds_its_models(installed, elsewhere):
    done = scoreflow(installed, elsewhere, "--workdir=pretrained:nothing", "--mode=sample")
    assert "expected one of cifar10-small, digits-flow-map" in done.stderr


@pytest.mark.parametrize("given", ["digits", "digits.py", "configs/digits.py", "configs/digits"])
def test_names_mean_the_projects_configs_from_any_folder(given, elsewhere):
    assert load_config(given) == load_config(str(ROOT / "configs" / "digits.py"))
    assert load_config(f"{given}:full")["train"] != load_config(given)["train"]


def test_a_file_of_the_users_wins_but_not_against_a_bare_name(elsewhere):
    """As configs/digits.py of a checkout does; a folder or a file without suffix is no config."""
    (elsewhere / "configs").mkdir()
    (elsewhere / "configs" / "digits.py").write_text("def get_config(variant=''):\n    return {'name': 'theirs'}\n")
    (elsewhere / "digits").write_text("no config")
    assert load_config("configs/digits.py")["name"] == "theirs"
    assert load_config("digits")["name"] == "digits"
    _, config, workdir, _ = parse(["scoreflow", "--mode=train", f"--config={DEFAULT_CONFIG}"])
    assert (config["name"], workdir) == ("theirs", pathlib.Path("runs/theirs"))


def test_a_checkouts_config_shares_with_its_neighbours(elsewhere):
    """`configs` is the folder that a config lies in, where that is one, and the project's for all others."""
    (elsewhere / "configs").mkdir()
    (elsewhere / "configs" / "__init__.py").write_text("")
    (elsewhere / "configs" / "common.py").write_text("NAME = 'of this checkout'\n")
    for place in ("configs/new.py", "new.py"):
        (elsewhere / place).write_text(
            "from configs import common\n\ndef get_config(variant=''):\n"
            "    from configs import common as again\n    assert again is common\n"
            "    return {'name': getattr(common, 'NAME', 'of the project')}\n"
        )
    assert load_config("configs/new.py")["name"] == "of this checkout"
    assert load_config("new.py")["name"] == "of the project"
    assert load_config("configs/new.py")["name"] == "of this checkout"


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ("digit", "no config file digit; did you mean digits"),
        ("configs/digit.py", "no config file configs/digit.py; did you mean configs/digits.py"),
        ("other/digits.py", "no config file other/digits.py"),
        ("common", "no config file common"),
        (".", "no config file ."),
    ],
)
def test_a_name_that_is_none(given, match, elsewhere):
    with pytest.raises(UserError, match=match):
        load_config(given)


def test_a_folder_of_configs_needs_no_init(elsewhere):
    (elsewhere / "configs").mkdir()
    (elsewhere / "configs" / "common.py").write_text("NAME = 'theirs'\n")
    (elsewhere / "configs" / "mine.py").write_text(
        "from configs import common\n\ndef get_config(variant=''):\n    return {'name': common.NAME}\n"
    )
    assert load_config("configs/mine.py")["name"] == "theirs"


def test_every_config_is_named():
    files = {path.stem for path in (ROOT / "configs").glob("*.py")} - {"__init__", "common"}
    assert set(config_files.names()) == files
