"""Parts of an evaluation on models whose drift is written down: what is counted, what is compared, and the way back."""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from scoreflow_jax.data import read_all
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation import samples
from scoreflow_jax.evaluation.data import Data
from scoreflow_jax.evaluation.dealing import deal
from scoreflow_jax.evaluation.densities import HeldOut
from scoreflow_jax.evaluation.report import page
from scoreflow_jax.evaluation.report import summary as section
from scoreflow_jax.metrics.frechet import Gaussian, frechet_distance
from scoreflow_jax.ode import Solver
from scoreflow_jax.paths import LinearPath, VPPath
from tests import oracles
from tests.known import known_model

MEANS, STDS = np.random.default_rng(0).normal(size=(8, 2)), np.linspace(0.4, 1.6, 8)


def standing(x, t, label):
    """No drift at all."""
    return jnp.zeros_like(x)


@pytest.mark.parametrize(("guidance", "calls"), [(1.0, 8), (3.0, 16)])
def test_nfe_counts_both_calls_of_a_guided_evaluation(tmp_path, guidance, calls):
    """Four steps of Heun's method are eight evaluations of the field."""
    fields = {"solver__method": "heun", "solver__num_steps": 4, "sample__guidance": guidance}
    fields |= {"eval__generation__images": 20, "eval__batch_size": 20, "eval__seeds": (1,), "eval__classifier": False}
    fields |= {"eval__sweep__methods": ("heun",), "eval__sweep__steps": (4,), "eval__sweep__tolerances": ()}
    model = known_model(standing, **fields, eval__sweep__images=20)
    data = Data(model.experiment)
    figures = data.settings.generation.measure(model, data, tmp_path)["by_seed"]["1"]
    assert figures["nfe"] == figures["cost"]["nfe_mean"] == calls
    assert [row["nfe"] for row in data.settings.sweep.measure(model, data, tmp_path)["rows"]] == [calls]


@pytest.mark.parametrize("system", ["rectified_flow", "ve"])
def test_the_error_of_no_drift_is_the_velocity(tmp_path, system):
    """E|alpha' x1 + sigma' x0|^2 / D with x0 ~ N(0, 1), also where solves start from noise of another scale."""
    model = known_model(standing, system, eval__residual__images=500, eval__residual__noises=8, eval__residual__times=5)
    data, path = Data(model.experiment), model.experiment.path
    points, _ = data.images("test", data.some(500))
    figures = data.settings.residual.measure(model, data, tmp_path)
    for t, found in zip(figures["times"], figures["mean_square"], strict=True):
        time, one, none = jnp.full((1,), t, jnp.float32), jnp.ones((1, 1)), jnp.zeros((1, 1))
        of_noise, of_data = (float(path.velocity(time, *ends)[0, 0]) ** 2 for ends in ((one, none), (none, one)))
        # 8,000 squares of N(0, 1), of deviation sqrt(2), and their products with the data.
        assert found == pytest.approx(of_noise + of_data * np.mean(points**2), rel=0.1)


def test_translations_go_back_by_swapped_labels(tmp_path):
    """`latent` exactly; the paper's `difference` only by its own ODE in reverse, between classes of other widths."""
    drift = oracles.class_gaussians(LinearPath(), MEANS, STDS)
    fields = {"solver__rtol": 1e-6, "solver__atol": 1e-6, "eval__translation__images": 20, "eval__classifier": False}
    model = known_model(drift, **fields, eval__translation__pairs=((1, 6), (4, 0)))
    methods = model.experiment.eval.translation.measure(model, Data(model.experiment), tmp_path)["methods"]
    assert methods["latent"]["cycle_error_swapped"] < 1e-3
    assert methods["difference"]["cycle_error_reversed"] < 1e-3
    assert methods["difference"]["cycle_error_swapped"] > 0.05
    # Four steps of Heun's method: encoding and decoding by 8 evaluations each, or 8 evaluations of two calls.
    few = model.with_solver(Solver(method="heun", num_steps=4))
    methods = few.experiment.eval.translation.measure(few, Data(few.experiment), tmp_path)["methods"]
    assert {name: figures["nfe"] for name, figures in methods.items()} == {"latent": 16, "difference": 16}


def test_several_probes_and_their_error_are_told(tmp_path):
    """dx/dt = a (x_2, x_1) has no divergence, and a probe's estimate of it is 2 a e_1 e_2: +a or -a twice, whatever x."""
    a, count, probes = 0.5, 400, 16
    fields = {
        "eval__likelihood__images": count,
        "eval__likelihood__probes": probes,
        "eval__likelihood__probe": "rademacher",
    }
    model = known_model(lambda x, t, label: a * x[:, ::-1], **fields)
    figures = model.experiment.eval.likelihood.measure(model, Data(model.experiment), pathlib.Path())
    assert figures["probes"] == probes
    # The variance of 16 numbers is unbiased, and its scatter over 400 images small.
    assert figures["probe_error_per_image"] == pytest.approx(2 * a / np.sqrt(probes), rel=0.05)
    assert figures["probe_error"] == pytest.approx(figures["probe_error_per_image"] / np.sqrt(figures["of"]))
    page = section({"likelihood": figures})
    assert "16 rademacher probes" in page
    assert f"± {figures['probe_error_per_image']:.4f} for one; ± {figures['probe_error']:.4f} by probes" in page


def test_what_the_density_of_a_noisy_path_is_of_is_told(tmp_path):
    """VP's states at 0.999, in standard deviations of the table; the linear path ends at the data."""
    for system, told in (("vp", True), ("rectified_flow", False)):
        model = known_model(standing, system, eval__likelihood__images=20)
        figures = model.experiment.eval.likelihood.measure(model, Data(model.experiment), pathlib.Path())
        assert ("of_states" in figures) is told
        assert ("noise of 0.01 standard deviations" in section({"likelihood": figures})) is told


def test_what_lies_beyond_a_noisy_paths_end_is_in_the_formula_and_told_apart():
    """Eight Gaussians on VP's path, exact drift: 1/2 ln(1 + w / S^2) a coordinate less the reference's, in nats of a point."""
    fields = {"eval__likelihood__by": "density", "eval__likelihood__images": 400, "eval__density_levels": "logistic"}
    path = VPPath()
    points, labels = Data(known_model(standing, "vp", **fields).experiment).images("train")
    means = np.stack([points[labels == c].mean(0) for c in range(8)])
    width = float(np.sqrt(np.mean((points - means[labels]) ** 2)))
    model = known_model(oracles.class_gaussians(path, means, np.full(8, width)), "vp", **fields)
    data = Data(model.experiment)
    figures = data.settings.likelihood.measure(model, data, pathlib.Path())
    noise = path.noise_left**2
    wanted = np.log1p(noise / width**2) - np.mean(np.log1p(noise / points.var(0)))
    found, error = (figures["formula"][name] for name in ("beyond_the_path", "beyond_error"))
    assert found == pytest.approx(wanted, abs=4 * error)
    assert wanted > 8 * error
    held = HeldOut.draw(model, data, 400)
    truth = scipy.stats.norm.logpdf(held.x, means[held.labels], width).sum(1) - data.units.log_volume
    assert figures["formula"]["nats"] == pytest.approx(truth.mean(), abs=0.05)
    assert "of it beyond the path's end" in section({"likelihood": figures})


# The classes of what is generated


@given(counts=st.lists(st.integers(0, 400), min_size=1, max_size=12).filter(any), num=st.integers(0, 600))
def test_every_prefix_has_the_shares(counts, num):
    """Within 1 - 1/(2k - 2) of i p_c (Tijdeman 1980), the least that can be promised of k classes; whole data exactly."""
    labels = deal(counts, num)
    shares, k = np.asarray(counts) / sum(counts), np.count_nonzero(counts)
    dealt = np.cumsum(np.eye(len(counts))[labels], axis=0)
    wanted = np.arange(1, num + 1)[:, None] * shares
    assert np.abs(dealt - wanted).max(initial=0) <= (1 - 1 / (2 * k - 2) if k > 1 else 0) + 1e-9
    np.testing.assert_array_equal(np.bincount(deal(counts, sum(counts)), minlength=len(counts)), counts)
    np.testing.assert_array_equal(deal(counts, num // 2), labels[: num // 2])


def test_equal_shares_go_round_the_classes():
    np.testing.assert_array_equal(deal([7] * 5, 23), np.arange(23) % 5)
    with pytest.raises(ValueError, match="expected one that is not 0"):
        deal([0, 0], 3)


UNEQUAL = {"many": 3223, "few": 372}
CENTERS, SPREAD = np.array([[0.0, 0.0], [4.0, 1.0]]), 0.5


@pytest.fixture(scope="module")
def table_csv(tmp_path_factory):
    """Two Gaussian classes, one of which has nine times the points of the other."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("unequal") / "points.csv"
    rows = [
        f"{x!r},{y!r},{name}"
        for (name, count), center in zip(UNEQUAL.items(), CENTERS[::-1], strict=True)
        for x, y in (center + SPREAD * rng.normal(size=(count, 2))).tolist()
    ]
    path.write_text("\n".join(["u,v,label", *rows]) + "\n")
    return path


def exact_of(table_csv, **changes):
    """The exact drift of the table's classes, each a Gaussian with the moments of its training points; and the moments."""
    fields = {"data__source": "table", "data__path": str(table_csv), "data__label": "label", "data__num_classes": 2}
    fields |= {"eval__split": "train", "eval__generation__images": 1000, "eval__classifier": False}
    fields |= {"solver__rtol": 1e-4, "solver__atol": 1e-4}
    moments = []

    def drift(x, t, label):
        """m + a(t) (x - t m) with a = (t s^2 - (1 - t)) / ((1 - t)^2 + t^2 s^2), in each coordinate."""
        mean, std = (jnp.asarray(m, jnp.float32)[label] for m in zip(*moments, strict=True))
        t = t[:, None]
        return mean + (t * std**2 - (1 - t)) / ((1 - t) ** 2 + (t * std) ** 2) * (x - t * mean)

    model = known_model(drift, **{**fields, **changes})
    train = read_all(model.experiment.split("train"))
    for label in (0, 1):
        points = train["image"][train["label"] == label]
        moments.append((points.mean(axis=0), points.std(axis=0)))
    return model, moments


def mixed(moments, shares):
    """Mean and covariance of classes in the given shares, uncorrelated within each: law of total covariance."""
    means, stds = (np.asarray(m, np.float64) for m in zip(*moments, strict=True))
    mean = shares @ means
    return Gaussian(mean, np.diag(shares @ stds**2) + (means - mean).T @ np.diag(shares) @ (means - mean))


def test_the_model_of_unequal_classes_is_at_no_distance(table_csv, tmp_path):
    """The exact drift, so what is left is of 1,000 samples; dealt evenly it is as far as the shares alone make it."""
    model, moments = exact_of(table_csv)
    data = Data(model.experiment)
    counts = np.asarray(data.class_shares)
    assert sum(counts) == len(data.split("train"))
    assert 0.85 < counts[1] / sum(counts) < 0.95
    measured = data.settings.generation.measure(model, data, tmp_path)
    assert measured["by_seed"]["1"]["frechet_distance"] < 0.02
    assert measured["labels"] == f"in the shares of gaussians train, {counts[0]}/{counts[1]}"
    even, _ = exact_of(table_csv, eval__labels="even")
    measured = even.experiment.eval.generation.measure(even, Data(even.experiment), tmp_path)
    assert measured["labels"] == "evenly over the classes"
    far = frechet_distance(mixed(moments, np.array([0.5, 0.5])), mixed(moments, counts / sum(counts)))
    assert far > 1
    assert measured["by_seed"]["1"]["frechet_distance"] == pytest.approx(far, rel=0.05)


def test_every_part_deals_the_classes_of_the_reference(table_csv, tmp_path, monkeypatch):
    """Figures of a sweep, of an audit and of few steps are distances to the data too; the page says how classes were dealt."""
    small = {"eval__sweep__images": 300, "eval__audit__images": 300, "eval__straightness__images": 300}
    small |= {"eval__sweep__methods": ("heun",), "eval__sweep__steps": (20,), "eval__sweep__tolerances": ()}
    small |= {"eval__straightness__steps": (20,), "eval__straightness__times": 3}
    model, _ = exact_of(table_csv, **small)
    data = Data(model.experiment)
    sweep, audit = (
        data.settings.sweep.measure(model, data, tmp_path),
        data.settings.audit.measure(model, data, pathlib.Path()),
    )
    straight = data.settings.straightness.measure(model, data, tmp_path)
    found = [sweep["finest"]["distance"], sweep["rows"][0]["distance"]]
    found += [audit[who]["frechet_distance"] for who in ("ours", "scipy")]
    found += [straight["solved"]["frechet_distance"], straight["few_steps"][0]["frechet_distance"]]
    assert max(found) < 0.1  # 1.8 where classes are dealt evenly
    told = {"name": "x", "step": 0, "sweep": sweep, "audit": audit, "straightness": straight}
    assert page(told).count("classes in the shares of gaussians train, ") == 3


def test_labels_identify_stored_samples(table_csv):
    (model, _), (even, _), (test, _) = (
        exact_of(table_csv, **fields) for fields in ({}, {"eval__labels": "even"}, {"eval__split": "test"})
    )
    identities = {samples._identity(m, Data(m.experiment), 1, 16) for m in (model, even, test)}
    assert len(identities) == 3
    with pytest.raises(UserError, match="config.eval.labels is 'all', expected one of reference, even"):
        exact_of(table_csv, eval__labels="all")
