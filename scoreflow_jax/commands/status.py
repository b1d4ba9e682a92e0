"""--mode=status: how far a run is, on one screen. Reads files only: no data, no device, and nothing is changed."""

import importlib.util
import math
import os
import pathlib
import statistics
import sys
import time
from typing import Any, NamedTuple

from scoreflow_jax import sums
from scoreflow_jax.checkpoints import checkpoint_steps
from scoreflow_jax.commands.verify import verify as verify_all
from scoreflow_jax.errors import UserError, first_line
from scoreflow_jax.plain_config import config_hash, read_config
from scoreflow_jax.text_plots import Characters, characters_for, draw_bar, draw_curve

_WIDTH = 80
_LABEL = 13  # characters left of what a line says
_BAR = 30  # characters at the most
_RECENT = 20  # records whose median is the present rate
_CHECKPOINTS_SHOWN = 3
_SILENT = 5  # times the usual time between records: beyond it, a run whose lock cannot be seen counts as stopped
_SHORTEST_SILENCE = 60.0  # seconds


class Progress(NamedTuple):
    """How far a run is.

    Attributes:
        step, num_steps: done, and wanted.
        batch_size: of one step.
        records: of metrics.jsonl, by step.
        age: seconds since the last one was written; None where there is none.
        checkpoints: steps.
        trains: whether a process trains there now.
    """

    step: int
    num_steps: int
    batch_size: int
    records: list[dict[str, Any]]
    age: float | None
    checkpoints: list[int]
    trains: bool

    @property
    def rate(self) -> float | None:
        """Images a second."""
        return recent(self.records, "images_per_second")

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the last step at the present rate; None where that is not known."""
        return max(self.num_steps - self.step, 0) * self.batch_size / self.rate if self.rate else None


def run_command(workdir: pathlib.Path, verify: str = "") -> None:
    """Prints the screen.

    Args:
        workdir: of the run.
        verify: where given, all that the run has stored is compared with its sums as well.

    Raises:
        UserError: no run there, or something is damaged.
    """
    print("\n".join(screen(workdir, time.time(), characters_for(sys.stdout.encoding))), flush=True)
    if verify:
        print("\n".join(verify_all(workdir)))


def screen(workdir: pathlib.Path, now: float, characters: Characters) -> list[str]:
    """Describes a run in at most 22 lines: with the one on the time that the command took, and the next prompt, 24.

    Args:
        workdir: of the run.
        now: seconds since the epoch.
        characters: for the curve.
    """
    config = read_config(workdir)
    try:
        progress = read_progress(config, workdir, now)
        lines = [f"{config['name']} ({config_hash(config)}) in {workdir}", _line("config", _describe(config))]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{workdir / 'config.json'} is not the config of a run ({type(error).__name__}: {first_line(error)}): "
            "restore it, or give the workdir of a run"
        ) from error
    lines += [_line("progress", _how_far(progress)), _line("state", _state(progress)), *_speed(progress)]
    lines += _losses(progress.records, characters)
    lines += _checkpoints(workdir / "checkpoints", progress.checkpoints, now)
    for label, folder, pattern in (
        ("damaged", workdir / "checkpoints", "damaged-*"),
        ("failures", workdir, "failure-*"),
    ):
        found = [path.name for path in sorted(folder.glob(pattern), key=_age_order)]
        if found:
            lines.append(_line(label, ", ".join(found)))
    pictures = sorted((workdir / "train").glob("samples_*.png"), key=_age_order)
    if pictures:
        path = str(pictures[-1])
        short = str(pictures[-1].relative_to(workdir))  # of the folder that the first line names
        lines.append(_line("preview", path if len(path) <= _WIDTH - _LABEL else short))
    return [_cut(line) for line in lines]


def read_progress(config: dict[str, Any], workdir: pathlib.Path, now: float) -> Progress:
    """Reads what the run has written so far.

    Args:
        config: of the run, as plain data.
        workdir: of the run.
        now: the present time, in seconds since the epoch.
    """
    train, path = config["train"], workdir / "metrics.jsonl"
    records, checkpoints = read_records(path), checkpoint_steps(workdir / "checkpoints")
    progress = Progress(
        step=max([r["step"] for r in records[-1:]] + checkpoints[-1:], default=0),
        num_steps=train["num_steps"],
        batch_size=train["batch_size"],
        records=records,
        age=max(now - path.stat().st_mtime, 0.0) if records else None,
        checkpoints=checkpoints,
        trains=False,
    )
    held = is_locked(workdir)
    return progress._replace(trains=_wrote_lately(progress) if held is None else held)


def read_records(path: pathlib.Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl by step, without a line that is half written or damaged; none where there is no file."""
    if not path.exists():
        return []
    found = [sums.record_of(line) for line in path.read_text(errors="replace").splitlines()]
    records = [record for record in found if record is not None and type(record.get("step")) is int]
    return sorted(records, key=lambda record: record["step"])


def is_locked(workdir: pathlib.Path) -> bool | None:
    """Whether a process trains there; None where the system does not tell.

    A shared lock that is tried and dropped at once. /proc/locks would not touch the file, but names no lock of another
    container or another machine, and devices that stat does not know. Training tries again after a moment, see `locked`.
    """
    if importlib.util.find_spec("fcntl") is None:  # Windows
        return None
    import fcntl

    try:
        with (workdir / ".lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:  # a file of another user, or a file system without locks
        return None
    return False


def _wrote_lately(progress: Progress) -> bool:
    """Whether the last record is not older than a few of the times between records."""
    if progress.age is None or not progress.rate or progress.step >= progress.num_steps:
        return False
    steps = [record["step"] for record in progress.records[-2:]]
    usual = (steps[-1] - steps[0]) * progress.batch_size / progress.rate
    return progress.age < max(_SILENT * usual, _SHORTEST_SILENCE)


def recent(records: list[dict[str, Any]], name: str) -> float | None:
    """The median of a number over the last records; None where they do not have it."""
    values = [record.get(name) for record in records[-_RECENT:]]
    finite = [float(value) for value in values if value is not None and _is_finite(value)]
    return statistics.median(finite) if finite else None


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _describe(config: dict[str, Any]) -> str:
    """What the run is of, as far as a line goes: all of it is in config.json."""
    data, model = config["data"], config["model"]
    source = data["source"] if data["source"] == data.get("name") else f"{data['source']} {data.get('name') or ''}"
    shape = "x".join(map(str, data["shape"]))
    width = model.get("base_channels", model.get("width", ""))
    parts = [
        f"{source.strip()} {shape}".strip(),
        f"{model['name']} {width}".strip(),
        f"batch {config['train']['batch_size']}",
    ]
    return ", ".join([*parts, str(model["dtype"])])


def _how_far(progress: Progress) -> str:
    share = progress.step / max(progress.num_steps, 1)
    percent = math.floor(1000 * min(share, 1.0)) / 10  # 100 % is said only of all
    text = (
        f" {progress.step:,} of {progress.num_steps:,}, {percent:.1f}%, {progress.step * progress.batch_size:,} images"
    )
    return draw_bar(share, min(_BAR, _WIDTH - _LABEL - len(text))) + text


def _state(progress: Progress) -> str:
    age = None if progress.age is None else f"{duration(progress.age)} ago"
    written = "no record yet" if age is None else f"last record {age}"
    if progress.step >= progress.num_steps:
        return f"finished; {'its process is still there; ' if progress.trains else ''}{written}"
    if progress.trains:
        left = "" if progress.seconds_left is None else f", {duration(progress.seconds_left)} left"
        return f"training{left}; {written}"
    if not progress.step:
        return f"not begun; {written}"
    goes_on = "goes on" if progress.checkpoints else "starts anew"
    return f"stopped at step {progress.step:,}{f', {age}' if age else ''}: the same command {goes_on}"


def _speed(progress: Progress) -> list[str]:
    """The rate and what bounds it, as far as the records say."""
    found = (
        (progress.rate, "{:,.1f} images/s"),
        (recent(progress.records, "data_wait_share"), "data wait {:.1%}"),
        (recent(progress.records, "share_of_peak"), "{:.1%} of peak"),
        (recent(progress.records, "memory_gb"), "{:.1f} GB"),
    )
    parts = [text.format(value) for value, text in found if value is not None]
    return [_line("speed", ", ".join(parts))] if parts else []


def _losses(records: list[dict[str, Any]], characters: Characters) -> list[str]:
    """The loss now and at its lowest, and its curve."""
    losses = [(record["step"], record["loss"]) for record in records if isinstance(record.get("loss"), int | float)]
    finite = [(float(step), float(loss)) for step, loss in losses if _is_finite(loss)]
    if not losses:
        return []
    text = f"{losses[-1][1]:.4g} now"
    if not finite:
        return [_line("loss", text)]
    step, lowest = min(finite, key=lambda pair: pair[1])
    steps, values = zip(*finite, strict=True)
    curve = draw_curve(steps, values, names=("step", "loss"), characters=characters)
    return [_line("loss", f"{text}, {lowest:.4g} lowest at step {step:,.0f}"), *curve]


def _checkpoints(directory: pathlib.Path, steps: list[int], now: float) -> list[str]:
    """The newest with size and age, a line each, and in one how many more there are."""
    lines, newest = [], steps[::-1]
    shown = newest if len(newest) <= _CHECKPOINTS_SHOWN else newest[: _CHECKPOINTS_SHOWN - 1]
    for step in shown:
        folder = directory / str(step)
        try:
            age = duration(max(now - folder.stat().st_mtime, 0.0))
        except FileNotFoundError:  # deleted just now, as newer ones have come
            continue
        lines.append(f"{step:>9,}  {_size(folder) / 1e6:,.1f} MB, {age} old")
    if len(newest) > len(shown):
        lines.append(f"and {len(newest) - len(shown)} older, from {steps[0]:,}")
    labels = ["checkpoints"] + [""] * len(lines)
    return [_line(label, line) for label, line in zip(labels, lines or ["none yet"], strict=False)]


def _size(folder: pathlib.Path) -> int:
    """Bytes of all files below; one that disappears meanwhile counts nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_size
            except FileNotFoundError:
                continue
    return total


def _age_order(path: pathlib.Path) -> tuple[int, str]:
    """A key that sorts by the step in a name: damaged-36, failure-120, samples_0000040.png."""
    digits = "".join(c if c.isdigit() else " " for c in path.stem).split()
    return int(digits[0]) if digits else -1, path.name


def duration(seconds: float) -> str:
    """The two largest units: 3 d 4 h, 2 h 10 min, 5 min, 12 s."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{hours // 24} d {hours % 24} h"


def _line(label: str, text: str) -> str:
    return f"{label:{_LABEL}}{text}"


def _cut(line: str) -> str:
    """Within the screen's width. The end stays, which tells paths and steps apart."""
    if len(line) <= _WIDTH:
        return line
    return f"{line[:30]} ... {line[-(_WIDTH - 35) :]}"
