"""What a run's solver may be: the grid that it measures and keeps, methods of several steps, presets."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from scoreflow_jax import load, sums
from scoreflow_jax.command_line import parse
from scoreflow_jax.commands.reports import report_head
from scoreflow_jax.errors import UserError
from scoreflow_jax.experiment import build, resolve
from scoreflow_jax.grids import PARTS
from scoreflow_jax.model import KEPT_GRID
from scoreflow_jax.ode import Solver
from scoreflow_jax.plain_config import changed
from scoreflow_jax.programs import Encode, Generate
from scoreflow_jax.settings.solve import PRESETS
from tests.commands.runs import experiment_of


@pytest.fixture
def run(digits_run, tmp_path):
    """A copy of a trained run, to which a grid may be added."""
    return pathlib.Path(shutil.copytree(digits_run, tmp_path / "run"))


def test_a_run_keeps_its_grid(run, monkeypatch):
    model = load(run)
    solver = Solver(method="heun", num_steps=6, grid="measured")
    noise, labels = np.asarray(model.source_points(jax.random.key(3), 8)), np.arange(8) % model.num_classes
    found = model.with_solver(solver).solve(Generate(), noise, labels).y
    kept = json.loads((run / KEPT_GRID).read_text())
    assert len(kept["times"]) == PARTS + 1
    assert (kept["method"], kept["examples"], kept["parameters_sha256"]) == ("bosh3", 64, model.fingerprint)
    # The grid is that of the errors: heun by hand at its times.
    stated = Solver(
        method="heun",
        num_steps=6,
        between=tuple(np.interp(np.arange(1, 6) / 6, np.linspace(0, 1, PARTS + 1), kept["times"])),
    )
    np.testing.assert_allclose(model.with_solver(stated).solve(Generate(), noise, labels).y, found, atol=1e-4)
    again = load(run).with_solver(solver)
    monkeypatch.setattr(Solver, "local_errors", lambda *_, **__: pytest.fail("measured again"))
    np.testing.assert_allclose(again.solve(Generate(), noise, labels).y, found, atol=1e-6)


def test_a_grid_is_of_one_batch_and_of_the_models_own_parameters(run):
    """Times of other parameters are not taken over, and a drift without any error has even ones."""
    model = load(run, batch_size=8)
    first = model.parts
    assert json.loads((run / KEPT_GRID).read_text())["examples"] == 8
    other = model.with_params(jax.tree.map(lambda p: 1.5 * p, model.params))
    assert np.abs(other.parts - first).max() > 1e-3
    still = model.with_params(jax.tree.map(np.zeros_like, model.params))
    np.testing.assert_allclose(still.parts, np.linspace(0, 1, PARTS + 1), atol=1e-6)
    np.testing.assert_array_equal(load(run).parts, first)
    assert json.loads((run / KEPT_GRID).read_text())["parameters_sha256"] == model.fingerprint


@pytest.mark.parametrize("what", ["damaged", "of other parameters"])
def test_a_grid_that_is_not_the_runs_is_measured_anew(run, what):
    expected = load(run).parts
    kept = json.loads((run / KEPT_GRID).read_text())
    if what == "damaged":
        (run / KEPT_GRID).write_text(json.dumps({**kept, "times": [0.0] * (PARTS + 1)}))
    else:
        del kept["sha256"]
        sums.write_json(run / KEPT_GRID, {**kept, "parameters_sha256": "0" * 64, "times": [0.0] * (PARTS + 1)})
    np.testing.assert_allclose(load(run).parts, expected, atol=1e-6)
    np.testing.assert_allclose(json.loads((run / KEPT_GRID).read_text())["times"], expected, atol=1e-6)


def test_one_program_serves_all_numbers_of_steps(run):
    model = load(run)
    noise = np.asarray(model.source_points(jax.random.key(3), 8))
    for method, grid in (("heun", "edm"), ("unipc2", "edm"), ("ab3", "uniform")):
        before = len(model._programs)
        for steps in (3, 5):
            model.with_solver(Solver(method=method, grid=grid, num_steps=steps)).solve(Generate(), noise, 0)
        assert len(model._programs) == before + 1


def test_translations_and_encodings_by_several_steps(run):
    model = load(run)
    images = np.clip(model.generate(0, [1, 2, 3, 4]), -1, 1)
    exact = model.translate(images, [1, 2, 3, 4], 0)
    several = model.with_solver(Solver(method="unipc3", num_steps=100))
    assert np.abs(several.translate(images, [1, 2, 3, 4], 0) - exact).mean() < 0.02
    assert np.abs(several.solve(Encode(), images, [1, 2, 3, 4]).y - model.encode(images, [1, 2, 3, 4])).mean() < 0.02
    with pytest.raises(UserError, match="follows that of one"):
        several.translate(images, [1, 2, 3, 4], 0, method="difference")
    with pytest.raises(UserError, match="likelihoods integrate more than the drift"):
        several.log_likelihood(images, [1, 2, 3, 4])
    by_any = model.with_solver(Solver(method="ab3", num_steps=100))
    exact = model.translate(images, [1, 2, 3, 4], 0, method="difference")
    assert np.abs(by_any.translate(images, [1, 2, 3, 4], 0, method="difference") - exact).mean() < 0.02
    np.testing.assert_allclose(
        by_any.log_likelihood(images, 0, key=1), model.log_likelihood(images, 0, key=1), rtol=0.05
    )


# Presets.


def solver_of(*flags):
    _, config, _, _ = parse(["main.py", "--mode=sample", "--config=configs/digits.py:smoke", *flags])
    return build(resolve(config)).solver


def test_a_preset_takes_the_place_of_defaults():
    found = solver_of("--config.solver.preset=fast")
    assert {n: getattr(found, n) for n in PRESETS["fast"]} == PRESETS["fast"]
    assert found.preset == "fast"
    assert Solver.of_preset("fast") == dataclasses.replace(found, rtol=1e-5, atol=1e-5)


def test_explicit_fields_win():
    """Those that differ from their defaults, and on the command line defaults too: what remains is not the preset then."""
    assert solver_of("--config.solver.preset=fast", "--config.solver.num_steps=3").num_steps == 3
    found = solver_of("--config.solver.preset=fast", "--config.solver.method=dopri5")
    assert (found.method, found.num_steps, found.preset) == ("dopri5", PRESETS["fast"]["num_steps"], None)
    assert experiment_of("digits.py", solver__preset="fast", solver__num_steps=4).solver.num_steps == 4
    assert (Solver.of_preset("fast", num_steps=4).num_steps, Solver.of_preset("fast", num_steps=4).preset) == (4, None)
    assert experiment_of("digits.py", solver__preset="fast", solver__num_steps=4).solver.preset is None
    assert solver_of("--config.solver.preset=fast", "--config.solver.method=heun").preset is None
    assert Solver.of_preset("fast", rtol=1e-3).preset == "fast"
    with pytest.raises(UserError, match="config.solver.preset is 'quick', expected one of fast"):
        experiment_of("digits.py", solver__preset="quick")


def test_a_preset_that_is_given_takes_the_place_of_what_a_run_has_stored():
    stored = {"solver": {"method": "midpoint", "num_steps": 40, "grid": "uniform", "preset": None, "rtol": 1e-3}}
    named = changed(stored, {"solver.preset": "fast"})["solver"]
    assert named == {**stored["solver"], **PRESETS["fast"], "preset": "fast"}
    other = changed(stored, {"solver.preset": "fast", "solver.num_steps": "40"})["solver"]
    assert other == {**named, "num_steps": 40, "preset": None}
    assert changed({"solver": named}, {"solver.rtol": "1e-4"})["solver"] == {**named, "rtol": 1e-4}


def test_a_report_says_that_a_preset_was_used(run):
    model = load(run)
    fast = report_head(model.with_solver(Solver.of_preset("fast")), "sample", seed=0)["solver"]
    assert (fast["preset"], fast["grid"]) == ("fast", PRESETS["fast"]["grid"])
    assert "preset" not in report_head(model, "sample", seed=0)["solver"]
    adaptive = Solver.of_preset("fast").adaptive
    assert (adaptive.preset, adaptive.grid, adaptive.num_steps) == (None, "uniform", None)


@pytest.mark.parametrize("solver", [{"method": "unipc2"}, {"method": "heun", "grid": "edm"}])
def test_a_path_without_noise_levels_is_refused(solver):
    changes = {f"solver__{name}": value for name, value in {"num_steps": 4, **solver}.items()}
    experiment_of("digits.py", **changes)
    learned = {"objective": {"name": "interpolant"}, "path__name": "learned"}
    with pytest.raises(UserError, match="goes by noise levels, but those of a learned path"):
        experiment_of("digits.py", **changes, **learned)
