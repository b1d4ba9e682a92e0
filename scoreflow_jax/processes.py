"""Several processes as one run: how they find each other, fail together and stop together. One process needs none of it.

Each process runs the whole program on its share of the data. What they compute together, XLA sums; what one of them alone knows,
an error or a signal, is told to all here, so that none waits for one that has gone.
"""

import contextlib
import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

import jax
import numpy as np

from scoreflow_jax import files, last_words
from scoreflow_jax.errors import UserError, first_line
from scoreflow_jax.settings import PROCESS_FLAGS

_TEXT = 600  # bytes of an error that the others are told


@contextlib.contextmanager
def joined(given: Mapping[str, str], *, preemptible: bool = True) -> Iterator[None]:
    """A command in all processes of the run, of which only the first prints and writes; errors are heard from all.

    Args:
        given: those of `PROCESS_FLAGS` that were given.
        preemptible: whether the command stops at a step of its own after SIGTERM; otherwise the signal ends it.

    Raises:
        UserError: as `start`.
    """
    streams = sys.stdout, sys.stderr
    start(given)
    if jax.distributed.is_initialized():
        last_words.prepare(
            "error: this process was ended from outside, or because another process of this run was lost: start all of them again"
            + ("; training goes on from the last checkpoint" if preemptible else "")
        )
    if not preemptible and jax.distributed.is_initialized():  # whose preemption service would swallow it
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    except Stopped:
        part()
        raise
    except BaseException:
        sys.stdout, sys.stderr = streams
        raise
    part()


def start(given: Mapping[str, str]) -> None:
    """Joins the processes of this run, if there are others, before anything asks JAX for its devices.

    They are named by the flags; else by Slurm or Open MPI, where this process is one of several; else, on a TPU virtual machine,
    by the pod. All but the first fall silent on standard output and write no files.

    Args:
        given: those of `PROCESS_FLAGS` that were given.

    Raises:
        UserError: only some of the flags, values that name no process, or others that cannot be reached.
    """
    arguments = _from_flags(given) if given else _devices_of_slurm()
    if not given and not _scheduled():
        return
    try:
        jax.distributed.initialize(**arguments)
    except (ValueError, RuntimeError) as error:
        if not given and _on_tpu_vm() and "should be defined" in str(error):  # no pod: a single machine
            return
        where = f" at {arguments['coordinator_address']}" if given else ""
        raise UserError(
            f"this process could not join the others{where} ({first_line(error)}): start all of them within five minutes, and "
            "name a coordinator that they can reach"
        ) from error
    if jax.process_index():
        silence()


def part() -> None:
    """Ends what processes do together: waits for the others, whose loss until then ends this one with the runtime's noise."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()
    last_words.cancel()


def silence() -> None:
    """Makes this a process that computes and says nothing: only the first prints and draws."""
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    files.write_nothing()


def _from_flags(given: Mapping[str, str]) -> dict[str, Any]:
    missing = [name for name in PROCESS_FLAGS if name not in given]
    if missing:
        raise UserError(
            f"--{missing[0]} is missing: several processes are named by --coordinator=HOST:PORT of the first, "
            "--num_processes=N and --process_id=0 to N-1, all three"
        )
    count, index = (given[name] for name in PROCESS_FLAGS[1:])
    if not (count.isdecimal() and index.isdecimal() and int(index) < int(count)):
        raise UserError(
            f"--num_processes={count} and --process_id={index}: expected numbers, the second below the first"
        )
    host, _, port = given["coordinator"].rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--coordinator is {given['coordinator']!r}, expected HOST:PORT, such as 10.0.0.1:8476")
    return {"coordinator_address": given["coordinator"], "num_processes": int(count), "process_id": int(index)}


def _scheduled() -> bool:
    """Whether a scheduler started this process together with others, or may have (a TPU virtual machine)."""
    slurm_step = "SLURM_STEP_NODELIST" in os.environ and "SLURM_PROCID" in os.environ
    for variable, present in (("SLURM_NTASKS", slurm_step), ("OMPI_COMM_WORLD_SIZE", True)):
        if present and int(os.environ.get(variable, "1")) > 1:
            return True
    return _on_tpu_vm()


def _devices_of_slurm() -> dict[str, Any]:
    """The GPUs of a Slurm task where JAX's guess, the one of the task's number on its node, is wrong.

    A task that sees one GPU has that one, whatever its number, and the only task of a node has all that it sees.
    """
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    tasks = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    if (
        "SLURM_PROCID" in os.environ
        and visible
        and (len(visible) == 1 or tasks.startswith(("1(", "1,")) or tasks == "1")
    ):
        return {"local_device_ids": list(range(len(visible)))}
    return {}


def _on_tpu_vm() -> bool:
    """Where a pod may be found. Colab's TPU is one host, and has no server that would say so."""
    return importlib.util.find_spec("libtpu") is not None and not any(name.startswith("COLAB_") for name in os.environ)


@contextlib.contextmanager
def all_or_none() -> Iterator[None]:
    """A block that either ends well in all processes or raises in all of them. It must not compute anything together.

    Raises:
        UserError: this process's, or the first other's, with its number.
    """
    own: UserError | None = None
    try:
        yield
    except UserError as error:
        own = error
    if jax.process_count() > 1:
        texts = gather_text("" if own is None else str(own))
        failed = [f"process {i} of {len(texts)}: {text}" for i, text in enumerate(texts) if text]
        if failed:
            own = own or UserError(failed[0])
            own.everywhere = True
    if own is not None:
        raise own


def gather_text(text: str) -> list[str]:
    """What each process says, cut to 600 bytes, by process."""
    from jax.experimental import multihost_utils

    said = np.zeros(_TEXT, np.uint8)
    cut = text.encode()[:_TEXT]
    said[: len(cut)] = np.frombuffer(cut, np.uint8)
    heard = np.reshape(multihost_utils.process_allgather(said), (-1, _TEXT))
    return [bytes(row).rstrip(b"\0").decode(errors="replace") for row in heard]


def check_alike(what: str, value: str) -> None:
    """Whether all processes were started alike.

    Raises:
        UserError: one has another value than the first.
    """
    if jax.process_count() == 1:
        return
    values = gather_text(value)
    other = [i for i, v in enumerate(values) if v != values[0]]
    if other:
        error = UserError(
            f"process {other[0]} of {len(values)} has another {what} than process 0 ({values[other[0]]}, {values[0]}): start all "
            "of them with the same flags, code and data"
        )
        error.everywhere = True
        raise error


def all_agree(answer: bool) -> bool:
    """Whether every process answers yes."""
    return answer if jax.process_count() == 1 else all(text == "yes" for text in gather_text("yes" if answer else "no"))


def wait_for_all(what: str) -> None:
    """Goes on when every process has come here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(what)


_LOST = ("Gloo", "NCCL", "coordination service", "UNAVAILABLE", "DEADLINE_EXCEEDED", "Socket closed", "Barrier")
"""What errors say when another process is gone: JAX raises them as RuntimeError or ValueError, whatever was waiting."""


def lost_peer(error: BaseException | None) -> bool:
    """Whether an error, or one that it came of, says that another process of the run is gone."""
    if error is None or jax.process_count() == 1:
        return False
    return any(words in str(error) for words in _LOST) or lost_peer(error.__cause__ or error.__context__)


def leave(code: int, *, alone: bool = True) -> int:
    """Returns the exit code; of several processes this one ends at once where it is alone in leaving.

    The ordinary end would wait minutes for the others, which wait for this one.
    """
    if not alone:
        part()
    elif jax.distributed.is_initialized():
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None:
                stream.flush()
        last_words.cancel(wait=False)
        os._exit(code)
    return code


class Stopped(Exception):
    """Training was told to stop, and has saved.

    Attributes:
        signum: by which signal.
        step: steps done and saved.
    """

    def __init__(self, signum: int, step: int) -> None:
        """States both."""
        super().__init__(f"stopped by {signal.Signals(signum).name} at step {step}")
        self.signum, self.step = signum, step


class _Interrupted(BaseException):
    """Ends what may be left out once the run is to stop."""


class StopRequests:
    """SIGTERM, SIGINT and SIGHUP as a question that the training loop asks between steps. Use as a context manager.

    Alone, a process catches them (not SIGHUP under nohup); the second SIGTERM or SIGINT ends it at once, but no SIGHUP does: a
    terminal that is closed sends several, and systemd sends one after SIGTERM. Among several, JAX's preemption
    service hears SIGTERM wherever it arrives and has all of them agree on a step to stop at; SIGINT is passed on to it as
    SIGTERM, and the second one ends the process.
    """

    def __init__(self) -> None:
        self._signum: int | None = None
        self._asked = False  # by SIGTERM or SIGINT
        self._can_interrupt = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequests":
        """Listens. Only the main thread can: in another, as in some notebooks, nothing changes."""
        if threading.current_thread() is threading.main_thread():
            alone = jax.process_count() == 1
            heard = (signal.SIGTERM, signal.SIGINT) if alone else (signal.SIGINT,)
            hangup = getattr(signal, "SIGHUP", None)  # a terminal that is closed; not on Windows
            if alone and hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
                heard = (*heard, hangup)
            handler: Callable[[int, FrameType | None], None] = self._hear if alone else _pass_on
            self._before = {signum: signal.signal(signum, handler) for signum in heard}
        return self

    def __exit__(self, *_: object) -> None:
        """Gives the signals back."""
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _hear(self, signum: int, frame: FrameType | None) -> None:
        del frame
        hung_up = signum == getattr(signal, "SIGHUP", None)
        if hung_up and self._signum is not None:
            return
        again, self._asked, self._signum = self._asked and not hung_up, self._asked or not hung_up, signum
        if again:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
        print(
            f"\n{signal.Signals(signum).name}: saving after the step under way; again to stop without saving",
            file=sys.stderr,
            flush=True,
        )
        if self._can_interrupt:
            self._can_interrupt = False
            raise _Interrupted

    def reached(self, calls: int) -> int | None:
        """The signal by which to stop now, else None; asked after every call of the step, with their number so far."""
        if jax.process_count() == 1:
            return self._signum
        from jax.experimental import multihost_utils

        return signal.SIGTERM if multihost_utils.reached_preemption_sync_point(calls) else None

    def unless_stopped(self, function: Callable[[], None]) -> None:
        """Calls what a signal may end early, or not at all where one has come: pictures may take longer than is left to save.

        Only for a process alone; others would be left waiting inside it.
        """
        try:
            self._can_interrupt = True
            if self._signum is None:
                function()
            self._can_interrupt = False
        except _Interrupted:
            pass
        finally:
            self._can_interrupt = False


def _pass_on(signum: int, frame: FrameType | None) -> None:
    """The first SIGINT goes to the preemption service; the second ends this process."""
    del frame
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
