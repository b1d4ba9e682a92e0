"""What densities are used for, on a model whose densities are known; and through --mode=eval."""

import dataclasses
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from sklearn.metrics import roc_auc_score

from scoreflow_jax.commands import evaluate, train
from scoreflow_jax.density_formula import formula_log_density
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.data import Data
from scoreflow_jax.evaluation.densities import formula_of, in_unit
from scoreflow_jax.evaluation.outliers import area_under_roc, outlying
from scoreflow_jax.model import Model
from scoreflow_jax.paths import LinearPath
from scoreflow_jax.programs import FormulaDensity
from scoreflow_jax.sampling import Solved, SolveStats
from tests.commands.runs import experiment_of, report
from tests.commands.test_family_modes import toy

STD = 0.45


class ClassGaussians(Model):
    """A model for which digits of class c are N(mean of c, STD^2 I)."""

    def __init__(self, experiment, means):
        self.experiment, self.means = experiment, means

    def solve(self, program, x, labels):
        assert type(program) is FormulaDensity
        formula, reference, table = program.formula, program.reference, program.table
        path = LinearPath()

        def predict(kind, x_t, t, condition):
            alpha, sigma = path.alpha(t)[:, None, None, None], path.sigma(t)[:, None, None, None]
            return sigma * (x_t - alpha * self.means[condition]) / (alpha**2 * STD**2 + sigma**2)

        x, labels, keys = (jnp.asarray(a) for a in (x, labels, program.keys))
        y = formula_log_density(predict, path, x, labels, keys, formula, reference=reference, table=table).y
        return Solved(tuple(np.asarray(v) for v in y), None, SolveStats(images=len(x), evaluations=[1], seconds=1.0))

    def log_densities(self, x):
        return scipy.stats.norm.logpdf(x[:, None], self.means[None], STD).sum((2, 3, 4))


@pytest.fixture(scope="module")
def known():
    experiment = experiment_of(
        "digits.py",
        eval__density_levels="logistic",
        eval__density_classifier__images=200,
        eval__density_classifier__calls=64,
        eval__outliers__images=50,
        eval__outliers__calls=256,
    )
    data = Data(experiment)
    images, labels = data.images("train")
    means = np.stack([images[labels == c].mean(0) for c in range(10)])
    return ClassGaussians(experiment, means), data


def test_the_class_found_is_the_most_likely_one(known):
    model, data = known
    figures = data.settings.density_classifier.measure(model, data, pathlib.Path())
    pixels, labels = (data.examples("test")[field][data.some(200)] for field in ("image", "label"))
    by_bayes = model.log_densities(data.experiment.scaling.to_images(pixels)).argmax(1) == labels
    assert by_bayes.mean() > 0.85
    assert figures["accuracy"] == pytest.approx(by_bayes.mean(), abs=0.03)
    assert figures["standard_error"] == pytest.approx(np.sqrt(0.1 * 0.9 / 200), rel=0.3)
    assert figures["calls_per_class"] == 64
    assert figures["trained_classifier"] > 0.95


def test_other_images_are_less_likely_as_the_closed_form_says(known, tmp_path):
    model, data = known
    figures = data.settings.outliers.measure(model, data, tmp_path)
    pixels = data.examples("test")["image"][data.some(50)]

    def exact(pixels):
        x = (pixels + 0.5) * 2 / 17 - 1  # the middles of the cells in which images are dequantized
        # The mean over a cell adds its variance.
        mean = model.log_densities(x) - 0.5 * 64 * (2 / 17) ** 2 / 12 / STD**2
        return scipy.special.logsumexp(mean, axis=1) - np.log(10)

    own = in_unit(exact(pixels), data)
    assert figures["bits_per_dim"] == pytest.approx(own.mean(), abs=0.03)
    for name, others in outlying(data, pixels, {}).items():
        kind = figures["kinds"][name]
        bits = in_unit(exact(others), data)
        assert kind["bits_per_dim"] == pytest.approx(bits.mean(), abs=0.05)
        assert kind["area"] == pytest.approx(area_under_roc(bits, own), abs=0.05)
    assert figures["kinds"]["inverted"]["area"] > 0.99
    assert (tmp_path / "outliers.png").exists()


def test_other_images_are_what_they_are_called(known):
    _, data = known
    pixels = data.examples("test")["image"][:30]
    others = outlying(data, pixels, {})
    assert others.keys() == {"inverted", "pixels shuffled", "uniform noise", "photographs"}
    np.testing.assert_array_equal(16 - others["inverted"], pixels)
    sort = lambda images: np.sort(images.reshape(30, -1), axis=1)  # noqa: E731
    np.testing.assert_array_equal(sort(others["pixels shuffled"]), sort(pixels))
    for images in others.values():
        assert images.shape == pixels.shape
        assert images.dtype == np.uint8
        assert images.max() <= 16
    photographs = others["photographs"].astype(float)
    assert photographs.std(axis=(1, 2, 3)).mean() > 0.5  # not plain grey
    assert photographs.mean(axis=(1, 2, 3)).std() > 1
    assert np.unique(others["uniform noise"]).size == 17


def test_area_under_roc_is_scikit_learns():
    rng = np.random.default_rng(0)
    above, below = rng.integers(2, 9, 50).astype(float), rng.integers(0, 7, 70).astype(float)
    wanted = roc_auc_score(np.repeat([1, 0], [50, 70]), np.concatenate([above, below]))
    assert area_under_roc(above, below) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("calls", "replicates", "spent"), [(256, 8, 256), (100, 8, 96), (20, 4, 16), (5, 2, 4), (2, 2, 4)]
)
def test_few_calls_have_few_replicates(calls, replicates, spent):
    formula = formula_of("logistic", calls)
    assert (formula.replicates, formula.num_calls) == (replicates, spent)


def test_eval_measures_by_ode_formula_and_chain(tmp_path):
    """DDPM on two moons: density by ODE and by formula, the chain's bound below, errors against cost, classes."""
    changes = {
        "path": {"num_scales": 200, "beta_first": 5e-4, "beta_last": 0.1},
        "times": {"count": 200},
        "train": {"num_steps": 400, "checkpoint_every": 400},
        "eval": {
            "generation": False, "reversibility": False, "residual": False, "straightness": False, "likelihood": "both",
            "likelihood_images": 500, "density_levels": "tabulated", "density_cost": True, "density_cost_images": 50,
            "density_cost_calls": (16, 256), "density_classifier": True, "density_classifier_images": 300,
        },
    }  # fmt: skip
    experiment = toy("ddpm", "moons", changes=changes)
    train.run_command(experiment, tmp_path)
    evaluate.run_command(experiment, tmp_path)
    figures = report(tmp_path / "eval" / "400")
    v = figures["likelihood"]
    # Two half circles of length pi each in noise of 0.1, each class one: about -(log(pi) + log(0.1 sqrt(2 pi e))) at the best.
    assert -1.6 < v["nats"] < -0.1
    assert abs(v["formula"]["gap_to_ode"]) < 0.4
    assert v["formula"]["nats"] == pytest.approx(v["nats"] + v["formula"]["gap_to_ode"], abs=1e-6)
    assert 0 <= v["formula"]["beyond_the_path"] < 0.2
    assert v["chain"]["nats"] < v["formula"]["nats"] + 2 * v["chain"]["standard_error"] + 0.1
    assert v["chain"]["nats"] > v["formula"]["nats"] - 1.0
    errors = {(r["method"], r["calls"]): r["error"] for r in figures["density_cost"]["rows"]}
    printed, tabulated = (errors[name, 256.0] for name in ("formula as printed", "tabulated levels"))
    assert tabulated < printed
    assert errors["tabulated levels", 256.0] < 0.5 * errors["tabulated levels", 16.0]
    assert {"ODE, exact divergence", "ODE, one probe", "DDPM's bound"} <= {name for name, _ in errors}
    assert figures["density_classifier"]["accuracy"] > 0.9
    page = (tmp_path / "eval" / "400" / "report.md").read_text()
    for words in (
        "density formula, a bound of the SDE",
        "error against cost",
        "Density as a classifier",
        "less the ODE",
    ):
        assert words in page
    assert (tmp_path / "eval" / "400" / "density_cost.png").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"eval__likelihood": "True"},
            "config.eval.likelihood.by is 'True', expected one of none, ode, density, both",
        ),
        ({"eval__density_levels": "sobol"}, "config.eval.density_levels is 'sobol', expected one of uniform, logistic"),
        ({"eval__likelihood__density_calls": 1}, "config.eval.likelihood.density_calls is 1, expected at least 2"),
        (
            {"eval__density_cost__calls": (16, 0)},
            "config.eval.density_cost.calls is .*, expected numbers of at least 1",
        ),
    ],
)
def test_settings_that_cannot_be_are_said(fields, message):
    with pytest.raises(UserError, match=message):
        experiment_of("digits.py", **fields)


def test_settings_of_before_are_read():
    for before, now in ((True, "ode"), (False, "none"), ("density", "density")):
        assert experiment_of("digits.py", eval__likelihood=before).eval.likelihood.by == now


def test_classes_and_images_are_needed(known, tmp_path):
    unconditional = dataclasses.replace(known[0].experiment, conditional=False)
    with pytest.raises(UserError, match="density_classifier compares classes, but the model has none"):
        unconditional.eval.density_classifier.check(unconditional)
    points = toy("vp", "moons")
    with pytest.raises(UserError, match="outliers is about images, but the data are points"):
        points.eval.outliers.check(points)
