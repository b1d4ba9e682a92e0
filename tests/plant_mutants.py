"""Plants the faults of `tests/mutants.py` one at a time and sees the named test fail: `make mutants`.

Each is planted in a copy of the checkout, never in the checkout itself, after its test passed there without it. Outcomes are kept
in build/mutants.json under a hash of what they depend on, so that a stopped run goes on, and only what has changed runs again.
With words as arguments only faults whose file, description or test has one of them are planted. The exit status is 1 if any fault
is not killed; docs/mutants.md has the table of the last whole run.
"""

import argparse
import dataclasses
import hashlib
import importlib.metadata
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from tests.mutants import FAULTS, Fault

ROOT = pathlib.Path(__file__).resolve().parent.parent
STATE = ROOT / "build" / "mutants.json"
TABLE = ROOT / "docs" / "mutants.md"
SECONDS = 300  # after which a test is stopped; a fault with which it only hangs does not count as killed
COMMON = ("conftest.py", "oracles.py", "known.py")  # on which any test may depend

KILLED, SURVIVED, PASSED = "killed", "survived", "passed"
FAILED = 1  # pytest's exit code where tests ran and failed; others say that it could not run them


def files_of(fault: Fault, root: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """The file with the fault and that of the test."""
    return root / "scoreflow_jax" / fault.file, root / "tests" / fault.test.split("::")[0]


def problem(fault: Fault, root: pathlib.Path) -> str | None:
    """Why a fault cannot be planted, or has no test; None where all is well."""
    file, tests = files_of(fault, root)
    for path in (file, tests):
        if not path.is_file():
            return f"there is no {path.relative_to(root)}"
    count = file.read_text().count(fault.old)
    if count != 1:
        return f"its text stands {count} times in {fault.file}, expected once: {fault.old!r}"
    name = fault.test.split("::")[1]
    return None if f"def {name}(" in tests.read_text() else f"there is no {fault.test}"


def digest(root: pathlib.Path, *told: str) -> str:
    """A hash of texts and of what all runs depend on."""
    common = [importlib.metadata.version("jax"), *((root / "tests" / name).read_text() for name in COMMON)]
    return hashlib.sha256("\0".join([*told, *common]).encode()).hexdigest()


def identity(fault: Fault, root: pathlib.Path) -> str:
    """Of an outcome: the fault, its file and the test's."""
    return digest(root, *dataclasses.astuple(fault), *(path.read_text() for path in files_of(fault, root)))


def identity_without(test: str, root: pathlib.Path) -> str:
    """Of a test that passes without faults: its file and the whole package."""
    package = [path.read_text() for path in sorted((root / "scoreflow_jax").rglob("*.py"))]
    return digest(root, test, (root / "tests" / test.split("::")[0]).read_text(), *package)


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
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:xdist", "-p", "no:cacheprovider"]
    command += [f"tests/{test}" for test in tests]
    limit = SECONDS * len(tests)
    try:
        return subprocess.run(command, cwd=copy, env=environment, timeout=limit, capture_output=True).returncode
    except subprocess.TimeoutExpired:
        return None


def outcome(code: int | None) -> str:
    """Of a test with the fault planted."""
    if code == FAILED:
        return KILLED
    return SURVIVED if code == 0 else f"not run: {'took too long' if code is None else f'pytest ended with {code}'}"


class State:
    """Outcomes by their identity, written after each."""

    def __init__(self) -> None:
        self.known = json.loads(STATE.read_text()) if STATE.is_file() else {}

    def of(self, name: str) -> str | None:
        return self.known.get(name, {}).get("result")

    def keep(self, name: str, result: str, seconds: float) -> None:
        self.known[name] = {"result": result, "seconds": round(seconds, 1)}
        STATE.parent.mkdir(exist_ok=True)
        temporary = STATE.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.known, indent=0))
        temporary.replace(STATE)


def passing(copy: pathlib.Path, tests: set[str], compiled: str, state: State) -> set[str]:
    """Those of the tests that pass without faults. Tests of one file run together, and by themselves if that fails."""
    identities = {test: identity_without(test, copy) for test in tests}
    green = {test for test in tests if state.of(identities[test]) == PASSED}
    left = sorted(tests - green)
    for file, group in itertools.groupby(left, lambda test: test.split("::")[0]):
        together, start = list(group), time.monotonic()
        all_pass = run_tests(copy, together, compiled) == 0
        for test in together:
            if all_pass or run_tests(copy, [test], compiled) == 0:
                green.add(test)
                state.keep(identities[test], PASSED, (time.monotonic() - start) / len(together))
        seconds = time.monotonic() - start
        print(f"{seconds:6.1f} s  without faults {file} {'passes' if all_pass else 'FAILS'}", flush=True)
    return green


def plant(copy: pathlib.Path, fault: Fault, compiled: str) -> str:
    """Plants a fault in the copy, runs its test, and takes it back."""
    file, _ = files_of(fault, copy)
    text = file.read_text()
    file.write_text(text.replace(fault.old, fault.new))
    try:
        return outcome(run_tests(copy, [fault.test], compiled))
    finally:
        file.write_text(text)


def run(faults: list[Fault]) -> dict[Fault, str]:
    """The outcome of each fault; known ones are not planted again."""
    state, found = State(), {}
    with tempfile.TemporaryDirectory(prefix="scoreflow_jax_mutants_") as folder:
        copy, compiled = pathlib.Path(folder) / "checkout", str(pathlib.Path(folder) / "compiled")
        copy_checkout(copy)  # what is edited meanwhile does not count
        for fault in faults:
            stale = problem(fault, copy)
            known = f"stale: {stale}" if stale else state.of(identity(fault, copy))
            if known is not None:
                found[fault] = known
        left = [fault for fault in faults if fault not in found]
        green = passing(copy, {fault.test for fault in left}, compiled, state)
        for fault in left:
            start, name = time.monotonic(), identity(fault, copy)
            found[fault] = plant(copy, fault, compiled) if fault.test in green else "not run: its test fails without it"
            seconds = time.monotonic() - start
            if found[fault] in (KILLED, SURVIVED):
                state.keep(name, found[fault], seconds)
            print(f"{seconds:6.1f} s  {found[fault]:8}  {fault.what}", flush=True)
    return {fault: found[fault] for fault in faults}


def row(fault: Fault, result: str) -> str:
    """A line of the table."""
    return f"| {fault.what} | `{fault.file}` | `{fault.test}` | {result} |"


def table(found: dict[Fault, str]) -> str:
    """docs/mutants.md."""
    lines = [
        "# Faults that the tests are known to catch",
        "",
        "Each was planted in a copy of the checkout, one at a time, and the named test, which passes without it, was run. The",
        "list is `tests/mutants.py`; `make mutants` plants them and writes this page. The suite checks that each can be planted.",
        "",
        f"{sum(result == KILLED for result in found.values())} of {len(found)} are killed.",
        "",
        "| fault | in scoreflow_jax/ | test in tests/ | result |",
        "|---|---|---|---|",
    ]
    return "\n".join([*lines, *(row(fault, result) for fault, result in found.items()), ""])


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("words", nargs="*", help="plant only faults whose file, description or test has one of these")
    words = parser.parse_args().words
    chosen = [f for f in FAULTS if not words or any(word in " ".join((f.file, f.what, f.test)) for word in words)]
    start, found = time.monotonic(), run(chosen)
    lost = {fault: result for fault, result in found.items() if result != KILLED}
    for fault, result in lost.items():
        print(f"{result}: {fault.what} ({fault.file}), by {fault.test}")
    print(f"{len(found) - len(lost)} of {len(found)} faults killed, in {time.monotonic() - start:.0f} s")
    if not words:
        TABLE.write_text(table(found))
    return 1 if lost or not found else 0


if __name__ == "__main__":
    sys.exit(main())
