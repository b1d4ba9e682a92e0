"""The list of faults stays one that can be planted, and the program that plants them tells what a test does with them."""

import shutil

import pytest

from tests import plant_mutants
from tests.mutants import FAULTS, Fault
from tests.plant_mutants import KILLED, SURVIVED, TABLE, problem, row


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
def test_every_fault_can_be_planted_and_has_its_test(fault):
    assert problem(fault, plant_mutants.ROOT) is None
    assert fault.old != fault.new


def test_the_table_is_of_these_faults_and_all_are_killed():
    """After a change of the list: make mutants."""
    rows = [line for line in TABLE.read_text().splitlines() if line.endswith(f" | {KILLED} |")]
    assert rows == [row(fault, KILLED) for fault in FAULTS]
    assert len(FAULTS) >= 60


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A package of one line with tests that see its faults, do not, or fail without any; as if git listed it."""
    files = {
        "scoreflow_jax/__init__.py": "",
        "scoreflow_jax/sum.py": "def add(a, b):\n    return a + b\n",
        "tests/__init__.py": "",
        "tests/test_sum.py": "from scoreflow_jax.sum import add\n\ndef test_sees():\n    assert add(2, 3) == 5\n\n"
        "def test_sees_not():\n    assert add(2, 2) == 4\n\ndef test_fails():\n    assert add(2, 2) == 5\n",
        **{f"tests/{name}": "" for name in plant_mutants.COMMON},
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(plant_mutants, "ROOT", tmp_path)
    monkeypatch.setattr(plant_mutants, "STATE", tmp_path / "build" / "mutants.json")
    monkeypatch.setattr(plant_mutants, "copy_checkout", lambda to: shutil.copytree(tmp_path, to, dirs_exist_ok=True))
    return tmp_path


def in_this_process(copy, tests, _):
    """What pytest would end with, without the seconds that it takes to start."""
    names = {}
    try:
        for file in ("scoreflow_jax/sum.py", "tests/test_sum.py"):
            exec((copy / file).read_text().replace("from scoreflow_jax.sum import add", ""), names)
        for test in tests:
            names[test.split("::")[1]]()
    except AssertionError:
        return 1
    except SyntaxError:
        return 4
    return 0


def test_outcomes_are_what_the_tests_say_and_are_kept(checkout, monkeypatch):
    at = lambda test, old="a + b", new="a * b": Fault(f"{test} {new}", "sum.py", old, new, f"test_sum.py::{test}")
    faults = [at("test_sees"), at("test_sees_not"), at("test_sees", new="a +"), at("test_fails"), at("test_gone")]
    faults.append(at("test_sees", old="a"))
    monkeypatch.setattr(plant_mutants, "run_tests", in_this_process)
    killed, survived, broken, red, gone, twice = plant_mutants.run(faults).values()
    assert (killed, survived) == (KILLED, SURVIVED)
    assert broken == "not run: pytest ended with 4"  # what cannot be imported says nothing about the test
    assert red == "not run: its test fails without it"
    assert gone == "stale: there is no test_sum.py::test_gone"
    assert twice.startswith("stale: its text stands")
    assert (checkout / "scoreflow_jax" / "sum.py").read_text().endswith("return a + b\n")
    # Known outcomes are not asked for again, until the file or the test changes.
    monkeypatch.setattr(plant_mutants, "run_tests", lambda *_: None)
    assert list(plant_mutants.run(faults[:2]).values()) == [KILLED, SURVIVED]
    (checkout / "tests" / "test_sum.py").write_text("def test_sees():\n    pass\n")
    assert list(plant_mutants.run(faults[:1]).values()) == ["not run: its test fails without it"]


def test_a_test_that_fails_is_told_from_one_that_cannot_run(checkout):
    codes = [plant_mutants.run_tests(checkout, [f"test_sum.py::{name}"], "") for name in ("test_fails", "test_gone")]
    assert [plant_mutants.outcome(code) for code in codes] == [KILLED, "not run: pytest ended with 4"]
