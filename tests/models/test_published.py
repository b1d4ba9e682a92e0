"""Published checkpoints: names, order and arithmetic of every variant against plain NumPy, and the fixture."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreflow_jax import models
from scoreflow_jax.models import NCSNpp, import_published, published_entries
from scoreflow_jax.torch_files import read_torch_file
from tests.conftest import shared
from tests.models.published_network import PublishedNetwork, Weights

PARITY = 1e-5  # relative error of the output, in float32
SIZE, BATCH = 8, 3
FIR, SKEWED = (1.0, 3.0, 3.0, 1.0), (1.0, 2.0, 5.0, 3.0)  # the published taps, and some that show a mirrored filter
VARIANTS = {  # the network's fields and the reference's
    "DDPM++": ({}, {}),
    "NCSN++ VP": ({"fir_kernel": FIR, "progressive_input": "residual"}, {"taps": FIR, "input": "residual"}),
    "NCSN++ VE": (
        {"fir_kernel": FIR, "progressive_input": "residual", "embedding": "fourier", "scale_by_sigma": True},
        {"taps": FIR, "input": "residual", "embedding": "fourier", "scale_by_sigma": True},
    ),
    "NCSN++ 256": (
        {
            "fir_kernel": FIR,
            "progressive_output": "output_skip",
            "progressive_input": "input_skip",
            "embedding": "fourier",
            "scale_by_sigma": True,
        },
        {"taps": FIR, "output": "output_skip", "input": "input_skip", "embedding": "fourier", "scale_by_sigma": True},
    ),
    "output residual, input joined": (
        {
            "fir_kernel": SKEWED,
            "progressive_output": "residual",
            "progressive_input": "input_skip",
            "progressive_combine": "cat",
        },
        {"taps": SKEWED, "output": "residual", "input": "input_skip", "combine": "cat"},
    ),
    "DDPM's blocks": ({"block": "ddpm", "skip_rescale": False}, {"block": "ddpm", "rescale": False}),
    "DDPM's blocks with filters": (
        {"block": "ddpm", "fir_kernel": FIR, "progressive_output": "residual", "scale_by_sigma": True},
        {"block": "ddpm", "taps": FIR, "output": "residual", "scale_by_sigma": True},
    ),
    "plain, all progressive": (
        {"progressive_output": "output_skip", "progressive_input": "residual"},
        {"output": "output_skip", "input": "residual"},
    ),
}


@functools.cache
def case(name):
    """A network, random images and levels, a random checkpoint of it, and what the reference makes of them."""
    ours, theirs = VARIANTS[name]
    fields = {"base_channels": 8, "channel_multipliers": (1, 2), "num_blocks": 1, "attention_resolutions": (4,)}
    network = NCSNpp(**fields, dropout=0.1, time_scale=1.0, **ours)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH, SIZE, SIZE, 3)).astype(np.float32)
    levels = np.array([0.75, 20.5, 900.25], np.float32)
    weights = Weights(1)
    out = PublishedNetwork(weights, **theirs)(x.transpose(0, 3, 1, 2).astype(np.float64), levels.astype(np.float64))
    return network, x, levels, weights, out.transpose(0, 2, 3, 1)


def relative_error(got, expected):
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def run(network, params, x, levels):
    return jax.jit(models.make_drift(network, params))(jnp.asarray(x), jnp.asarray(levels), None)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_the_reference(name):
    network, x, levels, weights, expected = case(name)
    params, ema = import_published(network, x.shape[1:], weights.tensors, weights.averages)
    assert relative_error(run(network, params, x, levels), expected) < PARITY
    jax.tree.map(np.testing.assert_array_equal, params, ema)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, models.parameter_shapes(network, x.shape[1:]))


@pytest.mark.parametrize("name", VARIANTS)
def test_names_and_order_are_the_checkpoints(name):
    """The reference made its tensors in the order in which its modules were built, and so are the averages."""
    network, x, _, weights, _ = case(name)
    names = [f"module.{entry.name}" for entry in published_entries(network, x.shape[1:])]
    assert set(names) == weights.tensors.keys()
    trained = [f"module.{e.name}" for e in published_entries(network, x.shape[1:]) if e.trained]
    assert [n for n in names if n in weights.untrained] == [n for n in names if n not in trained]
    assert sorted(names, key=lambda n: int(n.split(".")[2])) == names


def test_averages_go_where_the_weights_go():
    """Moved averages, among them those behind the Fourier frequencies that they skip."""
    network, x, levels, weights, _ = case("NCSN++ VE")
    moved = [tensor + np.float32(0.5) for tensor in weights.averages]
    params, ema = import_published(network, x.shape[1:], weights.tensors, moved)
    difference = jax.tree.map(lambda e, p: float(jnp.abs(e - p - 0.5).max()), ema, params)
    frequencies = difference.pop("fourier_frequencies")
    assert max(jax.tree.leaves(difference)) < 1e-6
    assert frequencies == pytest.approx(0.5)  # unchanged


def test_order_of_averages_within_a_block():
    """parameters() of PyTorch goes weight then bias, part by part: the list must not be sorted by name."""
    entries = [e.name for e in published_entries(*_tiny()) if e.name.startswith("all_modules.3.")]
    parts = ("GroupNorm_0", "Conv_0", "Dense_0", "GroupNorm_1", "Conv_1")
    assert entries == [f"all_modules.3.{part}.{kind}" for part in parts for kind in ("weight", "bias")]


def _tiny():
    network, x, *_ = case("DDPM++")
    return network, x.shape[1:]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda m, a: m.pop("module.all_modules.3.Conv_0.bias"), r"lacks module\.all_modules\.3\.Conv_0\.bias"),
        (lambda m, a: m.update({"module.extra": np.zeros(3)}), r"has besides module\.extra"),
        (
            lambda m, a: m.update({"module.all_modules.0.weight": np.zeros((32, 9), np.float32)}),
            r"module\.all_modules\.0\.weight \(model\) has shape \(32, 9\), expected one for time_0/kernel \(8, 32\)",
        ),
        (
            lambda m, a: m.update({"module.all_modules.0.bias": np.zeros(32, np.int64)}),
            r"module\.all_modules\.0\.bias \(model\) is int64, expected a tensor of floats",
        ),
        (lambda m, a: a.pop(), r"averages, expected"),
        (
            lambda m, a: m.update({"module.all_modules.0.bias": np.full(32, np.nan, np.float32)}),
            r"module\.all_modules\.0\.bias \(model\) has numbers that are not finite",
        ),
        (
            lambda m, a: a.__setitem__(0, np.full(a[0].shape, 3e39)),
            r"module\.all_modules\.0\.weight \(ema\) has numbers up to 3e\+39, more than float32 holds",
        ),
        (lambda m, a: a.__setitem__(0, a[2]), r"module\.all_modules\.0\.weight \(ema\) has shape"),
        (lambda m, a: m.update({"module.sigmas": np.geomspace(378, 0.01, 2000)}), "2000 noise levels from 378 to 0.01"),
    ],
)
def test_what_does_not_fit_is_named(change, match):
    network, x, _, weights, _ = case("DDPM++")
    model, averages = dict(weights.tensors), list(weights.averages)
    change(model, averages)
    with pytest.raises(ValueError, match=match):
        import_published(network, x.shape[1:], model, averages)


def test_right_sigmas_are_taken_and_conditional_networks_refused():
    network, x, _, weights, _ = case("DDPM++")
    sigmas = np.exp(np.linspace(np.log(50), np.log(0.01), 1000))
    import_published(network, x.shape[1:], {**weights.tensors, "module.sigmas": sigmas}, weights.averages)
    with pytest.raises(ValueError, match="only unconditional ones"):
        published_entries(network.clone(num_classes=3), x.shape[1:])
    with pytest.raises(ValueError, match="patch is 2: no published network folds pixels into channels"):
        import_published(network.clone(patch=2), x.shape[1:], weights.tensors, weights.averages)


@pytest.mark.parametrize("which", ["model", "ema"])
def test_fixture_of_the_published_pytorch_code(which):
    """A small DDPM++ made by score_sde's own code, with its outputs."""
    folder = shared("fixtures")
    config = json.loads((folder / "ddpmpp.json").read_text())
    network = NCSNpp(
        base_channels=config["nf"],
        channel_multipliers=tuple(config["ch_mult"]),
        num_blocks=config["num_res_blocks"],
        attention_resolutions=tuple(config["attn_resolutions"]),
        sigma_min=config["sigma_min"],
        sigma_max=float(config["sigma_max"]),
        num_scales=config["num_scales"],
    )
    arrays = np.load(folder / "ddpmpp.npz")
    content = read_torch_file(folder / "ddpmpp.pth")
    shape = arrays["x"].shape[1:]
    both = import_published(network, shape, content["model"], content["ema"]["shadow_params"])
    params, expected = dict(zip(("model", "ema"), zip(both, (arrays["y"], arrays["y_ema"]), strict=True), strict=True))[
        which
    ]
    got = run(network, params, arrays["x"], arrays["cond"].astype(np.float32) / 999)
    assert relative_error(got, expected) < PARITY
