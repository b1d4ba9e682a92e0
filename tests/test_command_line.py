"""The command line: what it parses, how fast it answers, and one line with exit code 2 for every mistake."""

import subprocess
import sys

import pytest

from scoreflow_jax import command_line
from scoreflow_jax.commands import MODES
from scoreflow_jax.errors import UserError
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def parse(*arguments):
    return command_line.parse(["main.py", *arguments])


def test_defaults_are_the_digits_and_their_workdir():
    mode, config, workdir, _ = parse("--mode=train")
    assert (mode, config.name, str(workdir)) == ("train", "digits", "runs/digits")


def test_overrides_get_the_type_of_their_field():
    _, config, workdir, _ = parse(
        "--mode=sample",
        "--config=configs/cifar10.py:smoke",
        "--workdir",
        "/tmp/x",
        "--config.train.num_steps=7",
        "--config.optimizer.learning_rate=1e-3",
        "--config.data.flip=False",
        "--config.model.channel_multipliers=(1, 1, 2)",
        "--config.sample.labels=(3,)",
        "--config.data.path=/data",
        "--config.solver.num_steps=50",
        "--config.translate.source=0",
    )
    assert config.train.num_steps == 7
    assert config.optimizer.learning_rate == 1e-3
    assert config.data.flip is False
    assert config.model.channel_multipliers == (1, 1, 2)
    assert config.sample.labels == (3,)
    assert (config.data.path, config.solver.num_steps, config.translate.source) == ("/data", 50, 0)
    assert (config.name, str(workdir)) == ("cifar10_smoke", "/tmp/x")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ([], "no --mode; expected --mode=train|sample"),
        (["--mode=trian"], "unknown mode 'trian'; did you mean train?"),
        (
            ["--mode=train", "--config.train.num_step=3"],
            "'train.num_step' in configs/digits.py; did you mean train.num_steps?",
        ),
        (["--mode=train", "--config.learning_rate=3"], "did you mean optimizer.learning_rate?"),
        (["--mode=train", "--config.model=3"], "config.model is a section"),
        (["--mode=train", "--config.train.num_steps=abc"], "train.num_steps=abc"),
        (["--mode=train", "--config.train.num_steps=2.5"], "train.num_steps=2.5"),
        (["--mode=train", "--config.optimizer.learning_rate=fast"], "learning_rate=fast"),
        (["--mode=train", "--config.data.flip=maybe"], "data.flip=maybe"),
        (["--mode=train", "--config.model.channel_multipliers=two"], "channel_multipliers"),
        (["--mode=train", "--config=configs/digit.py"], "did you mean configs/digits.py?"),
        (["--mode=train", "--config=configs/digits.py:tiny"], "no variant 'tiny'"),
        (["--mode=train", "--config=requirements.txt"], "not a Python file"),
        (["--mode=train", "--config=tests/oracles.py"], "cannot load"),
        (["--mode=train", "--wrokdir=x"], "did you mean workdir?"),
        (["--mode=train", "--mode"], "--mode has no value"),
        (["--mode=train", "extra"], "unexpected argument 'extra'"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments, match, capsys):
    with pytest.raises(SystemExit) as stop:
        command_line.main(["main.py", *arguments])
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("error: ")
    assert match in printed.err


def test_errors_of_a_command_are_one_line_too():
    """As a user sees them, from a process of their own."""
    result = subprocess.run(
        [sys.executable, "main.py", "--mode=sample", "--workdir=/nonexistent/run"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "error: /nonexistent/run holds no run (no config.json): train first, or give the workdir of a run"
    ]


def test_help_names_every_mode_and_imports_no_heavy_library():
    code = (
        "import sys; sys.argv = ['main.py', '--help']\n"
        "from scoreflow_jax.command_line import main\n"
        "try: main()\n"
        "except SystemExit as stop: code = stop.code\n"
        "heavy = {'jax', 'tensorflow', 'flax', 'numpy', 'scoreflow_jax.models', 'scoreflow_jax.experiment'} & set(sys.modules)\n"
        "print(code, sorted(heavy), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stderr.strip() == "0 []"
    for mode in MODES:
        assert f"\n  {mode}" in result.stdout


def test_absl_sees_none_of_our_flags_twice():
    """Parsing twice in one process, as tests and notebooks do, works."""
    parse("--mode=train", "--config.seed=1")
    assert parse("--mode=train", "--config.seed=2")[1].seed == 2


def test_unknown_fields_are_user_errors():
    with pytest.raises(UserError):
        parse("--mode=train", "--config.sead=1")
