"""Measures one step of the score-difference flow against its bare matrix products, taking turns.

    python -m benchmarks.difference_flow [--particles 10000] [--points 60000] [--dimension 64] [--repeats 3] [--blocks 1024 1024]

A step takes the scores of the data and of the particles' own density at every particle, by `sampling/kernel_score.py`. Its
products are x y^T and w y, for both; they are timed in the same blocks, one after the other, with nothing between. The
exponentials alone, of as many numbers as there are pairs, are timed too. Prints a JSON line for each and the peak memory of the
process.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scoreflow_jax.progress import peak_memory
from scoreflow_jax.sampling.kernel_score import Blocks, smoothed_density


def main() -> None:
    """Measures what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", type=int, default=10_000)
    parser.add_argument("--points", type=int, default=60_000)
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--blocks", type=int, nargs=2, default=[1024, 1024])
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=(n, args.dimension)), jnp.float32) for n in (args.particles, args.points))
    blocks = Blocks(*args.blocks)
    runs = {
        "step": _timed(lambda x, y: _step(x, y, blocks), x, y),
        "its products": _timed(lambda x, y: (_products(x, y, blocks), _products(x, x, blocks)), x, y),
        "its exponentials": _timed(lambda x, y: (_exponentials(x, y, blocks), _exponentials(x, x, blocks)), x, y),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.repeats):
        for name, run in runs.items():
            seconds[name].append(run())
    pairs = args.particles * (args.points + args.particles)
    for name, times in seconds.items():
        line = {"of": name, "seconds": [round(t, 3) for t in times]}
        if name == "its products":
            line["gflop_per_second"] = round(4 * pairs * args.dimension / min(times) / 1e9, 1)
        ratios = [round(t / p, 2) for t, p in zip(times, seconds["its products"], strict=True)]
        print(json.dumps({**line, "times_the_products": ratios}))
    print(json.dumps({"blocks": args.blocks, "peak_memory_gb": round((peak_memory() or 0) / 1e9, 2)}))


def _step(x: Any, y: Any, blocks: Blocks) -> Any:
    score_p = smoothed_density(x, y, 0.5, blocks=blocks).score
    return x + 0.1 * (score_p - smoothed_density(x, x, 0.5, blocks=blocks).score)


def _blocks(x: Any, y: Any, blocks: Blocks, combine: Callable[[Any, Any, Any], Any]) -> Any:
    """`combine` over blocks of x and of y, what is left over dropped."""
    rows, columns = min(blocks.rows, len(x)), min(blocks.columns, len(y))
    cut = lambda a, size: a[: len(a) // size * size].reshape(-1, size, a.shape[1])  # noqa: E731
    parts = cut(y, columns)
    of_rows = lambda some: jax.lax.scan(lambda sums, part: (combine(sums, some, part), None), 0.0 * some, parts)[0]  # noqa: E731
    return jax.lax.map(of_rows, cut(x, rows))


def _products(x: Any, y: Any, blocks: Blocks) -> Any:
    """The second product takes the first's result: it cannot be left out."""
    return _blocks(x, y, blocks, lambda sums, a, b: sums + jnp.matmul(jnp.matmul(a, b.T), b))


def _exponentials(x: Any, y: Any, blocks: Blocks) -> Any:
    return _blocks(x, y, blocks, lambda sums, a, b: sums + jnp.sum(jnp.exp2(a[:, :1] + b[:, 0][None]), axis=1)[:, None])


def _timed(function: Callable[[Any, Any], Any], x: Any, y: Any) -> Callable[[], float]:
    program = jax.jit(function).lower(x, y).compile()

    def run() -> float:
        start = time.perf_counter()
        jax.block_until_ready(program(x, y))
        return time.perf_counter() - start

    run()
    return run


if __name__ == "__main__":
    main()
