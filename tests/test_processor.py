"""What XLA is told of the processor before JAX starts."""

import importlib.metadata
import os
import subprocess
import sys

import pytest

from scoreflow_jax import processor
from scoreflow_jax.processor import ONEDNN, has_bfloat16, prepare_bfloat16, xla_knows
from tests.conftest import ROOT


@pytest.fixture(params=["avx512_bf16", "amx_bf16"])
def able(request, tmp_path):
    """A processor with such products."""
    file = tmp_path / "able"
    file.write_text(f"processor\t: 0\nmodel name\t: x\nflags\t\t: fpu avx2 {request.param} sse\n")
    return file


def test_the_flag_is_set_where_the_processor_has_bfloat16_and_the_user_no_flags(able):
    environment = {}
    assert ONEDNN in prepare_bfloat16(environment, able)
    assert environment == {"XLA_FLAGS": ONEDNN}


def test_flags_of_the_users_own_stay_alone(able):
    environment = {"XLA_FLAGS": "--xla_cpu_enable_fast_math=true"}
    assert "XLA_FLAGS is set" in prepare_bfloat16(environment, able)
    assert environment == {"XLA_FLAGS": "--xla_cpu_enable_fast_math=true"}


def test_that_very_flag_of_the_users_is_nothing_to_speak_of(able):
    for flag in (ONEDNN, ONEDNN.replace("true", "false")):
        environment = {"XLA_FLAGS": f"--xla_cpu_enable_fast_math=true {flag}"}
        assert prepare_bfloat16(environment, able) is None
        assert environment == {"XLA_FLAGS": f"--xla_cpu_enable_fast_math=true {flag}"}


@pytest.mark.parametrize("platforms", ["cuda", "tpu,cpu"])
def test_nothing_changes_where_something_else_computes(able, monkeypatch, platforms):
    environment = {"JAX_PLATFORMS": platforms}
    assert prepare_bfloat16(environment, able) is None
    assert "XLA_FLAGS" not in environment
    plugin = importlib.metadata.EntryPoint("xla_cuda12", "jax_plugins.xla_cuda12", "jax_plugins")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [plugin] * (group == "jax_plugins"))
    assert prepare_bfloat16(environment := {}, able) is None
    assert environment == {}
    assert prepare_bfloat16(environment := {"JAX_PLATFORMS": "cpu"}, able) is not None
    assert environment["XLA_FLAGS"] == ONEDNN


COMMAND = """
import os, pathlib, sys
from scoreflow_jax import command_line, processor

def prepare(environment):
    print("before JAX" if "jax" not in sys.modules else "after JAX")
    return processor.prepare_bfloat16(environment, pathlib.Path(sys.argv[1]))

command_line.prepare_bfloat16 = prepare
try:
    command_line.main(["main.py", *sys.argv[2:]])
finally:
    print("XLA_FLAGS:", os.environ.get("XLA_FLAGS"))
"""


@pytest.mark.parametrize(
    ("mode", "field", "told"),
    [
        ("train", "model.dtype=bfloat16", True),
        ("train", "model.dtype=float32", False),
        ("sample", "model.dtype=bfloat16", False),
        ("sample", "solver.dtype=bfloat16", True),
    ],
)
def test_what_computes_in_bfloat16_sets_it_and_before_jax_starts(able, tmp_path, mode, field, told):
    """The command ends at its data, which are not there, but has begun by then."""
    arguments = ["--config=configs/cifar10_small.py:smoke", f"--mode={mode}", f"--config.{field}"]
    arguments += [
        f"--workdir={tmp_path / 'run'}",
        "--config.data.source=arrays",
        f"--config.data.path={tmp_path / 'no.npz'}",
    ]
    ended = subprocess.run(
        [sys.executable, "-c", COMMAND, str(able), *arguments],
        env={name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_PLATFORMS")},
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert ended.returncode == 2, ended.stderr
    lines = ended.stdout.splitlines()
    assert ("before JAX" in lines) == any("bfloat16 on this processor" in line for line in lines) == told
    assert lines[-1] == f"XLA_FLAGS: {ONEDNN if told else None}"


@pytest.mark.parametrize(
    "text", ["flags\t\t: fpu avx2 avx512f\n", "Features\t: fp asimd bf16\n", "model name: avx512_bf16\n", None]
)
def test_elsewhere_nothing_changes(tmp_path, text):
    file = tmp_path / "cpuinfo"
    if text is not None:
        file.write_text(text)
    environment = {}
    assert not has_bfloat16(file)
    assert prepare_bfloat16(environment, file) is None
    assert environment == {}


def test_a_flag_that_this_xla_does_not_know_is_not_set(able, monkeypatch):
    assert xla_knows("--xla_cpu_multi_thread_eigen=false")
    assert not xla_knows("--xla_cpu_make_it_faster=true")
    monkeypatch.setattr(processor, "ONEDNN", "--xla_cpu_make_it_faster=true")
    environment = {}
    assert prepare_bfloat16(environment, able) is None
    assert environment == {}


def test_this_jax_knows_the_flag():
    """A flag that XLA does not know ends the process."""
    code = "import jax, jax.numpy as jnp; x = jnp.ones((64, 64), jnp.bfloat16); print(jax.jit(jnp.dot)(x, x)[0, 0])"
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "XLA_FLAGS": ONEDNN},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout.split() == ["64"]
