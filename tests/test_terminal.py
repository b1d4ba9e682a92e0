"""Standard streams whose reader has gone."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

PRINTS = """
import sys
from scoreflow_jax.terminal import outlive_readers
outlive_readers()
sys.stdin.readline()
{calls}
sys.stderr.write("went on")
"""


@pytest.mark.parametrize(
    "calls",
    ["print('x', flush=True); print('y')", "sys.stdout.writelines(['x'] * 100000); print('y', flush=True)"],
)
def test_what_nobody_reads_is_dropped(calls):
    reader, writer = os.pipe()
    command = [sys.executable, "-c", PRINTS.format(calls=calls)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    os.close(reader)
    _, said = process.communicate(b"now\n", timeout=100)
    assert (process.returncode, said) == (0, b"went on")
