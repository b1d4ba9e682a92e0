"""--mode=difference-flow: by kernels, a trained run and a classifier; what it writes, and what it says of mistakes."""

import json

import numpy as np
import pytest
from PIL import Image

from scoreflow_jax.command_line import load_config
from scoreflow_jax.commands import difference_flow
from scoreflow_jax.errors import UserError
from scoreflow_jax.experiment import build, resolve
from scoreflow_jax.plain_config import to_plain
from tests.commands.runs import experiment_of
from tests.conftest import ROOT

FILES = {"particles.npz", "panels.png", "animation.gif", "kl.png", "report.json"}


def flow(variant, scores="kernel", /, **changes):
    config = to_plain(load_config(f"{ROOT / 'configs/difference_flow.py'}:{variant}"))
    config["difference"].update(scores=scores, **changes)
    return build(resolve(config))


def run(experiment, workdir):
    """The report, and the arrays."""
    difference_flow.run_command(experiment, workdir)
    out = workdir / "difference_flow"
    assert {path.name for path in out.iterdir()} == FILES
    with np.load(out / "particles.npz") as arrays:
        return json.loads((out / "report.json").read_text()), dict(arrays)


def test_moons_from_noise(tmp_path):
    """The divergence falls to nothing; points are as near to the training points as held-out ones, and in both moons."""
    told, arrays = run(flow("moons", num_particles=400, num_data=2000, num_steps=100, num_frames=5), tmp_path)
    assert told["kl"][0]["kl"] > 3
    assert abs(told["kl"][-1]["kl"]) < 0.2
    assert told["moved"]["nearest_distance"] == pytest.approx(told["held_out"]["nearest_distance"], rel=0.4)
    points = arrays["points"]  # the table's own units: half circles of radius 1 around (0, 0) and (1, 0.5)
    radius = np.minimum(abs(np.hypot(*points.T) - 1), abs(np.hypot(*(points - [1, 0.5]).T) - 1))
    assert np.mean(radius < 0.3) > 0.95
    upper = abs(np.hypot(*points.T) - 1) < abs(np.hypot(*(points - [1, 0.5]).T) - 1)
    assert 0.35 < upper.mean() < 0.65
    assert arrays["frames"].shape == (5, 400, 2)
    assert Image.open(tmp_path / "difference_flow" / "animation.gif").n_frames == 5


@pytest.mark.parametrize("scores", ["kernel", "classifier"])
def test_smoke_on_digits_needs_no_run(scores, tmp_path):
    """In an empty workdir."""
    told, arrays = run(flow("smoke", scores), tmp_path)
    assert arrays["images"].shape == (20, 8, 8, 1)
    assert arrays["images"].dtype == np.uint8
    assert told["cost"]["steps"] == 4
    assert sum(told["moved"]["recognized_classes"]) == 20
    assert told.get("classifier_updates", 6) == 6


def test_from_one_class_to_another(tmp_path):
    """Threes become eights, and the first frame is threes of the training split."""
    experiment = flow("digits", source=3, target=8, num_particles=60, num_steps=80, num_frames=2)
    told, arrays = run(experiment, tmp_path)
    assert told["moved"]["recognized"] > 0.9
    source = experiment.split("train")
    threes = source.read(np.flatnonzero(source.labels() == 3))["image"]
    known = {image.tobytes() for image in experiment.scaling.to_pixels(experiment.scaling.to_images(threes))}
    assert all(image.tobytes() in known for image in arrays["start"])


@pytest.mark.parametrize(("against", "calls"), [("particles", 4), ("source", 8)])
def test_by_a_trained_run(against, calls, digits_run, tmp_path):
    experiment = experiment_of(
        "digits.py",
        difference__scores="learned",
        difference__against=against,
        difference__source=3,
        difference__target=8,
    )
    told, _ = run(experiment, digits_run)
    assert told["cost"]["network_calls"] == calls
    assert len(told["p"]["parameters_sha256"]) == 64
    other = experiment_of(
        "digits.py", difference__scores="learned", difference__against="source", difference__source=3,
        difference__target=8, difference__other=str(digits_run),
    )  # fmt: skip
    if against == "source":  # the same run given as the other is the same
        again, _ = run(other, digits_run)
        assert again["kl"] == told["kl"]


def test_mistakes_are_named(digits_run, tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        difference_flow.run_command(flow("smoke", "learned", target=3), tmp_path)
    with pytest.raises(
        UserError, match="target is None, but the model knows the densities of its classes: expected one from 0"
    ):
        difference_flow.run_command(experiment_of("digits.py", difference__scores="learned"), digits_run)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"scores": "oracle"}, "config.difference.scores is 'oracle', expected one of kernel, learned, classifier"),
        ({"source": 10}, "config.difference.source has 10, expected a class from 0 to 9"),
        ({"schedule": "cosine"}, "config.difference.schedule is 'cosine', expected one of constant"),
        ({"sigma_end": 0.0}, "config.difference.sigma_end is 0.0, expected a positive number"),
        ({"kl_bandwidth": 0.0}, "config.difference.kl_bandwidth is 0.0"),
        ({"num_frames": 1}, "config.difference.num_frames is 1, expected at least 2"),
        ({"classifier_width": 5}, "expected an even number"),
        ({"scores": "classifier", "against": "source"}, "a classifier is of the particles"),
        ({"other": "runs/x"}, "config.difference.other is the run of what is left"),
        ({"colour": 1}, "colour"),
    ],
)
def test_values_that_mean_nothing_are_refused(changes, match):
    config = to_plain(load_config(f"{ROOT / 'configs/difference_flow.py'}:smoke"))
    config["difference"].update(changes)
    with pytest.raises(UserError, match=match):
        build(config)


def test_configs_of_before_have_the_defaults():
    config = to_plain(load_config(str(ROOT / "configs/digits.py")))
    with_section = build(config).difference
    del config["difference"]
    assert build(config).difference == with_section
