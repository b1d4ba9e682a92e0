"""A table from file to report: what a small network learns of Gaussian classes, in closed form, and what the commands write."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

import scoreflow_jax
from scoreflow_jax.command_line import load_config
from scoreflow_jax.commands import evaluate, interpolate, sample, statistics, train, translate
from scoreflow_jax.commands import workdir as workdirs
from scoreflow_jax.data import read_all
from scoreflow_jax.errors import UserError
from scoreflow_jax.experiment import build, resolve
from scoreflow_jax.plain_config import to_plain
from tests.changes import set_fields
from tests.conftest import ROOT

MEANS = np.array([[100.0, 0.01], [130.0, 0.04]])
STDS = np.array([5.0, 0.004])
ENTROPY = 1 + np.log(2 * np.pi) + np.log(STDS).sum()  # of each class, in nats, in the table's own units


def write_table(path, seed=0, dimensions=2, count=6000):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    points = (MEANS[labels] + rng.normal(size=(count, 2)) * STDS)[:, :dimensions]
    rows = [
        ",".join([*map(repr, row), name])
        for row, name in zip(points.tolist(), np.array(["a", "b"])[labels], strict=True)
    ]
    path.write_text("\n".join([",".join([*"uv"[:dimensions], "label"]), *rows]) + "\n")
    return path


def config_of(path, smoke=False, **changes):
    config = to_plain(load_config(str(ROOT / "configs" / "table.py") + (":smoke" if smoke else "")))
    config["data"].update(path=str(path), test_share=0.3)
    return set_fields(config, changes)


def experiment_of(path, smoke=False, **changes):
    return build(resolve(config_of(path, smoke, **changes)))


SMALL = {
    "model__width": 64,
    "model__num_blocks": 2,
    "train__num_steps": 800,
    "train__ema_decay": 0.99,
    "train__sample_every": 0,
    "train__checkpoint_every": 800,
    "train__tensorboard": False,
    "solver__rtol": 1e-4,
    "solver__atol": 1e-4,
    "eval__generation__images": 300,
    "eval__reversibility__images": 100,
    "eval__reversibility__tolerances": (1e-3,),
    "sample__num_images": 2000,
    "translate__num_images": 200,
}


@pytest.fixture(scope="module")
def points_csv(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("table") / "points.csv")


@pytest.fixture(scope="module")
def run(points_csv, tmp_path_factory):
    """A run trained to a good fit: some seconds."""
    workdir = tmp_path_factory.mktemp("run")
    train.run_command(experiment_of(points_csv, **SMALL), workdir)
    return workdir


def report(folder):
    return json.loads((folder / "report.json").read_text())


def log_density(points, labels):
    """Of the classes that the table was drawn from."""
    z = (points - MEANS[labels]) / STDS
    return -0.5 * np.sum(z**2, axis=1) - np.log(2 * np.pi) - np.log(STDS).sum()


def test_training_says_what_the_points_are(run):
    facts = json.loads((run / "data.json").read_text())
    assert (facts["class_names"], facts["columns"], facts["kind"]) == (["a", "b"], ["u", "v"], "table")
    both = np.sqrt(STDS**2 + ((MEANS[1] - MEANS[0]) / 2) ** 2)  # of the two classes together
    np.testing.assert_allclose(facts["shift"], MEANS.mean(0), rtol=0.02)
    np.testing.assert_allclose(facts["scale"], both, rtol=0.02)
    assert Image.open(run / "train" / "samples_0000800.png").size[0] > 300


def test_held_out_points_are_as_likely_as_their_density_says(run, points_csv):
    """Within 0.1 nats of minus the entropy, of which 0.024 is the standard error of 1,800 points; nearer to their density."""
    experiment = experiment_of(points_csv, **SMALL, eval__translation__on=True, eval__classifier=True)
    evaluate.run_command(experiment, run)
    measured = report(run / "eval" / "800")
    likelihood = measured["likelihood"]
    assert likelihood["nats"] == pytest.approx(-ENTROPY, abs=0.1)
    test = read_all(experiment.split("test"))
    exact = log_density(workdirs.read_units(run).own(test["image"]).astype(np.float64), test["label"])
    assert likelihood["points"] == len(exact)
    assert -0.06 < likelihood["nats"] - exact.mean() < 0.02
    assert likelihood["nats_per_dim"] == pytest.approx(likelihood["nats"] / 2)
    assert likelihood["standard_error"] == pytest.approx(
        1 / np.sqrt(likelihood["points"]), rel=0.2
    )  # chi^2_2 / 2 has std 1
    assert not {"bits_per_dim", "dequantization", "warning"} & likelihood.keys()
    assert measured["rounding"] == "none: points of a table"
    assert measured["extractor"]["extractor"] == "standardized coordinates"
    generation = measured["generation"]
    assert generation["by_seed"]["1"]["frechet_distance"] < 0.02
    assert generation["by_seed"]["1"]["recognized"] > 0.99
    assert generation["by_seed"]["1"]["precision"] > 0.95
    translation = measured["translation"]["methods"]["latent"]
    assert translation["recognized_as_target"] > 0.99
    assert translation["cycle_error_swapped"] < 5e-3
    page = (run / "eval" / "800" / "report.md").read_text()
    assert "nats" in page
    assert "image" not in page.split("## How it was measured")[0]
    for name in ("grid.png", "translation_latent.png"):
        assert Image.open(run / "eval" / "800" / name).size[0] > 300


def test_samples_have_the_classes_means_and_deviations_in_own_units(run, points_csv):
    sample.run_command(experiment_of(points_csv, **SMALL, sample__likelihood=True), run)
    stored = np.load(run / "sample" / "samples.npz")
    assert stored.files == ["points", "labels", "log_likelihood"]
    points, labels = stored["points"], stored["labels"]
    assert (points.dtype, points.shape, labels.tolist()) == (np.float64, (2000, 2), [0, 1] * 1000)
    for c in (0, 1):
        # The error of a mean of 1,000 is 0.03 deviations.
        np.testing.assert_allclose((points[labels == c].mean(0) - MEANS[c]) / STDS, 0, atol=0.15)
        np.testing.assert_allclose(points[labels == c].std(0) / STDS, 1, atol=0.12)
    exact = log_density(points.astype(np.float64), labels)
    assert np.mean(np.abs(stored["log_likelihood"] - exact)) < 0.2
    assert report(run / "sample")["likelihood"] == {
        "unit": "nats, a density in the table's own units",
        "probe": "exact",
    }
    assert Image.open(run / "sample" / "grid.png").size[0] > 300


def test_generation_needs_no_table(run, points_csv):
    """Units are the run's, and shape and classes its config's."""
    config = config_of("nowhere.csv", **SMALL)
    experiment = build(resolve(config, json.loads((run / "config.json").read_text())))
    sample.run_command(experiment, run)
    again = np.load(run / "sample" / "samples.npz")["points"]
    assert abs(again[:, 0].mean() - MEANS[:, 0].mean()) < 2
    model = scoreflow_jax.load(run)
    standardized = model.generate(jax.random.key(0), labels=[0, 1] * 50)
    assert standardized.shape == (100, 2)
    np.testing.assert_allclose(workdirs.read_units(run).own(standardized), again[:100], rtol=1e-3, atol=1e-2)
    (run / "data.json").rename(run / "kept.json")
    try:
        with pytest.raises(UserError, match="does not say how the run standardized its table"):
            sample.run_command(experiment, run)
    finally:
        (run / "kept.json").rename(run / "data.json")


def test_translation_moves_points_by_the_difference_of_the_means(run, points_csv):
    """Between Gaussians of one covariance `latent` is exactly that shift."""
    translate.run_command(experiment_of(points_csv, **SMALL), run)
    stored = np.load(run / "translate" / "translations.npz")
    assert stored.files == ["source_points", "translated_points", "source_labels", "target_labels"]
    moved = (stored["translated_points"] - stored["source_points"]) / STDS
    expected = (MEANS[stored["target_labels"]] - MEANS[stored["source_labels"]]) / STDS
    assert np.median(np.abs(moved - expected)) < 0.15
    rows = {tuple(row) for row in np.genfromtxt(points_csv, delimiter=",", skip_header=1, usecols=(0, 1)).round(3)}
    assert {tuple(row) for row in stored["source_points"].astype(np.float64).round(3)} <= rows
    assert all(Image.open(run / "translate" / name).size[0] > 300 for name in ("grid.png", "path.png"))
    with pytest.raises(UserError, match="taken from its test split"):
        translate.run_command(experiment_of(points_csv, **SMALL, translate__images=".", translate__source=0), run)


def test_interpolation_begins_and_ends_at_rows_of_the_table(run, points_csv):
    interpolate.run_command(experiment_of(points_csv, **SMALL, interpolate__between="images"), run)
    walks = np.load(run / "interpolate" / "interpolations.npz")["points"]
    assert walks.shape == (8, 9, 2)
    rows = np.genfromtxt(points_csv, delimiter=",", skip_header=1, usecols=(0, 1)) / STDS
    for end in (walks[:, 0], walks[:, -1]):
        nearest = np.abs(end[:, None] / STDS - rows[None]).max(axis=2).min(axis=1)
        assert nearest.max() < 0.05
    assert Image.open(run / "interpolate" / "strip.png").size[0] > 300


def test_a_table_that_has_grown_is_standardized_as_the_run_knows_it(run, points_csv, tmp_path):
    grown = tmp_path / "grown.csv"
    grown.write_text(points_csv.read_text() + "".join(f"{1000 + i},{i},a\n" for i in range(300)))
    config = config_of(grown, **SMALL)
    known = json.loads((run / "data.json").read_text())
    experiment = workdirs.build_for("eval", load_config_of(config), run)
    assert experiment.split("test").facts["shift"] == known["shift"]
    assert build(resolve(config)).split("test").facts["shift"][0] > known["shift"][0] + 10
    workdirs.check_same_data(experiment.split("train"), None, run)
    other = write_table(tmp_path / "other.csv", seed=1)
    with pytest.raises(UserError, match="trained on other data: about 0% of its files .by name and size. or rows"):
        workdirs.check_same_data(experiment_of(other).split("train"), None, run)


def load_config_of(plain):
    from ml_collections import ConfigDict

    return ConfigDict(plain)


@pytest.mark.parametrize("dimensions", [1, 2])
def test_every_command_works_on_tables_of_any_width_without_classes(tmp_path, dimensions):
    path = write_table(tmp_path / "a.csv", dimensions=dimensions, count=600)
    path.write_text("\n".join(line.rsplit(",", 1)[0] for line in path.read_text().splitlines()) + "\n")
    of_classes_or_images = ("translation", "density_classifier", "outliers", "few_calls")
    once = ("sweep", "density_cost")
    parts = [p for p in evaluate.PARTS if p not in of_classes_or_images and (dimensions == 2 or p not in once)]
    on = {f"eval__{part}__on": True for part in parts if part != "likelihood"}  # which is on
    experiment = experiment_of(path, smoke=True, eval__sweep__methods=("dopri5",), **on)
    assert (experiment.spec.shape, experiment.conditional) == ((dimensions,), False)
    for command in (train, sample, interpolate, evaluate, statistics):
        command.run_command(experiment, tmp_path / "run")
    assert np.load(tmp_path / "run" / "sample" / "samples.npz")["points"].shape == (10, dimensions)
    measured = report(tmp_path / "run" / "eval" / "4")
    assert set(parts) <= measured.keys()
    assert "pixels_that_differ" not in measured["audit"]
    stored = np.load(tmp_path / "run" / "statistics" / "train.npz")
    np.testing.assert_allclose(stored["mu"], 0, atol=1e-5)  # of standardized coordinates
    np.testing.assert_allclose(np.diag(stored["sigma"]), 1, atol=1e-2)
    for name in ("sample/grid.png", "interpolate/strip.png", "eval/4/grid.png", "eval/4/truncation.png"):
        assert Image.open(tmp_path / "run" / name).size[0] > 300


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("eval__extractor", "inception", "Inception takes images, not points of a table: set it to pixels"),
        ("data__levels", 256, "config.data.levels is 256, but config.data.source is 'table': expected 0"),
        ("data__shape", (2, 2), "expected .dimension,., or .. to find it in the table"),
        ("model__name", "ncsnpp", "config.model.width is no field of this section"),
        ("data__base", {"source": "digits"}, "config.data.base.source is 'digits', but config.data.source 'table'"),
    ],
)
def test_what_means_nothing_for_points_is_refused(points_csv, field, value, match):
    with pytest.raises(UserError, match=match) as caught:
        experiment_of(points_csv, **{field: value})
    assert "\n" not in str(caught.value)
