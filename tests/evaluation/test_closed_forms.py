"""Parts of an evaluation on models whose drift is written down: what is counted, what is compared, and the way back."""

import jax.numpy as jnp
import numpy as np
import pytest

from scoreflow_jax.evaluation.data import Data
from scoreflow_jax.evaluation.generation import measure_generation
from scoreflow_jax.evaluation.likelihoods import measure_likelihood
from scoreflow_jax.evaluation.report import summary as section
from scoreflow_jax.evaluation.residual import measure_residual
from scoreflow_jax.evaluation.sweep import measure_sweep
from scoreflow_jax.evaluation.translation import measure_translation
from scoreflow_jax.ode import Solver
from scoreflow_jax.paths import LinearPath
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
    fields |= {"eval__num_images": 20, "eval__batch_size": 20, "eval__seeds": (1,), "eval__classifier": False}
    fields |= {"eval__sweep_methods": ("heun",), "eval__sweep_steps": (4,), "eval__sweep_tolerances": ()}
    model = known_model(standing, **fields, eval__sweep_images=20)
    data = Data(model.experiment)
    figures = measure_generation(model, data, tmp_path)["by_seed"]["1"]
    assert figures["nfe"] == figures["cost"]["nfe_mean"] == calls
    assert [row["nfe"] for row in measure_sweep(model, data, tmp_path)["rows"]] == [calls]


@pytest.mark.parametrize("system", ["rectified_flow", "ve"])
def test_the_error_of_no_drift_is_the_velocity(tmp_path, system):
    """E|alpha' x1 + sigma' x0|^2 / D with x0 ~ N(0, 1), also where solves start from noise of another scale."""
    model = known_model(standing, system, eval__residual_images=500, eval__residual_noises=8, eval__residual_times=5)
    data, path = Data(model.experiment), model.experiment.path
    points, _ = data.images("test", data.some(500))
    figures = measure_residual(model, data, tmp_path)
    for t, found in zip(figures["times"], figures["mean_square"], strict=True):
        time, one, none = jnp.full((1,), t, jnp.float32), jnp.ones((1, 1)), jnp.zeros((1, 1))
        of_noise, of_data = (float(path.velocity(time, *ends)[0, 0]) ** 2 for ends in ((one, none), (none, one)))
        # 8,000 squares of N(0, 1), of deviation sqrt(2), and their products with the data.
        assert found == pytest.approx(of_noise + of_data * np.mean(points**2), rel=0.1)


def test_translations_go_back_by_swapped_labels(tmp_path):
    """`latent` exactly; the paper's `difference` only by its own ODE in reverse, between classes of other widths."""
    drift = oracles.class_gaussians(LinearPath(), MEANS, STDS)
    fields = {"solver__rtol": 1e-6, "solver__atol": 1e-6, "eval__translation_images": 20, "eval__classifier": False}
    model = known_model(drift, **fields, eval__translation_pairs=((1, 6), (4, 0)))
    methods = measure_translation(model, Data(model.experiment), tmp_path)["methods"]
    assert methods["latent"]["cycle_error_swapped"] < 1e-3
    assert methods["difference"]["cycle_error_reversed"] < 1e-3
    assert methods["difference"]["cycle_error_swapped"] > 0.05
    # Four steps of Heun's method: encoding and decoding by 8 evaluations each, or 8 evaluations of two calls.
    few = model.with_solver(Solver(method="heun", num_steps=4))
    methods = measure_translation(few, Data(few.experiment), tmp_path)["methods"]
    assert {name: figures["nfe"] for name, figures in methods.items()} == {"latent": 16, "difference": 16}


def test_several_probes_and_their_error_are_told(tmp_path):
    """dx/dt = a (x_2, x_1) has no divergence, and a probe's estimate of it is 2 a e_1 e_2: +a or -a twice, whatever x."""
    a, count, probes = 0.5, 400, 16
    fields = {
        "eval__likelihood_images": count,
        "eval__likelihood_probes": probes,
        "eval__likelihood_probe": "rademacher",
    }
    model = known_model(lambda x, t, label: a * x[:, ::-1], **fields)
    figures = measure_likelihood(model, Data(model.experiment))
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
        model = known_model(standing, system, eval__likelihood_images=20)
        figures = measure_likelihood(model, Data(model.experiment))
        assert ("of_states" in figures) is told
        assert ("noise of 0.01 standard deviations" in section({"likelihood": figures})) is told
