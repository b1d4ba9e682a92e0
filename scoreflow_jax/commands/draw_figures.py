"""--mode=figures: the paper's figures 3 to 6 from one's own model."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from scoreflow_jax import figures, files, plots
from scoreflow_jax.commands import reports
from scoreflow_jax.commands import workdir as workdirs
from scoreflow_jax.commands.sample import balanced_labels
from scoreflow_jax.data import DataSource, read_all
from scoreflow_jax.errors import UserError, first_line
from scoreflow_jax.experiment import Experiment
from scoreflow_jax.figures import Panel, in_rows
from scoreflow_jax.model import Model
from scoreflow_jax.programs import Encode, Generate, Translate
from scoreflow_jax.randomness import key_of
from scoreflow_jax.sampling import TRANSLATIONS, Solved, methods_by
from scoreflow_jax.settings.commands import FiguresSettings
from scoreflow_jax.typing import HostImages

_GENERATE = "dx = f(x, t, c) dt from t = 0 to 1 (eq. 10)"
_ENCODE = "the same ODE from t = 1 to 0"
_METHODS = {
    "difference": "dx = [f(x, t, target) - f(x, t, source)] dt from the image at t = 0 (eq. 20), the paper's",
    "latent": "encoded with the source class and decoded with the target class, reversible as far as the solver is exact",
}
_SHORT = {"difference": "difference (eq. 20)", "latent": "latent"}
_INTERPOLATE = "z = sqrt(1 - alpha) z0 + sqrt(alpha) z1, z0 and z1 from N(0, I), decoded"
_MOST_CLASSES = 20  # rows of figure 3
_LONGEST_NAME = 24  # characters of a class's name in a picture

Drawn = tuple[list[list[Panel]], dict[str, Any]]
"""A figure's lines of panels, and what the report says of it."""


@dataclasses.dataclass(frozen=True)
class _Case:
    """What the figures are drawn from.

    Attributes:
        model: the model.
        names: of its classes, as the run knows them.
    """

    model: Model
    names: tuple[str, ...]

    @property
    def settings(self) -> FiguresSettings:
        return self.model.experiment.figures

    @functools.cached_property
    def test(self) -> DataSource | str:
        """The test split, or why it cannot be opened."""
        try:
            return self.model.experiment.split("test")
        except UserError as error:
            return first_line(error)

    @property
    def methods(self) -> tuple[str, ...]:
        """Of translation, those that the solver can, in the order of the figures."""
        return tuple(m for m in _METHODS if m in methods_by(self.model.experiment.solver))

    def points(self, number: int, count: int) -> jax.Array:
        """Points at t = 0, as many different ones as there are; each figure has its own."""
        key = jax.random.fold_in(key_of(jax.random.key(self.settings.seed), "figure"), number)
        return self.model.source_points(key, self.model.at_most(count))

    def label(self, c: int) -> str:
        """What a picture calls a class: its number where the font cannot write its name."""
        name = self.names[c]
        if name.isdigit() or not figures.can_draw(name):
            return f"class {name if name.isdigit() else c}"
        return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"

    def named(self, classes: Sequence[int]) -> dict[str, str]:
        """What the report calls classes."""
        return {str(c): self.names[c] for c in classes}


def run_command(experiment: Experiment, workdir: pathlib.Path, out: str | None = None) -> None:
    """Writes figures/{figure3.png, figure4.png, figure5.png, figure6.png, report.json}, as many as the model can have.

    Args:
        experiment: built from the config at hand.
        workdir: the run's folder.
        out: the folder to write to; None: figures/ in the workdir.
    """
    _check(experiment)
    model = workdirs.open_model(experiment, workdir, batch_size=experiment.figures.batch_size)
    folder = reports.out_folder("figures", workdir, "figures", out)
    case = _Case(model, workdirs.class_names(experiment, workdir))
    left_out = _left_out(experiment)
    for why in dict.fromkeys(left_out.values()):
        numbers = [str(number) for number in left_out if left_out[number] == why]
        s, are = ("s", "are") if len(numbers) > 1 else ("", "is")
        print(f"figure{s} {' and '.join(numbers)} {are} left out: {why}")
    facts = {}
    for number, draw in (_BASE_FIGURES if experiment.data.base else _FIGURES).items():
        name = f"figure{number}"
        if number in left_out:
            (folder / f"{name}.png").unlink(missing_ok=True)  # of an earlier command: the report is silent on it
            continue
        lines, facts[name] = draw(case)
        with files.whole_file(folder / f"{name}.png") as path:
            figures.save_panels(path, lines)
        print(f"drew {folder / name}.png: {facts[name]['shows']}")
    head = reports.report_head(model, "figures", seed=experiment.figures.seed)
    reasons = {f"figure{number}": why for number, why in left_out.items()}
    files.write_json(folder / "report.json", {**head, "figures": facts, "left_out": reasons})


def _check(experiment: Experiment) -> None:
    """Refuses what cannot be drawn.

    Raises:
        UserError: no Pillow or matplotlib, points, classes beside a base, or rows too wide for a picture.
    """
    if plots.missing():
        raise UserError(
            f"--mode=figures needs {' and '.join(plots.missing())}, not installed: use --mode=sample, which does not"
        )
    if experiment.spec.is_points:
        raise UserError("the data are points of a table, but these figures are of images: use --mode=sample or eval")
    if experiment.data.base and experiment.conditional:
        raise UserError(
            "figures of a model between two data sets that also has classes are not drawn: use the Python API"
        )
    most = figures.most_columns(experiment.spec.shape)
    for field in ("num_images", "num_times", "num_steps"):
        value = getattr(experiment.figures, field)
        if value > most:
            raise UserError(
                f"config.figures.{field} is {value}, expected at most {most}: images of this size in a row of a picture "
                f"less than {figures.MAXIMAL_WIDTH} pixels wide"
            )


def _left_out(experiment: Experiment) -> dict[int, str]:
    """The figures that this model cannot have, and why."""
    if experiment.data.base:
        return {
            5: "it is of classes, and this model goes between two data sets: see figure 4",
            6: "it interpolates between Gaussian latents, and the points at t = 0 are images (config.data.base)",
        }
    if not experiment.conditional:
        return dict.fromkeys((4, 5), "they translate between classes, and the model is unconditional")
    count = len(_classes(experiment))
    whose = "config.figures.classes names" if experiment.figures.classes else "the model has"
    return {n: f"it shows {needed} classes, and {whose} {count}" for n, needed in ((4, 2), (5, 3)) if count < needed}


def _classes(experiment: Experiment) -> tuple[int, ...]:
    return experiment.figures.classes or tuple(range(experiment.num_classes))


def _figure3(case: _Case) -> Drawn:
    """Samples: a row a class."""
    columns, every = case.settings.num_images, case.model.num_classes
    classes = range(every)[:_MOST_CLASSES]
    labels = np.repeat(np.asarray(classes, np.int32), columns) if every else None
    points = case.points(3, len(classes) * columns if every else columns**2)
    solved = case.model.solve(Generate(denoise=True), points, labels)
    shows = "samples"
    if len(classes) < every:
        shows += f" of the first {len(classes)} of {every} classes"
    panel = Panel(in_rows(solved.y, columns), shows, captions=[case.label(c) for c in classes])
    return [[panel]], {"shows": shows, **_sampling_facts(solved), "classes": case.named(classes)}


def _figure4(case: _Case) -> Drawn:
    """Two classes and both translations, by both methods."""
    classes = _classes(case.model.experiment)[:2]
    panels, samples, solved = _sample_panels(case, 4, classes)
    images, which = zip(*(_sources(case, c, samples[c], case.settings.num_images) for c in classes), strict=True)
    counts = [len(i) for i in images]
    of, to = (np.repeat(np.asarray(c, np.int32), counts) for c in (classes, classes[::-1]))
    joined = np.concatenate(images)
    translated = {m: case.model.solve(Translate(m), joined, of, to) for m in case.methods}
    lines = [panels]
    for i, part in enumerate((slice(0, counts[0]), slice(counts[0], None))):
        rows = [images[i], *(s.y[part] for s in translated.values())]
        captions = [which[i].partition(":")[0], *(_SHORT[m] for m in translated)]
        title = f"({'cd'[i]}) {case.label(classes[i])} to {case.label(classes[1 - i])}"
        lines.append([Panel(rows, title, captions)])
    return lines, {
        "shows": "samples of {} and {}, and translations both ways".format(*map(case.label, classes)),
        "classes": case.named(classes),
        "samples": _sampling_facts(solved),
        "translations": _translations_told(translated),
        "sources": {str(c): f"{w}, {n} of them" for c, w, n in zip(classes, which, counts, strict=True)},
    }


def _figure5(case: _Case) -> Drawn:
    """Three classes, and the way from the first to the third along t."""
    classes = _classes(case.model.experiment)[:3]
    first, third = classes[0], classes[2]
    panels, samples, solved = _sample_panels(case, 5, classes)
    images, which = _sources(case, first, samples[first], case.settings.num_pairs)
    times = np.linspace(0.0, 1.0, case.settings.num_times)
    moved = {m: case.model.solve(Translate(m), images, first, third, times=times) for m in case.methods}
    title = f"(d) {case.label(first)} to {case.label(third)} along t, from {which.partition(':')[0]}:"
    lines = [panels]
    if "difference" in moved:
        lines.append([_progress(moved["difference"], 0, times, f"{title} {_SHORT['difference']}")])
    lines.append(
        [
            _progress(moved["latent"], 0, times[::-1], f"{title} latent, encoding"),
            _progress(moved["latent"], len(times), times, "latent, decoding"),
        ]
    )
    return lines, {
        "shows": "samples of {}, {} and {}, and the first becoming the third".format(*map(case.label, classes)),
        "classes": case.named(classes),
        "samples": _sampling_facts(solved),
        "translations": _translations_told(moved),
        "sources": {str(first): f"{which}, {len(images)} of them"},
        "times": times.tolist(),
    }


def _figure6(case: _Case) -> Drawn:
    """Walks between two latents."""
    s, classes = case.settings, _classes(case.model.experiment)
    labels = balanced_labels(s.num_pairs, classes)
    shown = () if labels is None else labels.tolist()
    noise = case.points(6, 2 * s.num_pairs)
    ends = noise[0::2], noise[1::2]
    solved = case.model.solve_between(*ends, labels, num_steps=s.num_steps, rule="square_root")
    heads = [f"α={alpha:.2f}" for alpha in np.linspace(0, 1, s.num_steps)]
    panel = Panel(
        list(solved.y), "interpolation in latent space, z = √(1−α) z₀ + √α z₁", [case.label(c) for c in shown], heads
    )
    facts = {"shows": "interpolations", "method": _INTERPOLATE, "classes": case.named(shown)}
    return [[panel]], {**facts, "num_pairs": s.num_pairs, "num_steps": s.num_steps, "cost": solved.stats.summary()}


def _base_figure3(case: _Case) -> Drawn:
    """Images of the data at t = 0 over what becomes of them."""
    base = case.points(3, case.settings.num_images * case.settings.num_pairs)
    solved = case.model.solve(Generate(), base, None)
    pairs = zip(*(in_rows(np.asarray(x), case.settings.num_images) for x in (base, solved.y)), strict=True)
    rows = [row for pair in pairs for row in pair]
    shows = "images of the data at t=0 over their results at t=1"
    panel = Panel(rows, shows, ["t=0", "t=1"] * (len(rows) // 2))
    return [[panel]], {"shows": shows, **_sampling_facts(solved), "sources": "test split of config.data.base"}


def _base_figure4(case: _Case) -> Drawn:
    """Both ways between the two data sets."""
    n = case.settings.num_images
    base = case.points(4, n)
    forth = case.model.solve(Generate(), base, None)
    images, which = _sources(case, None, forth.y, n)
    back = case.model.solve(Encode(), images, None)
    kind = which.partition(":")[0]
    lines = [
        [Panel([np.asarray(base), forth.y], "(a) data at t=0 to those at t=1", ["test images", "results"])],
        [Panel([images, back.y], "(b) data at t=1 to those at t=0", [kind, "results"])],
    ]
    return lines, {
        "shows": "the data at t=0 carried to t=1, and those at t=1 to t=0",
        "translations": {
            "0 to 1": _sampling_facts(forth),
            "1 to 0": {"method": _ENCODE, "cost": back.stats.summary()},
        },
        "sources": {
            "0": f"test images of config.data.base, {len(base)} of them",
            "1": f"{which}, {len(images)} of them",
        },
    }


_FIGURES: dict[int, Callable[[_Case], Drawn]] = {3: _figure3, 4: _figure4, 5: _figure5, 6: _figure6}
_BASE_FIGURES: dict[int, Callable[[_Case], Drawn]] = {3: _base_figure3, 4: _base_figure4, 5: _figure5, 6: _figure6}


def _sample_panels(
    case: _Case, number: int, classes: Sequence[int]
) -> tuple[list[Panel], dict[int, HostImages], Solved]:
    """A panel of samples for each class, in two rows, and the samples themselves."""
    n = case.settings.num_images
    solved = case.model.solve(
        Generate(), case.points(number, n * len(classes)), np.repeat(np.asarray(classes, np.int32), n)
    )
    samples = {c: solved.y[i * n : (i + 1) * n] for i, c in enumerate(classes)}
    titles = [f"({letter}) samples of {case.label(c)}" for letter, c in zip("abc", classes, strict=False)]
    rows = [in_rows(images, -(-n // 2)) for images in samples.values()]
    return [Panel(r, title) for r, title in zip(rows, titles, strict=True)], samples, solved


def _sources(case: _Case, c: int | None, generated: HostImages, count: int) -> tuple[np.ndarray, str]:
    """The first test images of a class, or of any where it is None; generated ones where there are none. And which they are."""
    if isinstance(case.test, str):
        return generated[:count], f"generated images: {case.test}"
    if c is None:
        found = read_all(case.test, count)["image"]
    else:
        members = np.flatnonzero(case.test.labels() == c)[:count]
        if not len(members):
            return generated[:count], "generated images: the test split has none of the class"
        found = case.test.read(members)["image"]
    return case.model.experiment.scaling.to_images(found), "test images"


def _progress(solved: Solved, first: int, times: np.ndarray, title: str) -> Panel:
    """The states that were kept from number `first` on, a row an image."""
    assert solved.path is not None  # times were given
    states = solved.path[first : first + len(times)]
    return Panel([states[:, i] for i in range(states.shape[1])], title, heads=[f"t={t:.2f}" for t in times])


def _sampling_facts(solved: Solved) -> dict[str, Any]:
    return {"method": _GENERATE, "cost": solved.stats.summary()}


def _translations_told(solved: dict[str, Solved]) -> dict[str, Any]:
    calls = {m: TRANSLATIONS[m].network_calls for m in solved}
    return {m: {"method": _METHODS[m], "cost": s.stats.summary(calls[m])} for m, s in solved.items()}
