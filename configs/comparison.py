"""Every system on digits: the same network, data, optimizer and number of steps, three seeds, one table.

Command     python main.py --config=configs/comparison.py --mode=study
            (stopped, it goes on; --config.study.seeds="(0,)" begins with one seed)
Hardware    a laptop: 2 CPU cores, under 3 GB
Time        about an hour a seed on one core (two seeds side by side by --config.study.seeds); the full form not timed
Expect      docs/theory.md has the table: ScoreFlow and rectified flow within a twentieth of each other, networks that predict
                noise behind. Loss after 1,000 steps 0.228 of ScoreFlow, 0.369 of rectified flow
Variants    configs/comparison.py:full      2,500 steps in place of 1,000, and twice the images
            configs/comparison.py:decide    four rows, eight seeds, 600 steps, solved at 1e-3: the three comparisons of
                                            `DECIDES`, by which alone docs/theory.md calls something different

Samplers of a thousand steps make 200 images, the others 500; the column "distance, first 200" compares them all.
A reflow row has trained longer than the others: its round comes after the rounds before it, each of as many steps. Seconds are
of the machine it ran on and of batches of 250.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common, ddpm, interpolant, sub_vp, ve, vp
from scoreflow_jax.sections import new_section

DECIDES = {
    "the path's weight": ("ScoreFlow, p = 1", "rectified flow, p = 2", "frechet_distance"),
    "coupling": ("optimal-transport coupling", "rectified flow, p = 2", "frechet_distance"),
    "what reflow costs": ("2-rectified flow", "rectified flow, p = 2", "frechet_distance"),
}
"""Fixed before they are measured: row, row that it is held against, and the figure."""

_SIZES = {
    "": (1000, 500, 3000),
    "full": (2500, 1000, 5000),
    "decide": (600, 400, 3000),
}  # steps, images, pairs of reflow
_SLOW = 200  # images of samplers with hundreds of network calls
_ODE = {"sampler": {"name": "ode"}}


def get_config(variant: str = "") -> ConfigDict:
    """The grid, in its small or its full form, or the part of it that decides."""
    if variant not in _SIZES:
        raise ValueError(f"no variant {variant!r} of comparison, expected full, decide or none")
    config = common.digits_study(variant == "full")
    steps, images, pairs = _SIZES[variant]
    config.train.update(num_steps=steps, checkpoint_every=steps, log_every=steps // 4)
    config.eval.update(
        generation={"images": images, "first_images": _SLOW},
        residual={"on": False},
        likelihood={"images": images // 5},
    )
    config.reflow.update(num_pairs=pairs, shard_size=1000, num_steps=steps, distill_steps=1, rounds=2)
    cells = {
        "ScoreFlow, p = 1": _weighted(1.0),
        "rectified flow, p = 2": _weighted(2.0),
        "2-rectified flow": {"of": "rectified flow, p = 2", "stage": "2"},
        "2-rectified, one Euler step": {
            "of": "rectified flow, p = 2",
            "stage": "2",
            "changes": {"solver": {"method": "euler", "num_steps": 1}, "eval": {"likelihood": {"by": "none"}}},
            "why": {"bits_per_dim": "as 2-rectified flow"},
        },
        "distilled to one step (l2)": {
            "of": "rectified flow, p = 2",
            "stage": "2_distilled",
            "changes": {"eval": {"likelihood": {"by": "none"}}},
            "why": {"bits_per_dim": "no ODE: trained at t = 0 alone"},
        },
        "optimal-transport coupling": {
            "changes": {"train": {"coupling": "optimal_transport"}, **_weighted(2.0)["changes"]}
        },
        **_sde("VP", vp.get_config("digits"), "euler_maruyama"),
        **_sde("sub-VP", sub_vp.get_config("digits"), "euler_maruyama"),
        **_sde("VE", ve.get_config("digits"), "predictor_corrector"),
        **_sde("DDPM", ddpm.get_config("digits"), "ancestral"),
        "DDPM, DDIM in 50 steps": {
            "of": "DDPM, ODE",
            "changes": {"sampler": {"name": "ddim", "num_steps": 50}, "eval": {"likelihood": {"by": "none"}}},
            "why": {"bits_per_dim": "no density: a discrete chain"},
        },
        "interpolant, trigonometric": _interpolant("trigonometric"),
        "interpolant, variance preserving": _interpolant("variance_preserving"),
        "interpolant, learned": _interpolant("learned", num_terms=8),
        "interpolant with latent, ODE": _interpolant("linear", latent="sine", latent_scale=0.5),
        "interpolant with latent, SDE": {
            "of": "interpolant with latent, ODE",
            "changes": {"sampler": _sampler("euler_maruyama", 500, schedule="sigma"), "eval": _slow()},
            "why": {"bits_per_dim": "no tractable density"},
        },
    }
    if variant == "decide":
        cells = {name: cells[name] for name in dict.fromkeys(row for c in DECIDES.values() for row in c[:2])}
        config.solver.update(rtol=1e-3, atol=1e-3)
        config.eval.update(likelihood={"by": "none"}, straightness={"on": False}, generation={"first_images": 0})
        config.reflow.distill_steps = 0
    config = common.study(config, f"comparison{variant and '_' + variant}", "rectified flow, p = 2", cells, DECIDES)
    if variant == "decide":
        config.study.seeds = tuple(range(8))
    return config


def _weighted(p: float) -> dict[str, Any]:
    return {"changes": {"objective": common.given(common.path_constrained(weight_exponent=p))}}


def _sampler(name: str, steps: int, **fields: Any) -> dict[str, Any]:
    return {**new_section("sampler"), "name": name, "num_steps": steps, **fields}


def _slow() -> dict[str, Any]:
    return {"generation": {"images": _SLOW}, "batch_size": _SLOW, "likelihood": {"by": "none"}}


def _sde(name: str, config: ConfigDict, sampler: str) -> dict[str, Any]:
    """A system by its ODE and by the sampler of its own config."""
    parts = {part: common.given(config[part]) for part in ("path", "parameterization", "objective", "times")}
    own = {
        "of": f"{name}, ODE",
        "changes": {"sampler": config.sampler.to_dict(), "eval": _slow()},
        "why": {"bits_per_dim": "no density: a discrete chain" if name == "DDPM" else "no tractable density"},
    }
    return {f"{name}, ODE": {"changes": {**parts, **_ODE}}, f"{name}, {sampler.replace('_', ' ')}": own}


def _interpolant(name: str, **fields: Any) -> dict[str, Any]:
    objective = common.given(interpolant.get_config("digits").objective)
    return {"changes": {"path": common.given(common.path(name, **fields)), "objective": objective}}
