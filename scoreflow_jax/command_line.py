"""From the command line to one command: parses flags, and turns every mistake into one line and exit code 2.

A config is a file (config_files.py) that becomes plain data at once. Changes of its fields are read by the types that
`sections.SECTIONS` states (plain_config.py).
"""

import contextlib
import errno
import importlib
import importlib.util
import io
import os
import pathlib
import sys
import textwrap
import time
import traceback
from collections.abc import Iterable
from typing import Any

from absl import app

from scoreflow_jax import __version__, config_files, plain_config
from scoreflow_jax.commands import (
    ALONE,
    FLAGS,
    MODES,
    OF_PUBLISHED,
    OPENS,
    OPTIONS,
    TRAINING,
    WITHOUT_DEVICES,
    WITHOUT_EXPERIMENT,
)
from scoreflow_jax.config_files import load_config
from scoreflow_jax.errors import UserError, first_line, nearest
from scoreflow_jax.processor import prepare_bfloat16
from scoreflow_jax.progress import peak_memory
from scoreflow_jax.published import is_published, locate, shipped
from scoreflow_jax.sections import SECTIONS, help_of
from scoreflow_jax.settings import PROCESS_FLAGS
from scoreflow_jax.terminal import outlive_readers
from scoreflow_jax.user_paths import user_path

PROGRAM = "scoreflow"  # the command that `pip install` makes
DEFAULT_CONFIG = "configs/digits.py"
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # as a shell reports SIGINT; 143 is SIGTERM
EXIT_LOST_PEER = 75  # EX_TEMPFAIL: start it again
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES)
_LARGE = 64  # base channels from which a training step allocates so much that keep_freed_memory pays
_OWN = tuple(dict.fromkeys(name for table in (FLAGS, OPTIONS) for names in table.values() for name in names))
_SWITCHES = tuple(name for names in OPTIONS.values() for name, takes in names.items() if not takes)
_FLAGS = ("config", "mode", "workdir", *_OWN, *PROCESS_FLAGS, "help")

_USAGE = """\
usage: {program} --mode=MODE [--config=FILE[:VARIANT]] [--workdir=DIR] [--config.SECTION.FIELD=VALUE ...]

modes:
{modes}

flags:
  --config     a config of this project, default {config}, or by its name alone, digits; with :smoke a tiny variant that
               runs in seconds. Or a file of yours, or the config.json of a run, to repeat it in another workdir. This project's:
{configs}
  --workdir    where the run lives, default runs/<name of the config>. Or a published model, which is only read, with its own
               config by default: its folder, hf://owner/name[@revision], or one that is shipped with the package:
               {shipped}
  --config.SECTION.FIELD=VALUE    changes one field, for example --config.train.num_steps=1000
  --out        of --mode=pack: the folder to write; of --mode=config: the file. Of other modes the folder to write in place of
               the workdir's, which is then only read:
               {out}
  --verify     of --mode=status: compare all that the run has stored with its sums
  --format     of --mode=export: stablehlo (the default), onnx or pytorch
  --batch      of --mode=export --format=onnx: examples that a program takes at a time, default 16
  --host, --port    of --mode=page: where to listen, default 127.0.0.1 and 7860
  --push       of --mode=publish: owner/name on the Hugging Face hub, to upload the folder to
  --source     of --mode=import: the PyTorch checkpoint, such as checkpoint.pth
  --reports    of --mode=compare: folders of evaluations, such as runs/a/eval/1000,runs/b/eval/1000
  --coordinator=HOST:PORT --num_processes=N --process_id=I
               this is process I of N, 0 to N-1, and HOST:PORT is process 0's; needed only where neither Slurm, Open MPI nor a
               TPU pod says so
  --help       this text; --help=SECTION or --help=SECTION.FIELD, such as --help=train, --help=eval.straightness or
               --help=path.vp: fields with their defaults, what they may be and what they mean; with --config=FILE its values too.
               Sections are
{sections}

exit codes: 0 done; 2 something to put right, said in one line; 130 and 143 stopped by SIGINT and SIGTERM, training after it has
saved, 129 by the loss of its terminal; 75 another process of the run was lost; 1 an error of the program. After 129, 130, 143 and
75 the same command goes on.
"""


def main(argv: list[str] | None = None) -> None:
    """Runs the command that the arguments name, and exits.

    Exit codes: 0 done; 1 an error of the program; 2 one of the user's, explained in a line; 130 and 143 stopped by SIGINT and
    SIGTERM; 75 another process of the run was lost.
    """
    arguments = list(sys.argv if argv is None else argv)
    outlive_readers()
    try:
        mode, config, workdir, more = parse(arguments)
        peers = {name: value for name, value in _given(arguments[1:]).items() if name in PROCESS_FLAGS}
    except UserError as error:
        sys.exit(_complain(error))
    if mode == "help":
        print(more["text"])
        sys.exit(0)
    # absl's own handler would print a usage text and a traceback; all that a user can put right is a UserError.
    app.run(lambda _: sys.exit(_run(mode, config, workdir, more, peers)), argv=arguments[:1])


def usage(program: str = "python main.py") -> str:
    """The text of --help.

    Args:
        program: by which the command was started.
    """
    modes = "\n".join(f"  {name:15s} {description}" for name, (_, description) in MODES.items())
    out = ", ".join(mode for mode, names in OPTIONS.items() if "out" in names)
    listed = lambda names: textwrap.indent(textwrap.fill(", ".join(names), 105, break_on_hyphens=False), " " * 15)  # noqa: E731
    return _USAGE.format(
        program=program,
        shipped=", ".join(f"pretrained:{name}" for name in shipped()),
        modes=modes,
        config=DEFAULT_CONFIG,
        configs=listed(config_files.names()),
        out=out,
        sections=listed(SECTIONS),
    )


def parse(argv: list[str]) -> tuple[str, dict[str, Any], pathlib.Path, dict[str, str]]:
    """Returns the mode, the config with its overrides, the workdir, and the flags of that mode alone.

    Raises:
        UserError: an unknown flag, mode or field, a value of the wrong type, or a config file that cannot be used.
    """
    given = _given(argv[1:])
    if "help" in given:
        place = given["help"] if not given["help"].startswith("-") else ""
        config = _changed_config(given) if "config" in given and place else None
        started = pathlib.Path(argv[0]).stem
        program = started if started == PROGRAM else "python main.py"
        return "help", {}, pathlib.Path(), {"text": help_of(place, config) if place else usage(program)}
    mode = given.get("mode")
    if mode not in MODES:
        got = "no --mode" if mode is None else f"unknown mode {mode!r}{nearest(mode, MODES)}"
        raise UserError(f"{got}; expected --mode={'|'.join(MODES)}. --help says what they do")
    _check_own_flags(mode, given)
    if mode in ALONE and any(name in given for name in PROCESS_FLAGS):
        raise UserError(f"--mode={mode} runs in one process: leave out --{', --'.join(PROCESS_FLAGS)}")
    more = {name: given[name] for name in (*FLAGS.get(mode, ()), *OPTIONS.get(mode, ())) if name in given}
    workdir = _located(mode, given)
    if mode in WITHOUT_EXPERIMENT and workdir is not None and "config" not in given:
        return mode, {}, workdir, more
    own = workdir is not None and is_published(workdir) and "config" not in given
    config = _changed_config(given, workdir if own else None)
    return mode, config, workdir or user_path(f"runs/{config['name']}"), more


def _located(mode: str, given: dict[str, str]) -> pathlib.Path | None:
    """The workdir, or the folder of the published model that is named in its place; None: neither is named.

    Raises:
        UserError: a mode that writes to its workdir is given a published model.
    """
    if "workdir" not in given:
        return locate(OPENS[mode]) if mode in OPENS and "config" not in given else None
    workdir = locate(given["workdir"])
    if is_published(workdir) and mode not in OF_PUBLISHED:
        raise UserError(
            f"{given['workdir']} is a published model, which is only read: --mode={mode} needs a workdir of its own. Modes that "
            f"take such a model are {', '.join(OF_PUBLISHED)}"
        )
    return workdir


def _changed_config(given: dict[str, str], published: pathlib.Path | None = None) -> dict[str, Any]:
    """The config that the flags name, or that of a published model, with the changes of others of them."""
    file = given.get("config", DEFAULT_CONFIG) if published is None else str(published / "config.json")
    overrides = {name.removeprefix("config."): given[name] for name in given if name.startswith("config.")}
    config = load_config(file) if published is None else plain_config.read_config(published)
    _check_fields(overrides, plain_config.known_names(config), file)
    return plain_config.changed(config, overrides)


def _check_own_flags(mode: str, given: dict[str, str]) -> None:
    """Each mode has its own flags and no other's."""
    for name, takes in FLAGS.get(mode, {}).items():
        if name not in given:
            raise UserError(f"--mode={mode} needs --{name}={takes}")
    for name in _OWN:
        owners = [owner for table in (FLAGS, OPTIONS) for owner, names in table.items() if name in names]
        if name in given and mode not in owners:
            raise UserError(f"--{name} is a flag of --mode={'|'.join(owners)}, not of --mode={mode}")


def _given(arguments: list[str]) -> dict[str, str]:
    """Flag names to values, of --name=value and --name value."""
    given: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        if (place := _help_place(argument)) is not None:
            given["help"] = place or (next(rest, "") if argument == "--help" else "")
            continue
        if not argument.startswith("--"):
            raise UserError(f"unexpected argument {argument!r}; expected flags such as --mode=train")
        name, equals, value = argument[2:].partition("=")
        if name not in _FLAGS and not name.startswith("config."):
            hint = nearest(name, _FLAGS) or ". Fields of the config are --config.SECTION.FIELD=VALUE"
            raise UserError(f"unknown flag --{name}{hint}; expected --{', --'.join(_FLAGS[:-1])} or --help")
        if name in _SWITCHES:
            if equals:
                raise UserError(f"--{name} is a switch and takes no value: leave out ={value}")
            given[name] = "yes"
            continue
        if not equals:
            value = next(rest, "")
        if not value or (not equals and value.startswith("--")):
            raise UserError(f"--{name} has no value; expected --{name}=VALUE")
        given[name] = value
    return given


def _help_place(argument: str) -> str | None:
    """What --help=PLACE is asked about, "" where it says nothing; None for other arguments."""
    flag, _, place = argument.partition("=")
    return place.removeprefix("config.") if flag in ("-h", "-help", "--help", "--helpfull", "--helpshort") else None


def _check_fields(names: Iterable[str], known: list[str], file: str) -> None:
    for name in names:
        if name not in known:
            if any(k.startswith(name + ".") for k in known):
                raise UserError(
                    f"config.{name} is a section; expected one of its fields, as --config.{name}.FIELD=VALUE"
                )
            raise UserError(f"unknown config field {name!r} in {file}{nearest(name, known)}")


def _run(mode: str, config: dict[str, Any], workdir: pathlib.Path, more: dict[str, str], peers: dict[str, str]) -> int:
    """Imports the mode's module, runs it and says how long it took; returns the exit code."""
    start = time.perf_counter()
    section = config.get("model" if mode in TRAINING else "solver", {})
    set_up_process(in_bfloat16=section.get("dtype") == "bfloat16")
    from jax.distributed import is_initialized
    from jax.errors import JaxRuntimeError

    from scoreflow_jax import processes

    try:
        channels = config["model"].get("base_channels", 0) if mode == "train" else 0
        if isinstance(channels, int) and channels >= _LARGE:
            from scoreflow_jax.parallel import keep_freed_memory

            keep_freed_memory()
        several = mode not in (*WITHOUT_DEVICES, *ALONE)
        with processes.joined(peers, preemptible=mode == "train") if several else contextlib.nullcontext():
            command = importlib.import_module(MODES[mode][0])
            if mode in WITHOUT_EXPERIMENT:
                command.run_command(workdir, **more)
            else:
                from scoreflow_jax.commands.workdir import build_for

                with processes.all_or_none() if several else contextlib.nullcontext():
                    experiment = build_for(mode, config, workdir)
                if several:
                    processes.check_alike("command", f"{mode} {experiment.config_hash} {__version__} {workdir}")
                command.run_command(experiment, workdir, **more)
            print(f"{mode} took {time.perf_counter() - start:.1f} s{_peak_memory()}")
    except UserError as error:
        return processes.leave(_complain(error), alone=not error.everywhere)
    except processes.Stopped as stopped:
        print(f"{stopped}; the checkpoint is whole, and the same command goes on from it", flush=True)
        return 128 + stopped.signum
    except KeyboardInterrupt:
        advice = "; the same command goes on from the last checkpoint" if mode == "train" else ""
        print(f"\ninterrupted{advice}", file=sys.stderr)
        return processes.leave(EXIT_INTERRUPTED)
    except Exception as error:
        code = _of_the_machine(error) if isinstance(error, (JaxRuntimeError, ValueError, OSError)) else None
        if code is None and not is_initialized():
            raise
        if code is None:
            traceback.print_exc()
        return processes.leave(1 if code is None else code)
    return 0


def _of_the_machine(error: Exception) -> int | None:
    """Says what can be done about an error of JAX's own, and returns the exit code; None where it says nothing that is known."""
    from scoreflow_jax.processes import lost_peer

    said = first_line(error, 160)
    if isinstance(error, OSError) and error.errno in _DISK:
        return _complain(f"{said}: make room or give another --workdir; nothing that was saved is lost")
    if "RESOURCE_EXHAUSTED" in str(error):
        return _complain(
            f"the devices' memory is too small ({said}): raise --config.train.microbatches or --config.train.fsdp, set "
            "--config.model.remat_resolutions, or lower the mode's batch_size"
        )
    if lost_peer(error):
        _complain(
            f"another process of this run was lost, or could not be reached ({said}): start all of them again; training goes on "
            "from the last checkpoint"
        )
        return EXIT_LOST_PEER
    return None


def set_up_process(*, in_bfloat16: bool = False) -> None:
    """Quiets libraries' chatter and turns on JAX's compilation cache: the second start of a command compiles nothing.

    The cache lies in $JAX_COMPILATION_CACHE_DIR, else in $XDG_CACHE_HOME/scoreflow_jax, else in ~/.cache/scoreflow_jax.
    What computes in bfloat16 on a processor is compiled anew at each start: XLA cannot write such programs down.

    Args:
        in_bfloat16: whether it is to train or solve in bfloat16, of which some XLAs have to be told before JAX starts.
    """
    if in_bfloat16 and (message := prepare_bfloat16(os.environ)):
        print(message, flush=True)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # TensorFlow only writes summaries here; on, it logs two lines
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    for stream in (
        sys.stdout,
        sys.stderr,
    ):  # names of the user's files may be in a script that the terminal's encoding lacks
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    import logging

    import jax

    for name in ("", "jax", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Orbax logs whole tracebacks, from threads of its own, of errors that it raises as well and we report in a line.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        from scoreflow_jax.files import cache_dir

        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _peak_memory() -> str:
    used = peak_memory()
    return f", peak memory {used / 1e9:.1f} GB" if used else ""


def _complain(error: Any) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    return EXIT_USAGE
