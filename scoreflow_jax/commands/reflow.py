"""--mode=reflow: makes a rectified flow straighter, round by round, and distills it to few steps (Liu et al. 2022, 2209.03003).

Round k takes the model of the round before, carries config.reflow.num_pairs points by its ODE, with averaged weights, and trains
on these pairs of ends from that model's weights as they are, not averaged, with a fresh optimizer and average: the k-rectified
flow, a run of its own in reflow/<k>. With config.reflow.distill_steps a student of the last round's pairs follows, in
reflow/<k>_distilled. Everything that is there already is kept, so the same command goes on where it was stopped.
"""

import copy
import json
import pathlib
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scoreflow_jax import files, processes, randomness, sums
from scoreflow_jax.checkpoints import Checkpoints, checkpoint_steps
from scoreflow_jax.commands import reports, train
from scoreflow_jax.commands import workdir as workdirs
from scoreflow_jax.data import FACTS
from scoreflow_jax.data.pairs import ABOUT, shard_names
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.data import Data
from scoreflow_jax.evaluation.straightness import measure_student
from scoreflow_jax.experiment import Experiment, build
from scoreflow_jax.loading import load_model
from scoreflow_jax.model import Model
from scoreflow_jax.parallel import Layout
from scoreflow_jax.plain_config import read_config
from scoreflow_jax.programs import Generate
from scoreflow_jax.progress import progress
from scoreflow_jax.settings.solve import WITHOUT_ESTIMATE
from scoreflow_jax.training import state_shapes
from scoreflow_jax.typing import PyTree


def run_command(experiment: Experiment, workdir: pathlib.Path) -> None:
    """Writes reflow/<round>/, each a run, and reflow/{report.json, report.md, <round>/few_steps.png}.

    Raises:
        UserError: a path that is not straight, no trained run in the workdir, or pairs there that were made otherwise.
    """
    stages = make_stages(experiment, workdir)
    _report(experiment, workdir, stages)


def make_stages(experiment: Experiment, workdir: pathlib.Path) -> dict[str, pathlib.Path]:
    """Trains what is not there yet; returns the folders of all stages, the run itself as "1", by name.

    Raises:
        UserError: see `run_command`.
    """
    settings = experiment.reflow
    if not experiment.path.is_straight:
        raise UserError("reflow is of the straight path: set config.path.name to 'linear', without a latent")
    if experiment.solver.method in WITHOUT_ESTIMATE:
        raise UserError(
            f"config.solver.method is {experiment.solver.method!r}, but pairs need the ODE solved: take 'dopri5'"
        )
    configs = _configs(experiment, workdir)
    workdirs.open_model(experiment, workdir, batch_size=settings.batch_size)  # refuses what is not this config's run
    stages = {"1": workdir}
    parent = workdir
    for name, config in configs.items():
        parent = stages[name] = _round(experiment, config, parent, _folder(workdir, name), name)
    return stages


def _folder(workdir: pathlib.Path, name: str) -> pathlib.Path:
    """A stage's."""
    return workdir / "reflow" / name


def _configs(experiment: Experiment, workdir: pathlib.Path) -> dict[str, dict[str, Any]]:
    """The stages' configs by name, each built once: what cannot be is said before hours of work.

    Raises:
        UserError: fewer pairs than a batch has, LPIPS without its files, or what the configs' parts refuse.
    """
    settings = experiment.reflow
    if settings.num_pairs < experiment.train.batch_size:
        raise UserError(
            f"config.reflow.num_pairs is {settings.num_pairs}, expected at least a batch, {experiment.train.batch_size}"
        )
    names = [str(number) for number in range(2, settings.rounds + 1)]
    students = [f"{settings.rounds}_distilled"] * bool(settings.distill_steps)
    configs = {
        name: _config(experiment, _folder(workdir, name) / "pairs", name, student=name in students)
        for name in (*names, *students)
    }
    for config in configs.values():
        build(config).objective.prepare()
    return configs


def _round(
    experiment: Experiment, config: dict[str, Any], parent: pathlib.Path, folder: pathlib.Path, name: str
) -> pathlib.Path:
    """Makes the pairs and trains on them, as far as that is not done.

    Raises:
        UserError: the folder holds a stage of another config, or of other pairs.
    """
    wanted = config["train"]["num_steps"]
    stage, of_parent = build(config), build(read_config(parent))
    workdirs.check_may_train(stage, folder)
    model = load_model(of_parent, parent, batch_size=experiment.reflow.batch_size).with_solver(experiment.solver)
    about = _about(experiment, model, parent)
    if wanted in checkpoint_steps(folder / "checkpoints"):
        _check_trained_on(about, folder)
        print(f"reflow {name}: already trained to step {wanted}", flush=True)
        return folder
    print(f"reflow {name}: pairs of {parent}", flush=True)
    _make_pairs(experiment, model, about, folder / "pairs")
    processes.wait_for_all("pairs")
    print(f"reflow {name}: training to step {wanted}", flush=True)
    train.run_command(stage, folder, start=lambda layout: _trained(of_parent, parent, layout))
    return folder


def _about(experiment: Experiment, model: Model, parent: pathlib.Path) -> dict[str, Any]:
    """What pairs.json says of the pairs that the parent's model makes."""
    settings, facts = experiment.reflow, _known(parent / FACTS) or {}
    solver = experiment.solver
    return {
        "num_pairs": settings.num_pairs,
        "shard_size": settings.shard_size,
        "made": {
            "parameters": model.fingerprint,
            "step": model.step,
            "seed": settings.seed,
            "solver": solver.stated,
            # Noise i has the same address in every version of the draws; the order of a data set at t = 0 has not.
            **({"draws": randomness.VERSION} if model.experiment.data.base else {}),
        },
        "data": {
            "class_names": workdirs.class_names(model.experiment, parent) if model.num_classes else (),
            "facts": {k: facts[k] for k in ("columns", "shift", "scale") if k in facts},
        },
    }


def _check_trained_on(about: dict[str, Any], folder: pathlib.Path) -> None:
    """Refuses a finished stage whose pairs were made otherwise: by another model before it, for one.

    Raises:
        UserError: naming the folder to remove.
    """
    facts = _known(folder / FACTS) or {}
    wanted = {"of": about["made"], "train_images": about["num_pairs"]}
    different = [k for k, v in json.loads(json.dumps(wanted)).items() if k in facts and facts[k] != v]
    if different:
        raise UserError(
            f"{folder} was trained on pairs made otherwise: remove that folder to make it anew, or give the settings of before"
        )


def _config(experiment: Experiment, pairs: pathlib.Path, name: str, *, student: bool) -> dict[str, Any]:
    """The run's config with the pairs in place of its data."""
    settings, config = experiment.reflow, copy.deepcopy(experiment.config)
    config["name"] = f"{config['name']}_reflow_{name}"
    config["data"]["pairs"] = str(pairs)
    config["train"].update(num_steps=settings.num_steps, coupling="independent")
    if "teacher" in config["objective"]:  # the pairs are what is learned from now
        config["objective"].update(teacher=None, teacher_sha256=None)
    for section, field in (("optimizer", "warmup_steps"), ("train", "cooldown_steps")):
        config[section][field] = min(config[section][field], settings.num_steps // 10)
    if student:
        weights = {"lpips_backbone": settings.lpips_backbone, "lpips_heads": settings.lpips_heads}
        config["objective"] = {"name": "distillation", "distance": settings.distance, **weights}
        config["times"] = {"name": "grid", "count": settings.distill_steps, "with_end": False}
        config["solver"].update(method="euler", num_steps=settings.distill_steps)
    return config


def _make_pairs(experiment: Experiment, model: Model, about: dict[str, Any], folder: pathlib.Path) -> None:
    """Writes the shards that are not there."""
    settings = experiment.reflow
    known = _known(folder / ABOUT)
    if known is not None and known != json.loads(json.dumps(about)):
        raise UserError(
            f"{folder} holds pairs made otherwise: remove it to make them anew, or give the settings of before"
        )
    sums.write_json(folder / ABOUT, about)
    shards = range(-(-settings.num_pairs // settings.shard_size))
    with processes.all_or_none():
        stated, found = _there(folder, shards) if jax.process_index() == 0 else ({}, [])
    missing = json.loads(processes.gather_text(json.dumps(found))[0])  # all make the same
    started = time.perf_counter()
    with progress("pairs", settings.num_pairs, " pairs") as bar:
        for number in shards:
            count = min(settings.shard_size, settings.num_pairs - number * settings.shard_size)
            if number in missing:
                _make_shard(model, settings.seed, folder, number, number * settings.shard_size, count)
                if files.writing():
                    stated = sums.write_sums(folder, shard_names(number), stated)
            bar.update(count)
    print(
        f"{settings.num_pairs} pairs, {len(missing)} shards made in {time.perf_counter() - started:.0f} s", flush=True
    )


def _there(folder: pathlib.Path, shards: range) -> tuple[dict[str, str], list[int]]:
    """Sums of the shards that are there and whole, and which others have to be made. An earlier version's get their sums now."""
    there = [number for number in shards if (folder / shard_names(number)[-1]).is_file()]
    try:
        stated = sums.read_sums(folder)
    except sums.Damaged as error:
        raise UserError(f"{folder}: {error}: remove that folder, and the pairs are made anew") from error
    if stated is None and there:
        sums.say_without(folder)
        stated = sums.write_sums(folder, [name for number in there for name in shard_names(number)])
    missing = []
    for number in shards:
        try:
            sums.check_files(folder, stated or {}, shard_names(number))
        except sums.Damaged as error:
            missing.append(number)
            if number in there:
                print(f"shard {number} of the pairs in {folder} is damaged ({error}): made anew", file=sys.stderr)
    return stated or {}, missing


def _make_shard(model: Model, seed: int, folder: pathlib.Path, number: int, first: int, count: int) -> None:
    """Pairs first .. first + count - 1: point i at t = 0 is that of fold_in(key(seed), i). The labels' file comes last."""
    x0 = np.asarray(model.source_points(jax.random.key(seed), count, first=first, split="train"), np.float32)
    labels = None
    if model.num_classes:
        labels = (np.arange(first, first + count) % model.num_classes).astype(np.int32)
    x1 = np.asarray(model.solve(Generate(), x0, labels).y, np.float32)
    stored = (x0, x1, np.zeros(count, np.int32) if labels is None else labels)
    for name, array in zip(shard_names(number), stored, strict=True):
        with files.whole_file(folder / name) as temporary:
            np.save(temporary, array)


def _known(path: pathlib.Path) -> dict[str, Any] | None:
    """What a file of ours says; None where there is none.

    Raises:
        UserError: it is damaged.
    """
    try:
        return sums.read_json(path)
    except OSError:
        return None
    except sums.Damaged as error:
        raise UserError(f"{error}: restore it, or remove {path.parent}, which is then made anew") from error


def _trained(of_parent: Experiment, parent: pathlib.Path, layout: Layout) -> PyTree:
    """The parent's parameters as trained, not averaged."""
    ema, rest = train.split_state(state_shapes(of_parent.initial_state, layout))
    with Checkpoints(parent / "checkpoints", keep=of_parent.train.keep_checkpoints) as checkpoints:
        restored = checkpoints.restore_latest(ema=ema, train=rest)
    if restored is None:
        raise UserError(f"{parent} has no whole checkpoint: train it first")
    return jax.tree.map(jnp.copy, restored.train["params"])


def _report(experiment: Experiment, workdir: pathlib.Path, stages: dict[str, pathlib.Path]) -> None:
    """Straightness and few-step samples of every stage; of a student its samples, beside the solutions of its teacher."""
    data = Data(workdirs.of_run(experiment, workdir))
    rows: dict[str, Any] = {}
    teacher: Model | None = None
    model: Any = None
    for name, folder in stages.items():
        model = load_model(build(read_config(folder)), folder, batch_size=experiment.eval.batch_size)
        if teacher is None or name.isdigit():
            rows[name] = experiment.eval.straightness.measure(model, data, workdir / "reflow" / name)
        else:
            rows[name] = measure_student(model, teacher, data)
        teacher = model
    report: dict[str, Any] = {"name": experiment.name, "stages": rows, **reports.environment()}
    if model.experiment.objective.distils:
        report["distance"] = experiment.reflow.distance
    files.write_json(workdir / "reflow" / "report.json", report)
    text = _page(report)
    with files.whole_file(workdir / "reflow" / "report.md") as path:
        path.write_text(text + "\n")
    print(text)
    last = list(stages.values())[-1]
    print(
        f"see {workdir / 'reflow'}; to go on with a stage: --config={last / 'config.json'} --workdir={last} --mode=sample"
    )


def _page(report: dict[str, Any]) -> str:
    """One line a stage."""
    steps = sorted({few["steps"] for row in report["stages"].values() for few in row["few_steps"]})
    head = [
        "stage",
        "straightness",
        "transport cost",
        "NFE",
        *(f"{n} Euler step{'s' * (n > 1)}: off by" for n in steps),
    ]
    judged = "recognized" in next(iter(report["stages"].values()))["solved"]
    head += [f"recognized, {n}" for n in ("solved", *steps)] if judged else []
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for name, row in report["stages"].items():
        cells = [f"{name}-rectified" if name.isdigit() else name.replace("_", "-rectified, ")]
        of = {few["steps"]: few for few in row["few_steps"]}
        cells += [_cell(row, "straightness", ".4f"), _cell(row, "transport_cost", ".4f")]
        cells += [
            _cell(row.get("solved", {}), "nfe", ".0f"),
            *(_cell(of.get(n, {}), "rms_difference", ".4f") for n in steps),
        ]
        if judged:
            cells += [
                _cell(few, "recognized", ".1%") for few in (row.get("solved", {}), *(of.get(n, {}) for n in steps))
            ]
        lines.append("| " + " | ".join(cells) + " |")
    notes = "Off by: root mean square from the solution of the same noise."
    if "distance" in report:
        notes += (
            f" Distilled by {report['distance']}, off by: from its teacher's solution; it has no ODE of its own, being trained "
            "at the times of its steps alone. The published figures of distilled flows used LPIPS."
        )
    return f"# {report['name']}: reflow\n\n" + "\n".join(lines) + f"\n\n{notes}"


def _cell(figures: dict[str, Any], field: str, style: str) -> str:
    return f"{figures[field]:{style}}" if field in figures else "-"
