"""LPIPS against the definition written with TensorFlow's convolutions and pools."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.data import Data
from scoreflow_jax.models.lpips import import_lpips, lpips
from tests.commands.runs import experiment_of
from tests.torch_writer import checkpoint, state_dict

RNG = np.random.default_rng(0)
SHAPES = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}


@pytest.fixture(scope="module")
def tensors():
    """Random weights under the names of the public files."""
    backbone, heads = {}, {}
    for i, (number, shape) in enumerate(SHAPES.items()):
        scale = np.sqrt(2 / np.prod(shape[1:]))
        backbone[f"features.{number}.weight"] = (scale * RNG.normal(size=shape)).astype(np.float32)
        backbone[f"features.{number}.bias"] = 0.1 * RNG.normal(size=shape[0]).astype(np.float32)
        heads[f"lin{i}.model.1.weight"] = RNG.uniform(0, 1, (1, shape[0], 1, 1)).astype(np.float32)
    return backbone, heads


def reference(backbone, heads, a, b):
    tf = pytest.importorskip("tensorflow")

    def features(x):
        x = (x - np.array([-0.030, -0.088, -0.188])) / np.array([0.458, 0.448, 0.450])
        found = []
        for i, number in enumerate(SHAPES):
            stride, pad = ((4, 2), (1, 2), (1, 1), (1, 1), (1, 1))[i]
            if i in (1, 2):
                x = tf.nn.max_pool2d(x, 3, 2, "VALID").numpy()
            kernel = backbone[f"features.{number}.weight"].transpose(2, 3, 1, 0)
            x = np.pad(np.asarray(x, np.float32), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
            x = np.maximum(tf.nn.conv2d(x, kernel, stride, "VALID").numpy() + backbone[f"features.{number}.bias"], 0)
            found.append(x)
        return found

    total = np.zeros(len(a))
    for i, (x, y) in enumerate(zip(features(a), features(b), strict=True)):
        x, y = (z / np.sqrt((z**2).sum(-1, keepdims=True) + 1e-20) for z in (x, y))
        weights = heads[f"lin{i}.model.1.weight"].ravel()
        total += (((x - y) ** 2) * weights).sum(-1).mean((1, 2))
    return total


def test_lpips_is_its_definition(tensors):
    a, b = (RNG.uniform(-1, 1, (2, 40, 35, 3)).astype(np.float32) for _ in range(2))
    weights = import_lpips(*tensors)
    found = lpips(weights, jnp.asarray(a), jnp.asarray(b))
    np.testing.assert_allclose(found, reference(*tensors, a, b), rtol=1e-3)
    np.testing.assert_array_equal(lpips(weights, jnp.asarray(a), jnp.asarray(a)), 0)


def test_wrong_weights_and_small_images_are_named(tensors, tmp_path):
    backbone, heads = tensors
    with pytest.raises(ValueError, match=r"no tensor lin3.model.1.weight of shape \(1, 256, 1, 1\)"):
        import_lpips(backbone, {k: v for k, v in heads.items() if k != "lin3.model.1.weight"})
    file = str(checkpoint(tmp_path / "other.pth", {"x": np.zeros(2, np.float32)}, [], 0))
    with pytest.raises(UserError, match="config.eval.translation.lpips_backbone and lpips_heads: LPIPS needs both"):
        experiment_of("digits.py", eval__translation__lpips_heads=file)
    small = {"eval__translation__lpips_heads": file, "eval__translation__lpips_backbone": file}
    with pytest.raises(UserError, match="at least 32x32"):
        _ = Data(experiment_of("digits.py", **small)).perceptual_distance
    photographs = experiment_of(
        "cifar10.py", eval__translation__lpips_heads=file, eval__translation__lpips_backbone=file
    )
    with pytest.raises(UserError, match="does not hold LPIPS's weights: it has no tensor features.0.weight"):
        _ = Data(photographs).perceptual_distance


def test_a_flow_is_distilled_by_lpips(tensors, tmp_path):
    """The compiled step's loss is LPIPS of the estimated end to the pair's, with a gradient; the files are read in tracing."""
    files = [str(state_dict(tmp_path / f"{i}.pth", arrays)) for i, arrays in enumerate(tensors)]
    objective = {"name": "distillation", "distance": "lpips", "lpips_backbone": files[0], "lpips_heads": files[1]}
    times = {"name": "grid", "count": 1, "with_end": False}
    experiment = experiment_of(
        "rectified_flow.py", objective=objective, times=times, data__pairs="nowhere", train__batch_size=2
    )
    x0, x1 = (RNG.uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32) for _ in range(2))
    batch = {"image": jnp.asarray(x1), "base": jnp.asarray(x0), "label": jnp.zeros(2, jnp.int32)}
    params = experiment.init(jax.random.key(0))
    loss = experiment.train_loss()
    drawn = loss.draw(jax.random.key(1), batch)
    value, gradient = jax.jit(jax.value_and_grad(loss.mean))(params, drawn)
    # An untrained drift is 0, and every time is 0: the estimate is x0.
    assert float(value) == pytest.approx(
        float(np.mean(lpips(import_lpips(*tensors), jnp.asarray(x0), jnp.asarray(x1)))), rel=1e-3
    )
    assert float(jnp.abs(gradient["out_conv"]["kernel"]).max()) > 0
    with pytest.raises(UserError, match="of images of 32x32 at least"):
        experiment_of("digits.py", objective=objective)
