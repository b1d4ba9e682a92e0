"""score_sde's checkpoints through configs/vp.py, sub_vp.py, ve.py and ddpm.py: imported, they mean the published score."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoreflow_jax
from scoreflow_jax.commands import import_checkpoint, sample
from tests.commands.runs import experiment_of, report
from tests.models.published_network import PublishedNetwork, Weights
from tests.torch_writer import checkpoint

FIR = (1.0, 3.0, 3.0, 1.0)
SIGMAS = np.exp(np.linspace(np.log(50), np.log(0.01), 1000))


def published_score(system, network, x, t):
    """score_sde's get_score_fn, in its own terms: time s = 1 - t, and VE's data in [0, 1]; then as a score of data in [-1, 1]."""
    s = 1 - t
    image = x.transpose(0, 3, 1, 2)  # its VE networks map [0, 1] to [-1, 1] first, which is back to x
    if system == "ve":
        sigma = 0.01 * (50 / 0.01) ** s
        return network(image, sigma).transpose(0, 2, 3, 1) / 2  # d log p / dx = d log p / dx' / 2 for x = 2 x' - 1
    log_mean = -0.25 * s**2 * (20 - 0.1) - 0.5 * s * 0.1
    std = {
        "vp": np.sqrt(1 - np.exp(2 * log_mean)),
        "sub_vp": 1 - np.exp(2 * log_mean),
        "ddpm": np.sqrt(1 - np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))[np.rint(999 * s).astype(int)],
    }[system]
    return -network(image, 999 * s).transpose(0, 2, 3, 1) / std[:, None, None, None]


@pytest.mark.parametrize("system", ["vp", "sub_vp", "ve", "ddpm"])
def test_an_imported_network_has_the_published_score_and_samples(system, tmp_path):
    weights = Weights(4)
    ve = {"taps": FIR, "input": "residual", "embedding": "fourier", "scale_by_sigma": True} if system == "ve" else {}
    # VE's input is joined at the second resolution; the others need one.
    multipliers = (1, 1) if system == "ve" else (1,)
    network = PublishedNetwork(weights, nf=8, mult=multipliers, attention=(), **ve)
    network(np.zeros((1, 3, 8, 8)), np.array([1.0]))  # makes the weights
    file = checkpoint(tmp_path / "c.pth", {**weights.tensors, "module.sigmas": SIGMAS}, weights.averages, 7)
    experiment = experiment_of(
        f"{system}.py",
        data__shape=(8, 8, 3),
        model__channel_multipliers=multipliers,
        model__attention_resolutions=(),
        sampler__num_steps=3,
    )
    import_checkpoint.run_command(experiment, tmp_path / "run", str(file))
    model = scoreflow_jax.load(tmp_path / "run")
    t = 1 - np.array([100, 900]) / 999
    x = np.asarray(jax.random.normal(jax.random.key(0), (2, 8, 8, 3)))
    score = jax.jit(lambda params, x, t: model.experiment.drift(params).predict("score", x, t, None))
    got = score(model.params, jnp.asarray(x), jnp.asarray(t, jnp.float32))
    expected = published_score(system, network, x.astype(np.float64), t)
    error = np.linalg.norm((got - expected).reshape(2, -1), axis=1) / np.linalg.norm(expected.reshape(2, -1), axis=1)
    assert error.max() < 1e-3
    sample.run_command(experiment, tmp_path / "run")
    told = report(tmp_path / "run" / "sample")
    assert told["sampler"]["name"] == {"ve": "predictor_corrector", "ddpm": "ancestral"}.get(system, "euler_maruyama")
    assert told["cost"]["nfe_mean"] == (7 if system == "ve" else 4)
