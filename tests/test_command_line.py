"""The command line: what it parses, how fast it answers, and one line with exit code 2 for every mistake."""

import copy
import json
import re
import subprocess
import sys

import pytest

from scoreflow_jax import command_line, plain_config
from scoreflow_jax.commands import MODES
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.parts import PARTS
from scoreflow_jax.experiment import build
from scoreflow_jax.plain_config import config_hash, to_plain
from scoreflow_jax.sections import FAMILIES, SECTIONS
from scoreflow_jax.settings.fields import declared, default_of, nested
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def parse(*arguments):
    return command_line.parse(["main.py", *arguments])


def test_defaults_are_the_digits_and_their_workdir():
    mode, config, workdir, _ = parse("--mode=train")
    assert (mode, config["name"], str(workdir)) == ("train", "digits", "runs/digits")


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
    assert config["train"]["num_steps"] == 7
    assert config["optimizer"]["learning_rate"] == 1e-3
    assert config["data"]["flip"] is False
    assert config["model"]["channel_multipliers"] == (1, 1, 2)
    assert config["sample"]["labels"] == (3,)
    assert config["data"]["path"] == "/data"
    assert (config["solver"]["num_steps"], config["translate"]["source"]) == (50, 0)
    assert (config["name"], str(workdir)) == ("cifar10_smoke", "/tmp/x")


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


@pytest.mark.parametrize("argument", ["--help", "--help=eval.straightness"])
def test_help_imports_no_heavy_library(argument):
    code = (
        f"import sys; sys.argv = ['main.py', {argument!r}]\n"
        "from scoreflow_jax.command_line import main\n"
        "try: main()\n"
        "except SystemExit as stop: code = stop.code\n"
        "heavy = {'jax', 'tensorflow', 'flax', 'ml_collections', 'scoreflow_jax.experiment'} & set(sys.modules)\n"
        "print(code, sorted(heavy), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stderr.strip() == "0 []"


def test_help_names_every_mode_and_section(capsys):
    printed = helped(capsys, "--help")
    for mode in MODES:
        assert f"\n  {mode}" in printed
    for section in SECTIONS:
        assert section in printed


def helped(capsys, argument):
    with pytest.raises(SystemExit) as stop:
        command_line.main(["main.py", argument])
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("place", [*SECTIONS, *(f"eval.{part}" for part in PARTS), "path.vp", "model.mlp"])
def test_help_has_every_field_with_its_default_and_its_meaning(place, capsys):
    """As their classes state them."""
    printed = helped(capsys, f"--help={place}")
    section, _, inner = place.partition(".")
    if section in FAMILIES:
        fields = FAMILIES[section].fields(inner) if inner else FAMILIES[section].every()
        members = {f"{section}.{name}": found for name, (_, found) in fields.items()}
    else:
        owner = nested(SECTIONS[section], inner) if inner else SECTIONS[section]
        members = {f"{place}.{n}": f for n, f in declared(owner).items() if nested(owner, n) is None}
    assert members
    for name, member in members.items():
        assert f"--config.{name}\n" in printed
        assert member.metadata["meaning"].split()[0] in printed
        assert repr(default_of(member)) in printed


def test_help_names_the_values_of_a_config(digits_json):
    """Those that are not the defaults, of families and of parts too; 800 is no beginning of 800000. A family's values are
    those of the member that the config has."""
    for place, line in (
        ("train.num_steps", "800000 (at least 1); in this config 800"),
        ("model.base_channels", "128 (at least 4); in this config 32"),
        ("eval.translation.images", "50 (at least 1); in this config 1"),
        ("optimizer.b1", "0.9 (at least 0 and less than 1)"),
    ):
        _, _, _, more = parse(f"--config={digits_json}", f"--help={place}")
        assert line in [shown.strip() for shown in more["text"].splitlines()]
    _, _, _, more = parse(f"--config={digits_json}", "--config.train.num_steps=7", "--help=train.num_steps")
    assert "800000 (at least 1); in this config 7" in more["text"]
    _, _, _, more = parse("--config=configs/vp.py:moons", "--help=model")
    ncsnpp, mlp = more["text"].split("model.name=mlp")
    assert "default ncsnpp); in this config mlp" in ncsnpp
    assert ncsnpp.count("in this config") == 1
    assert "4 (at least 1); in this config 3" in mlp


def test_help_of_one_field_and_of_none(capsys):
    assert helped(capsys, "--help=eval.sweep.steps").count("--config.") == 1
    assert helped(capsys, "--help=path.beta_min").count("beta_min, of") == 2  # vp and sub_vp
    for wrong, match in (
        ("trian", "did you mean train?"),
        ("eval.sweeps", "did you mean sweep?"),
        ("path.x", "it has linear"),
    ):
        with pytest.raises(UserError, match=re.escape(match)):
            parse(f"--help={wrong}")


def test_absl_sees_none_of_our_flags_twice():
    """Parsing twice in one process, as tests and notebooks do, works."""
    parse("--mode=train", "--config.seed=1")
    assert parse("--mode=train", "--config.seed=2")[1]["seed"] == 2


def test_unknown_fields_are_user_errors():
    with pytest.raises(UserError):
        parse("--mode=train", "--config.sead=1")


OVERRIDES = (
    "--config.train.num_steps=7",
    "--config.optimizer.learning_rate=1e-3",
    "--config.optimizer.clip_norm=1",
    "--config.data.flip=False",
    "--config.train.tensorboard=true",
    "--config.model.channel_multipliers=(1, 1, 2)",
    "--config.sample.labels=(3,)",
    "--config.eval.seeds=[1, 2]",
    "--config.eval.sweep.methods=('euler',)",
    "--config.data.path=1234",
    "--config.data.name=7",
    "--config.solver.num_steps=50",
    "--config.translate.source=0",
    "--config.seed=3",
    "--config.name=other",
)


@pytest.fixture
def digits_json(tmp_path):
    """The config of the digits as a run writes it."""
    path = tmp_path / "digits.json"
    path.write_text(json.dumps(to_plain(command_line.load_config("configs/digits.py"))))
    return path


def test_a_json_config_is_the_same_config(digits_json):
    """Also with changes of every kind: the same experiment as of the file in Python."""
    for overrides in ((), OVERRIDES):
        _, by_json, workdir, _ = parse("--mode=train", f"--config={digits_json}", *overrides)
        _, by_python, same_workdir, _ = parse("--mode=train", *overrides)
        assert to_plain(by_json) == to_plain(by_python)
        assert build(by_json).config_hash == build(by_python).config_hash
        assert workdir == same_workdir


def test_changes_leave_what_was_read_alone(digits_json):
    config = plain_config.read_json(str(digits_json))
    before = copy.deepcopy(config)
    assert plain_config.changed(config, {"train.num_steps": "7"})["train"]["num_steps"] == 7
    assert config == before


def test_fields_that_an_older_json_lacks_can_be_changed(digits_json):
    config = json.loads(digits_json.read_text())
    del config["figures"], config["data"]["sampling"], config["sample"]["guidance"]
    digits_json.write_text(json.dumps(config))
    arguments = ("--config.figures.num_images=3", "--config.data.sampling=balanced", "--config.sample.guidance=2")
    _, config, _, _ = parse("--mode=train", f"--config={digits_json}", *arguments)
    assert (config["figures"], config["data"]["sampling"]) == ({"num_images": 3}, "balanced")
    assert config["sample"]["guidance"] == 2.0


def test_fields_that_may_be_none_become_so_again(digits_json):
    config = plain_config.read_json(str(digits_json))
    changed = plain_config.changed(config, {"translate.source": "3", "data.path": "x"})
    assert (changed["translate"]["source"], changed["data"]["path"]) == (3, "x")
    again = plain_config.changed(changed, {"translate.source": "None", "data.path": "None"})
    assert config_hash(to_plain(again)) == config_hash(to_plain(config))


@pytest.mark.parametrize("kind", ["Python", "JSON"])
def test_another_member_has_its_own_defaults(kind, digits_json):
    """Also one of fields that both members have; what is given for the new one counts, wherever it stands."""
    file = f"--config={digits_json}" if kind == "JSON" else "--config=configs/digits.py"
    changes = (
        "--config.path.beta_max=10",
        "--config.path.name=vp",
        "--config.times.name=grid",
        "--config.objective.name=interpolant",
    )
    config = parse("--mode=train", file, *changes)[1]
    assert config["path"] == {"name": "vp", "beta_max": 10.0}
    assert config["times"] == {"name": "grid"}
    assert config["objective"] == {"name": "interpolant"}
    built = build(config)
    assert (built.path.beta_max, built.path.beta_min, built.path.t_max, built.times.count) == (10.0, 0.1, 0.999, 1000)
    network = parse("--mode=train", file, "--config.model.name=mlp", "--config.model.width=64")[1]["model"]
    assert network == {"name": "mlp", "width": 64, "conditional": True}
    assert parse("--mode=train", file, "--config.path.name=linear")[1]["path"]["t_min"] == 0.0  # the same one


@pytest.mark.parametrize(
    ("argument", "match"),
    [
        ("--config.train.num_step=3", "did you mean train.num_steps?"),
        ("--config.model=3", "config.model is a section"),
        (
            "--config.train.num_steps=abc",
            "train.num_steps=abc is not a whole number; expected one as in its place, 800",
        ),
        ("--config.train.num_steps=2.5", "not a whole number"),
        ("--config.optimizer.learning_rate=fast", "learning_rate=fast is not a number"),
        ("--config.data.flip=maybe", "data.flip=maybe is not True or False"),
        ("--config.model.channel_multipliers=two", "not a tuple such as (1, 2)"),
        ("--config.model.channel_multipliers=(1,", "not a tuple"),
    ],
)
def test_mistakes_with_a_json_config_are_one_line(argument, match, digits_json, capsys):
    with pytest.raises(SystemExit) as stop:
        command_line.main(["main.py", "--mode=train", f"--config={digits_json}", argument])
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert match in printed


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (None, "no config file"),
        ("{", "cannot read"),
        ("[1]", "is no config"),
        ('{"name": "x", "seed": 0}', "is no config"),
        ('{"name": "x", "seed": 0, "model": 3}', "is no config"),
        ("[" * 100_000, "cannot read"),
    ],
)
def test_files_that_are_no_json_config(text, match, tmp_path):
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=match) as caught:
        parse("--mode=train", f"--config={path}")
    assert "\n" not in str(caught.value)


def test_a_python_config_without_ml_collections_says_what_to_do(monkeypatch):
    found = command_line.importlib.util.find_spec
    missing = lambda name, *rest: None if name == "ml_collections" else found(name, *rest)
    monkeypatch.setattr(command_line.importlib.util, "find_spec", missing)
    with pytest.raises(
        UserError, match="needs ml_collections.*--mode=config --config=configs/digits.py --out=config.json"
    ):
        parse("--mode=train")


def test_mode_config_writes_json_that_is_the_same_config(tmp_path, capsys):
    out = tmp_path / "new" / "digits.json"
    with pytest.raises(SystemExit) as stop:
        command_line.main(["main.py", "--mode=config", f"--out={out}", "--config.train.num_steps=9"])
    assert stop.value.code == 0
    assert f"wrote {out}" in capsys.readouterr().out
    assert to_plain(parse("--mode=train", f"--config={out}")[1]) == to_plain(
        parse("--mode=train", "--config.train.num_steps=9")[1]
    )
    with pytest.raises(SystemExit) as stop:
        command_line.main(["main.py", "--mode=config", f"--out={tmp_path}"])
    assert stop.value.code == 2
    assert "expected a file such as config.json" in capsys.readouterr().err


@pytest.mark.parametrize("as_json", [False, True])
def test_another_part_by_name_comes_with_its_own_fields(as_json, digits_json):
    """What the part before was told is left behind; what the command line gives is kept, also where the file says None."""
    file = str(digits_json) if as_json else "configs/digits.py"
    arguments = (
        "--config.path.name=vp",
        "--config.path.beta_max=15.0",
        "--config.objective.name=denoising_score_matching",
    )
    more = ("--config.parameterization.predicts=noise", "--config.times.name=logit_normal", "--config.times.mean=0.5")
    _, config, _, _ = parse("--mode=train", f"--config={file}", *arguments, *more)
    experiment = build(config)
    assert (experiment.path.beta_max, experiment.path.t_max) == (15.0, 0.999)
    assert (experiment.objective.weight, experiment.times.mean, experiment.times.std) == ("variance", 0.5, 1.0)
    _, config, _, _ = parse("--mode=train", f"--config={file}", "--config.path.t_max=0.9")
    assert build(config).path.t_max == 0.9
    assert build(config).objective.weight_exponent == 1.0


def test_flags_that_may_be_left_out_and_switches():
    assert parse("--mode=status", "--workdir=x")[3] == {}
    assert parse("--mode=status", "--workdir=x", "--verify")[3] == {"verify": "yes"}
    assert parse("--mode=status", "--verify", "--config=configs/digits.py:smoke")[3] == {"verify": "yes"}
    assert parse("--mode=sample", "--out=x")[3] == {"out": "x"}
    assert parse("--mode=eval")[3] == {}
    for arguments, match in (
        (("--mode=train", "--verify"), "--verify is a flag of --mode=status, not of --mode=train"),
        (
            ("--mode=train", "--out=x"),
            r"--out is a flag of --mode=pack\|config\|publish\|sample.*, not of --mode=train",
        ),
        (("--mode=status", "--verify=no"), "--verify is a switch and takes no value: leave out =no"),
        (("--mode=pack",), "--mode=pack needs --out=DIR"),
    ):
        with pytest.raises(UserError, match=match):
            parse(*arguments)


def test_a_home_is_meant_in_every_path(monkeypatch, tmp_path):
    """A folder that is called ~ never appears."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.py").write_text((ROOT / "configs" / "digits.py").read_text())
    assert parse("--mode=train", "--workdir=~/run", "--config=~/mine.py")[2] == tmp_path / "run"
    assert parse("--mode=status", "--workdir=~/run")[2] == tmp_path / "run"
    with pytest.raises(UserError, match="no config file ~/other.json"):
        parse("--mode=train", "--config=~/other.json")
    with pytest.raises(UserError, match="there is no folder ~nobody-of-that-name/run"):
        parse("--mode=train", "--workdir=~nobody-of-that-name/run")
