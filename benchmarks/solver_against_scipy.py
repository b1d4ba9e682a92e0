"""Compares our Dopri5 with scipy's RK45 on the drift of a trained model, at the tolerances of its config.

    python -m benchmarks.solver_against_scipy runs/digits [--batches 5] [--images 50]

Both start from the same noise and use one step control for the whole batch. Prints a JSON line for each batch, then one with the
means and maxima over all.
"""

import argparse
import json

import jax
import numpy as np
import scipy.integrate

import scoreflow_jax


def compare(model: scoreflow_jax.Model, seed: int, images: int) -> dict[str, float]:
    """Solves one batch of noise with both, and returns differences of end points and both NFEs."""
    solver = model.experiment.solver
    noise = np.asarray(model.noise(jax.random.key(seed), images))
    labels = np.arange(images) % model.num_classes if model.num_classes else None
    ours = model.solve_generate(noise, labels)

    def flow(t: float, y: np.ndarray) -> np.ndarray:
        """The same compiled drift, called from the host."""
        return np.asarray(model.drift(y.reshape(noise.shape), t, labels), np.float64).ravel()

    theirs = scipy.integrate.solve_ivp(flow, (0.0, 1.0), noise.ravel(), rtol=solver.rtol, atol=solver.atol)
    difference = np.abs(ours.y - theirs.y[:, -1].reshape(noise.shape))
    return {
        "seed": seed,
        "images": images,
        "mean_difference": float(difference.mean()),
        "max_difference": float(difference.max()),
        "nfe": ours.stats.evaluations[0],
        "nfe_scipy": int(theirs.nfev),
    }


def main() -> None:
    """Runs the comparison that the arguments describe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir", help="of a trained model")
    parser.add_argument("--batches", type=int, default=5)
    parser.add_argument("--images", type=int, default=50)
    args = parser.parse_args()
    model = scoreflow_jax.load(args.workdir, batch_size=args.images)
    rows = [compare(model, seed, args.images) for seed in range(args.batches)]
    for row in rows:
        print(json.dumps(row))
    ours, theirs = (np.mean([row[name] for row in rows]) for name in ("nfe", "nfe_scipy"))
    summary = {
        "batches": len(rows),
        "mean_difference": float(np.mean([row["mean_difference"] for row in rows])),
        "max_difference": max(row["max_difference"] for row in rows),
        "nfe": float(ours),
        "nfe_scipy": float(theirs),
        "nfe_ratio": float(ours / theirs),
        "nfe_max": max(row["nfe"] for row in rows),
        "nfe_scipy_max": max(row["nfe_scipy"] for row in rows),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
