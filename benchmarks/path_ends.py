"""Measures what a path's end leaves out, for data whose drift is known: excess bits/dim and spread of samples against calls.

    python -m benchmarks.path_ends [--deviation 0.0151 0.1] [--tolerance 1e-5]

Data are Gaussian with this deviation S in each dimension; 0.0151 is 3.000 bits/dim of 256 levels, sharper than photographs are.
Their drift on a path is x d log sqrt(alpha^2 S^2 + sigma^2) / dt, so that all that is found is the path's and the solver's. For
each path and each end t_max a JSON line:

    noise           deviation of x_t given the data at the end, in grey levels (2 / 256)
    excess          bits/dim of the data by `log_likelihood` less their entropy: what the end adds, in closed form and as solved
    samples         deviation of ODE samples over the data's, without and with the last denoising step
    nfe             of samples and of likelihoods, by Dopri5 at the tolerance
"""

import argparse
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scoreflow_jax.likelihood import log_likelihood
from scoreflow_jax.ode import Solver
from scoreflow_jax.paths import PATHS, AffinePath
from scoreflow_jax.sampling import generate

_SIZE = (256, 16)  # examples, dimensions
_ENDS = {
    "linear": (1.0,),
    "trigonometric": (1.0,),
    "variance_preserving": (0.999, 1 - 1e-4, 1 - 1e-5, 1 - 1e-6),
    "vp": (0.999, 1 - 1e-4, 1 - 1e-5),
    "sub_vp": (0.999, 1 - 1e-4, 1 - 1e-5),
    "ddpm": (1.0,),
    "ve": (1 - 1e-5,),
}


def main() -> None:
    """Measures what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deviation", type=float, nargs="+", default=[0.0151, 0.1])
    parser.add_argument("--tolerance", type=float, default=1e-5)
    args = parser.parse_args()
    for deviation in args.deviation:
        for name, ends in _ENDS.items():
            for end in ends:
                print(json.dumps(measure(name, end, deviation, args.tolerance)), flush=True)


def measure(name: str, t_max: float, deviation: float, tolerance: float) -> dict[str, Any]:
    """The figures of one path and end."""
    path = PATHS[name](t_max=t_max)
    assert isinstance(path, AffinePath)
    solver = Solver(rtol=tolerance, atol=tolerance)
    how = {"span": (path.t_min, path.t_max)}
    log_std = lambda t: 0.5 * jnp.log(jnp.square(path.alpha(t) * deviation) + jnp.square(path.sigma(t)))  # noqa: E731

    def drift(x: Any, t: Any, label: Any) -> Any:
        """d log std / dt x."""
        del label
        return jax.jvp(log_std, (t,), (jnp.ones_like(t),))[1][:, None] * x

    noise = jax.random.normal(jax.random.key(0), _SIZE)
    data = deviation * jax.random.normal(jax.random.key(1), _SIZE)
    made = jax.jit(lambda x: generate(drift, path.prior_scale * x, None, solver, **how))(noise)
    told = jax.jit(lambda x: log_likelihood(drift, x, None, solver, prior_scale=path.prior_scale, **how))(data)
    ratio = lambda x: float(jnp.sqrt(jnp.mean(jnp.square(x / deviation)) / jnp.mean(jnp.square(noise))))  # noqa: E731
    t = jnp.full(_SIZE[0], path.t_max)
    denoised = (
        path.convert(drift(made.y, t, None), made.y, t, given="velocity", wanted="data") if path.sigma(t)[0] else made.y
    )
    left = float(path.sigma(t)[0] / path.alpha(t)[0])
    variance = float(np.exp(2.0 * log_std(t)[0])) / deviation**2
    density = -0.5 * jnp.square(data / deviation) - math.log(deviation * math.sqrt(2 * math.pi))
    excess = float(jnp.mean(jnp.sum(density, axis=1) - told.y[0])) / _SIZE[1] / math.log(2)
    # Of this very draw of the data, so that it is no part of the difference.
    square = float(jnp.mean(jnp.square(data / deviation)))
    expected = (0.5 * math.log(variance) + 0.5 * square * (1.0 / variance - 1.0)) / math.log(2)
    return {
        "path": name,
        "t_max": t_max,
        "deviation": deviation,
        "noise": round(left * 128, 3),
        "excess": round(excess, 4),
        "excess_closed_form": round(expected, 4),
        "samples": round(ratio(made.y), 4),
        "denoised": round(ratio(denoised), 4),
        "nfe": int(made.num_evaluations),
        "nfe_likelihood": int(told.num_evaluations),
    }


if __name__ == "__main__":
    main()
