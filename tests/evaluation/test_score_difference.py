"""The comparison of a drift with eq. 7, on fields that are known."""

import numpy as np
import pytest

from scoreflow_jax import sampling
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.data import Data
from scoreflow_jax.evaluation.score_difference import CONTROL, TIMES, difference_of_scores
from scoreflow_jax.model import Model
from tests.commands.runs import experiment_of


class Drifting(Model):
    """A model of the digits whose drift is given."""

    def __init__(self, experiment, drift):
        self.experiment, self._given, self.batch_size, self.params = experiment, drift, 50, {}

    def drift(self, x, t, label):
        return self._given(np.asarray(x), t, np.asarray(label))

    def _noise(self, key, indices):
        return sampling.noise_for(key, indices, self.experiment.spec.shape)


@pytest.fixture(scope="module")
def data():
    return Data(
        experiment_of("digits.py", eval__score_difference__images=40, eval__score_difference__sigmas=(0.3, 1.0))
    )


def exact_drift(data):
    """E[x1 - x0 | x_t] over the training digits of a class, by all pairs in float64."""
    known, classes = data.images("train")

    def drift(x, t, label):
        flat, result = x.reshape(len(x), 64).astype(np.float64), np.empty((len(x), 64))
        for i, c in enumerate(label):
            digits = known[classes == c].reshape(-1, 64).astype(np.float64)
            exponent = -((flat[i] - t * digits) ** 2).sum(1) / (2 * (1 - t) ** 2)
            weight = np.exp(exponent - exponent.max())
            result[i] = (weight @ digits / weight.sum() - flat[i]) / (1 - t)
        return result.reshape(x.shape).astype(np.float32)

    return drift


def test_the_exact_drift_is_the_control_and_not_eq_7(data, tmp_path):
    figures = data.settings.score_difference.measure(Drifting(data.experiment, exact_drift(data)), data, tmp_path)
    assert figures["rows"].keys() == {"sigma_0 = 0.3", "sigma_0 = 1", CONTROL}
    for row in figures["rows"][CONTROL]:
        assert row["cosine"] == pytest.approx(1, abs=2e-3)
        assert row["relative_error"] < 5e-3
    for name in ("sigma_0 = 0.3", "sigma_0 = 1"):
        assert all(row["error_at_best_factor"] > 0.02 for row in figures["rows"][name])
    assert (tmp_path / "score_difference.png").exists()


def test_a_drift_that_is_eq_7_times_a_factor_is_recognized(data, tmp_path):
    known, classes = data.images("train")
    drift = lambda x, t, label: 2.0 * difference_of_scores(x, label, known, classes, 0.3 * float(np.exp(t)))  # noqa: E731
    rows = data.settings.score_difference.measure(Drifting(data.experiment, drift), data, tmp_path)["rows"][
        "sigma_0 = 0.3"
    ]
    assert len(rows) == len(TIMES)
    for row in rows:
        assert row["cosine"] == pytest.approx(1, abs=1e-5)
        assert row["relative_error"] == pytest.approx(0.25, abs=1e-5)
        assert row["best_factor"] == pytest.approx(2, abs=1e-4)
        assert row["error_at_best_factor"] == pytest.approx(0, abs=1e-5)


def test_eq_7_between_gaussians():
    """To N(m, I): sigma^2 (x - (x - m)) / (1 + sigma^2) = m sigma^2 / (1 + sigma^2), whatever x."""
    rng = np.random.default_rng(0)
    mean = np.array([0.5, -0.3], np.float32)
    known = (mean + rng.normal(size=(200_000, 2))).astype(np.float32)
    x = rng.normal(size=(20, 2)).astype(np.float32)
    g = difference_of_scores(x, np.zeros(20, int), known, np.zeros(len(known), int), 1.3)
    wanted = np.broadcast_to(mean * 1.3**2 / (1 + 1.3**2), x.shape)
    np.testing.assert_allclose(g, wanted, atol=0.03)


def test_sources_and_settings_that_do_not_go_are_said(data, tmp_path):
    other = experiment_of("digits.py", path__name="ve")
    with pytest.raises(UserError, match=r"eq. 7 from N\(0, I\), which this path does not start from"):
        other.eval.score_difference.check(other)
    with pytest.raises(UserError, match="score_difference.sigmas is .*, expected positive numbers"):
        experiment_of("digits.py", eval__score_difference__sigmas=(0.0,))
