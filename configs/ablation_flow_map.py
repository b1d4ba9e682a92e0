"""Study on digits: by which rule a flow map learns, and what it makes of few calls beside reflow and distillation.

Command     python main.py --config=configs/ablation_flow_map.py --mode=study
            (stopped, it goes on; --config.study.seeds="(0,)" begins with one seed)
Hardware    a laptop: 2 CPU cores, under 3 GB
Time        35 minutes of one core a seed, the variant :rules as much again
Expect      docs/theory.md has the tables: one call at a distance of 0.28, its ODE 0.19. Loss of the map 0.034 after 500 steps
Variants    configs/ablation_flow_map.py:rules  the rules beside each other, by a network whose time may be differentiated

All take as long, a time in which the drift alone makes 3,400 steps (`rectified flow, as long`): a teacher of 2,000 and 900 of the
flow map, at 1.6 of the drift's each; or 500 of reflow, with its pairs, which cost 900; distillation has 500 more.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common

_TEACHER, _STEPS, _REFLOW = 2000, 900, 500
_AS_LONG = 3400
"""Steps of the drift in that time (benchmarks/flow_map.py). More for the teacher: jumps are no better than its ODE."""


def get_config(variant: str = "") -> ConfigDict:
    """The flow map beside what it is compared with, or its rules beside each other."""
    if variant not in ("", "rules"):
        raise ValueError(f"no variant {variant!r} of ablation_flow_map, expected rules or none")
    config = common.digits_study(full=False)
    config.train.update(_steps(_TEACHER))
    config.eval.update(
        generation={"images": 1000},
        straightness={"on": False},
        residual={"on": False},
        likelihood={"images": 100},
        few_calls={"images": 1000, "translations": 10, "held_out": 364},
    )
    config.reflow.update(num_pairs=3000, shard_size=1000, num_steps=_REFLOW, distill_steps=1, rounds=2)
    config.objective = common.objective("path_constrained", weight_exponent=2.0)
    if variant == "rules":
        config.model.time_scale = 4.0
        config.eval.few_calls.translations = 0
        config.eval.likelihood.by = "none"
        rules = {
            "lagrangian": _map(),
            "semigroup": _map(rule="semigroup"),
            "eulerian": _map(rule="eulerian"),
        }
        return common.study(config, "ablation_flow_map_rules", "teacher", {"teacher": {}, **rules})
    cells = {
        "teacher": {},
        "rectified flow, as long": {"changes": {"train": _steps(_AS_LONG)}},
        "flow map": _map(),
        "2-rectified, one Euler step": {
            "of": "teacher",
            "stage": "2",
            "changes": {"solver": {"method": "euler", "num_steps": 1}, "eval": {"likelihood": {"by": "none"}}},
            "why": {"bits_per_dim": "one step"},
        },
        "distilled to one step (l2)": {
            "of": "teacher",
            "stage": "2_distilled",
            "changes": {"eval": {"likelihood": {"by": "none"}}},
            "why": {"bits_per_dim": "no ODE: trained at t = 0 alone"},
        },
    }
    return common.study(config, "ablation_flow_map", "teacher", cells)


def _steps(count: int) -> dict[str, Any]:
    """A run of so many steps, over the second half of which the learning rate falls to 0."""
    return {"num_steps": count, "checkpoint_every": count, "log_every": 250, "cooldown_steps": count // 2}


def _map(**fields: Any) -> dict[str, Any]:
    """A flow map that learns from the teacher, by the rule of these fields."""
    changes = {
        "objective": common.given(common.objective("flow_map", diagonal=0.25, **fields)),
        "model": {"two_times": True},
        "train": _steps(_STEPS),
        "eval": {"few_calls": {"on": True}},
    }
    return {"teacher": "teacher", "changes": changes}
