"""What a process leaves to be said after its end."""

import signal
import subprocess
import sys

import pytest

from tests.conftest import ROOT

BEGIN = """
import os, signal
from scoreflow_jax import last_words

signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in a shell's background has it ignored
last_words.prepare('first')
last_words.prepare('it ended')
"""


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("os.abort()", -signal.SIGABRT, ["it ended"]),  # as a thread of C++ does it
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ["it ended"]),
        ("os.killpg(os.getpgid(0), signal.SIGINT)", -signal.SIGINT, ["it ended"]),  # Ctrl-C reaches the whole group
        ("last_words.cancel(); os.abort()", -signal.SIGABRT, []),
        ("last_words.cancel(); last_words.cancel()", 0, []),
    ],
)
def test_a_process_that_ends_without_a_word_has_a_line_said_of_it(end, code, said):
    command = [sys.executable, "-c", BEGIN + end]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, start_new_session=True)
    assert (ended.returncode, ended.stderr.splitlines()[-1:], ended.stdout) == (code, said, "")
