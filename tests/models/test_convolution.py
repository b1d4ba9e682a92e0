"""The 3x3 convolution and its gradients against scipy, by both ways that the kernel's gradient is computed."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from scoreflow_jax.models import convolution
from scoreflow_jax.models.convolution import convolve3x3

X = jax.random.normal(jax.random.key(0), (3, 6, 4, 2))
KERNEL = jax.random.normal(jax.random.key(1), (3, 3, 2, 5))
G = jax.random.normal(jax.random.key(2), (3, 6, 4, 5))


def correlate(a, b, mode):
    return scipy.signal.correlate(np.asarray(a, np.float64), np.asarray(b, np.float64), mode, method="direct")


def test_forward_is_scipys():
    got = convolve3x3(X, KERNEL)
    for n in range(3):
        for o in range(5):
            expected = sum(correlate(X[n, :, :, c], KERNEL[:, :, c, o], "same") for c in range(2))
            np.testing.assert_allclose(got[n, :, :, o], expected, atol=1e-5)


@pytest.mark.parametrize("way", ["_by_columns", "_by_transposition"])
def test_kernel_gradient_is_scipys(way):
    """Entry (i, j, c, o) is the sum over images of x, shifted by (i - 1, j - 1), times the gradient of the output."""
    got = getattr(convolution, way)(X, G)
    padded = np.pad(np.asarray(X), ((0, 0), (1, 1), (1, 1), (0, 0)))
    for c in range(2):
        for o in range(5):
            expected = sum(correlate(padded[n, :, :, c], G[n, :, :, o], "valid") for n in range(3))
            np.testing.assert_allclose(got[:, :, c, o], expected, atol=1e-5)


def test_both_modes_of_differentiation_and_their_mixture():
    """vjp is the transpose of jvp, in each argument, under jit and remat, and forward over reverse."""
    dx, dkernel = jax.random.normal(jax.random.key(3), X.shape), jax.random.normal(jax.random.key(4), KERNEL.shape)
    tangent = jax.jvp(convolve3x3, (X, KERNEL), (dx, dkernel))[1]
    np.testing.assert_allclose(tangent, convolve3x3(dx, KERNEL) + convolve3x3(X, dkernel), atol=1e-5)
    gx, gkernel = jax.jit(lambda g: jax.vjp(jax.checkpoint(convolve3x3), X, KERNEL)[1](g))(G)
    assert float(jnp.vdot(G, tangent)) == pytest.approx(float(jnp.vdot(gx, dx) + jnp.vdot(gkernel, dkernel)), rel=1e-4)
    loss = lambda x, kernel: jnp.sum(convolve3x3(x, kernel) ** 2)
    second = jax.jvp(lambda k: jax.grad(loss, 1)(X, k), (KERNEL,), (dkernel,))[1]  # the loss is quadratic in the kernel
    direct = jax.grad(loss, 1)(X, KERNEL + dkernel) - jax.grad(loss, 1)(X, KERNEL)
    np.testing.assert_allclose(second, direct, atol=1e-2, rtol=1e-4)
    only_x = jax.jvp(lambda x: convolve3x3(x, KERNEL), (X,), (dx,))[1]
    np.testing.assert_allclose(only_x, convolve3x3(dx, KERNEL), atol=1e-5)


@pytest.mark.parametrize("of_kernel", [False, True])
def test_batches_of_batches_and_gradients_of_each_example(of_kernel):
    """vmap over either argument, and over a gradient by both, is a loop."""
    many = jax.random.normal(jax.random.key(5), (4, *(KERNEL if of_kernel else X).shape))
    call = (lambda k: convolve3x3(X, k)) if of_kernel else (lambda x: convolve3x3(x, KERNEL))
    np.testing.assert_allclose(jax.vmap(call)(many), jnp.stack([call(one) for one in many]), atol=1e-5)
    both = jax.vmap(call, in_axes=2, out_axes=1)(jnp.moveaxis(many, 0, 2))
    np.testing.assert_allclose(jnp.moveaxis(both, 1, 0), jnp.stack([call(one) for one in many]), atol=1e-5)
    gradient = lambda x: jax.grad(lambda k: jnp.sum(convolve3x3(x, k) ** 3))(KERNEL)
    examples = X[:, None]
    expected = jnp.stack([gradient(x) for x in examples])
    np.testing.assert_allclose(jax.vmap(gradient)(examples), expected, rtol=1e-3, atol=1e-3)


def test_the_gradient_of_a_jvp_is_that_of_differences():
    """As training by a derivative along t takes it: by the kernel, of a derivative by the images."""
    dx = jax.random.normal(jax.random.key(3), X.shape)
    loss = lambda kernel: jnp.sum(jax.jvp(lambda x: jnp.sin(convolve3x3(x, kernel)), (X,), (dx,))[1] ** 2)
    direction = jax.random.normal(jax.random.key(4), KERNEL.shape)
    slope = float(jnp.vdot(jax.grad(loss)(KERNEL), direction))
    h = 1e-3
    assert slope == pytest.approx(
        float(loss(KERNEL + h * direction) - loss(KERNEL - h * direction)) / (2 * h), rel=1e-2
    )


def test_on_cpu_the_kernel_gradient_goes_by_columns_where_pixels_are_few():
    if jax.default_backend() != "cpu":
        pytest.skip("the program is another on accelerators")
    text = jax.jit(convolution.kernel_gradient).lower(X, G).as_text()
    assert text.count("stablehlo.convolution") == 3
    many = jnp.zeros((64, 16, 16, 2)), jnp.zeros((64, 16, 16, 5))
    assert jax.jit(convolution.kernel_gradient).lower(*many).as_text().count("stablehlo.convolution") == 1


def test_on_cpu_the_kernel_is_turned_round_before_the_convolution():
    """A reversal right before it XLA would merge into it, and oneDNN not take it."""
    if jax.default_backend() != "cpu":
        pytest.skip("the program is another on accelerators")
    text = jax.jit(convolution.image_gradient).lower(G, KERNEL).as_text()
    assert re.search(r"stablehlo.reverse.*stablehlo.transpose.*stablehlo.convolution", text, re.DOTALL)
