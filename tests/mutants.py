"""Faults of one line, each with the test that fails when it is planted: `make mutants`.

A test that passes whatever the code does says nothing. So every entry of `FAULTS` replaces one piece of text of the package by a
wrong one in a copy of the checkout, never in the checkout itself, and runs the one test that is to catch it, after that test
passed without the fault. The faults are chosen by hand, one for each thing that a number of this package depends on: tools that
change every operator in turn (cosmic-ray, mutmut) make thousands of mutants of this code at several seconds each, many of them
without meaning, and do not say which test is there for which.

Outcomes are kept in build/mutants.json under a hash of all that they depend on, so that a stopped run goes on, and only what has
changed runs again. With words as arguments only faults whose file, description or test has one of them are planted. The exit
status is 1 if any fault is not killed; docs/mutants.md has the table of the last whole run.
"""

import argparse
import collections
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
STATE = ROOT / "build" / "mutants.json"
TABLE = ROOT / "docs" / "mutants.md"
SECONDS = 300  # after which a test is stopped; what only hangs counts as not killed

KILLED, SURVIVED = "killed", "survived"
FAILED = 1  # pytest's exit code where tests ran and failed; others say that it could not run them
COMMON = ("tests/conftest.py", "tests/oracles.py", "tests/commands/runs.py")  # on which any test may depend


@dataclasses.dataclass(frozen=True)
class Fault:
    """One wrong line.

    Attributes:
        what: it does, in words.
        file: in which.
        old: the text that is replaced; it stands in the file exactly once.
        new: what takes its place.
        test: that kills it, file::function.
    """

    what: str
    file: str
    old: str
    new: str
    test: str

    @property
    def test_file(self) -> str:
        return self.test.split("::")[0]

    def problem(self, root: pathlib.Path) -> str | None:
        """Why the fault cannot be planted, or has no test; None where all is well."""
        file, tests = root / self.file, root / self.test_file
        if not file.is_file() or not tests.is_file():
            return f"there is no {self.test_file if file.is_file() else self.file}"
        count = file.read_text().count(self.old)
        if count != 1:
            return f"its text stands {count} times in {self.file}, expected once: {self.old!r}"
        name = self.test.split("::")[1].split("[")[0]
        return None if f"def {name}(" in tests.read_text() else f"{self.test_file} has no {name}"

    def identity(self, root: pathlib.Path) -> str:
        """A hash of what the outcome depends on: the fault, its file, the test's file, what all tests share, and JAX."""
        told = [*dataclasses.astuple(self), importlib.metadata.version("jax")]
        told += [(root / name).read_text() for name in (self.file, self.test_file, *COMMON)]
        return hashlib.sha256("\0".join(told).encode()).hexdigest()


# FAULTS


def copy_checkout(target: pathlib.Path) -> None:
    """All that git tracks, and what is new and not ignored, as it stands."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)


def run_tests(copy: pathlib.Path, tests: list[str], compiled: str) -> int | None:
    """pytest's exit code; None where it took too long."""
    # No .pyc files: they are told from stale ones by size and second alone. Programs once compiled serve all runs.
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "SCOREFLOW_JAX_TESTS_COMPILED": compiled}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:xdist", "-p", "no:cacheprovider", *tests]
    try:
        return subprocess.run(
            command, cwd=copy, env=environment, timeout=SECONDS * len(tests), capture_output=True, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        return None


def outcome(code: int | None) -> str:
    """Of a test with the fault planted."""
    if code == FAILED:
        return KILLED
    return SURVIVED if code == 0 else f"not run: {'took too long' if code is None else f'pytest ended with {code}'}"


class State:
    """Outcomes by `Fault.identity`, written after each."""

    def __init__(self) -> None:
        self.known = json.loads(STATE.read_text()) if STATE.is_file() else {}

    def keep(self, identity: str, result: str, seconds: float) -> None:
        self.known[identity] = {"result": result, "seconds": round(seconds, 1)}
        STATE.parent.mkdir(exist_ok=True)
        temporary = STATE.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.known, indent=0))
        temporary.replace(STATE)


def check_green(copy: pathlib.Path, faults: list[Fault], compiled: str, state: State) -> set[str]:
    """The tests of these faults that pass without them; those of one file run together, and by themselves if one fails."""
    green, by_file = set(), collections.defaultdict(list)
    for fault in faults:
        told = [fault.test, importlib.metadata.version("jax"), (copy / fault.test_file).read_text()]
        told += [path.read_text() for path in sorted((copy / "scoreflow_jax").rglob("*.py"))]
        identity = hashlib.sha256("\0".join(told).encode()).hexdigest()
        if state.known.get(identity, {}).get("result") == "green":
            green.add(fault.test)
        else:
            by_file[fault.test_file].append((fault.test, identity))
    for file, wanted in sorted(by_file.items()):
        wanted = sorted(set(wanted))
        start = time.monotonic()
        passed = run_tests(copy, [test for test, _ in wanted], compiled) == 0
        for test, identity in wanted:
            if passed or run_tests(copy, [test], compiled) == 0:
                green.add(test)
                state.keep(identity, "green", (time.monotonic() - start) / len(wanted))
        print(f"{time.monotonic() - start:6.1f} s  {'green' if passed else 'RED'} without faults: {file}", flush=True)
    return green


def plant(copy: pathlib.Path, fault: Fault, compiled: str) -> str:
    """Plants a fault in the copy, runs its test, and takes it back."""
    file = copy / fault.file
    text = file.read_text()
    file.write_text(text.replace(fault.old, fault.new))
    try:
        return outcome(run_tests(copy, [fault.test], compiled))
    finally:
        file.write_text(text)


def run(faults: list[Fault]) -> dict[Fault, str]:
    """The outcome of each fault; known ones are not planted again."""
    state, found = State(), {}
    for fault in faults:
        problem = fault.problem(ROOT)
        known = None if problem else state.known.get(fault.identity(ROOT), {}).get("result")
        if problem or known in (KILLED, SURVIVED):
            found[fault] = f"stale: {problem}" if problem else known
    left = [fault for fault in faults if fault not in found]
    with tempfile.TemporaryDirectory(prefix="scoreflow_jax_mutants_") as folder:
        copy, compiled = pathlib.Path(folder) / "checkout", str(pathlib.Path(folder) / "compiled")
        copy_checkout(copy)
        green = check_green(copy, left, compiled, state)
        for fault in left:
            start = time.monotonic()
            found[fault] = plant(copy, fault, compiled) if fault.test in green else "not run: its test fails without it"
            seconds = time.monotonic() - start
            if found[fault] in (KILLED, SURVIVED):
                state.keep(fault.identity(ROOT), found[fault], seconds)
            print(f"{seconds:6.1f} s  {found[fault]:8} {fault.what}", flush=True)
    return {fault: found[fault] for fault in faults}


def table(found: dict[Fault, str]) -> str:
    """docs/mutants.md."""
    killed = sum(result == KILLED for result in found.values())
    lines = [
        "# Faults that the tests are known to catch",
        "",
        "Each was planted in a copy of the checkout, one at a time, and the named test, which passes without it, was run. The list is",
        "`FAULTS` in `tests/mutants.py`; `make mutants` plants them again and writes this page. The suite itself checks that every fault",
        "can still be planted and that its test is there.",
        "",
        f"{killed} of {len(found)} are killed.",
        "",
        "| fault | in | test | result |",
        "|---|---|---|---|",
    ]
    lines += [row(fault, result) for fault, result in found.items()]
    return "\n".join([*lines, ""])


def row(fault: Fault, result: str) -> str:
    """A line of the table."""
    file, test = fault.file.removeprefix("scoreflow_jax/"), fault.test.removeprefix("tests/")
    return f"| {fault.what} | `{file}` | `{test}` | {result} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("words", nargs="*", help="plant only faults whose file, description or test has one of these")
    words = parser.parse_args().words
    told = lambda fault: f"{fault.file} {fault.what} {fault.test}"
    found = run([f for f in FAULTS if not words or any(word in told(f) for word in words)])
    lost = {fault: result for fault, result in found.items() if result != KILLED}
    for fault, result in lost.items():
        print(f"{result}: {fault.what} ({fault.file}), by {fault.test}")
    print(f"{len(found) - len(lost)} of {len(found)} faults killed")
    if not words:
        TABLE.write_text(table(found))
    return 1 if lost or not found else 0


if __name__ == "__main__":
    sys.exit(main())
