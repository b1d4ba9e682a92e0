"""Where training's numbers go: metrics.jsonl always, TensorBoard through clu where TensorFlow is installed."""

import contextlib
import importlib.util
import math
import os
import pathlib
import sys
from typing import Any, Protocol, runtime_checkable

import jax

from scoreflow_jax import files, sums
from scoreflow_jax.errors import UserError, first_line


@runtime_checkable
class Writer(Protocol):
    """Takes scalars by step."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes one record."""
        ...

    def close(self) -> None:
        """Flushes and closes."""
        ...


class JsonlWriter:
    """One JSON object a line: the step first, then the values, and the line's sum (`sums.line_of`)."""

    def __init__(self, path: pathlib.Path, *, first_step: int = 0, logged: int = 0) -> None:
        """Opens for appending.

        Args:
            path: the file.
            first_step: records of later steps are dropped: a resumed run writes them again.
            logged: the step of which there must be a record, or of a later one: where the file has none, a line says so.
        """
        if path.exists():
            text = path.read_text(errors="replace")
            kept = [line for line in text.splitlines() if step_of(line) <= first_step]
            if broken := sums.damaged_lines(text):
                print(f"{path} has {len(broken)} damaged lines, which are left out", file=sys.stderr)
            temporary = path.with_suffix(".tmp")
            temporary.write_text("".join(line + "\n" for line in kept))
            os.replace(temporary, path)
            last = max(map(step_of, kept), default=0)
            if last < logged:
                print(f"{path} has no record between the steps {last:.0f} and {logged}: they are lost", file=sys.stderr)
        self._file = path.open("a")

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Appends one record.

        Raises:
            UserError: it cannot be written, as on a full disk.
        """
        try:
            self._file.write(sums.line_of({"step": step, **values}) + "\n")
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"cannot write to {self._file.name} ({first_line(error)}): make room; the same command goes on from the last "
                "checkpoint"
            ) from error

    def close(self) -> None:
        """Closes the file."""
        with contextlib.suppress(OSError):  # what a full disk did not take was complained of when it was written
            self._file.close()


def step_of(line: str) -> float:
    """The step of a record; infinite for a line that is damaged, or cut short by a crash, which is so dropped."""
    record = sums.record_of(line)
    return float(record["step"]) if record is not None and type(record.get("step")) is int else math.inf


class _TensorBoard:
    """clu's asynchronous summary writer."""

    def __init__(self, directory: pathlib.Path) -> None:
        from clu import metric_writers

        self._writer: Any = metric_writers.AsyncWriter(metric_writers.SummaryWriter(str(directory)))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Queues one record."""
        self._writer.write_scalars(step, values)

    def close(self) -> None:
        """Writes what is queued."""
        self._writer.close()


class _Several:
    def __init__(self, writers: list[Any]) -> None:
        self._writers = writers

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for writer in self._writers:
            writer.scalars(step, values)

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


def open_writers(workdir: pathlib.Path, *, first_step: int, tensorboard: bool, logged: int = 0) -> Writer:
    """Opens metrics.jsonl, and TensorBoard where it is wanted and there.

    Args:
        workdir: of the run; TensorBoard's files go to `<workdir>/tensorboard`.
        first_step: the step the run starts or resumes from.
        logged: see `JsonlWriter`.
        tensorboard: whether it is wanted. Where TensorFlow or clu is missing, one line says so and the run goes on.
    """
    if not files.writing():
        return _Several([])
    writers: list[Any] = [JsonlWriter(workdir / "metrics.jsonl", first_step=first_step, logged=logged)]
    if tensorboard:
        missing = [name for name in ("tensorflow", "clu") if importlib.util.find_spec(name) is None]
        if missing:
            print(
                f"no TensorBoard: {' and '.join(missing)} not installed. metrics.jsonl has every number; "
                "--config.train.tensorboard=False silences this line",
                file=sys.stderr,
            )
        else:
            writers.append(_TensorBoard(workdir / "tensorboard"))
    return _Several(writers)


def parameter_overview(params: Any) -> str:
    """A table of all parameters with shapes and sizes, its last line the total; the total alone where clu is missing."""
    leaves = [leaf.size for leaf in jax.tree.leaves(params)]
    total = f"{sum(leaves):,} parameters in {len(leaves)} arrays"
    if importlib.util.find_spec("clu") is None:
        return total
    from clu import parameter_overview as clu_overview

    table = clu_overview.get_parameter_overview(params, include_stats=False)
    return f"{table}\n{total}"
