"""metrics.jsonl, TensorBoard, and the parameter overview."""

import jax.numpy as jnp
import pytest

from scoreflow_jax import sums, writers


def lines(path):
    return [sums.record_of(line) for line in path.read_text().splitlines()]


def test_jsonl_appends_and_drops_what_a_resumed_run_writes_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = writers.JsonlWriter(path)
    for step in (10, 20, 30):
        writer.scalars(step, {"loss": 1.0 / step})
    writer.close()
    with path.open("a") as file:
        file.write('{"step": 40, "lo')  # cut short by a crash
    writer = writers.JsonlWriter(path, first_step=20)
    writer.scalars(30, {"loss": 0.5})
    writer.close()
    assert lines(path) == [{"step": 10, "loss": 0.1}, {"step": 20, "loss": 0.05}, {"step": 30, "loss": 0.5}]


def test_damaged_lines_are_left_out_with_a_word(tmp_path, capsys):
    """A bit turned over in a step, a loss or a line break; bytes that are no text; a step that is no number."""
    path = tmp_path / "metrics.jsonl"
    writer = writers.JsonlWriter(path)
    for step in (10, 20, 30, 40, 50):
        writer.scalars(step, {"loss": 1.0 / step})
    writer.close()
    content = path.read_bytes().splitlines()
    content[1] = content[1].replace(b'"step": 20', b'"step": 24')
    content[2] = content[2].replace(b"0.0", b"0.4")
    content[3] = b"\xff" + content[3]
    path.write_bytes(b"\n".join([*content, b"nonsense", b'{"step": 60, "lo']))
    writers.JsonlWriter(path, first_step=50).close()
    assert lines(path) == [{"step": 10, "loss": 0.1}, {"step": 50, "loss": 0.02}]
    assert "has 4 damaged lines, which are left out" in capsys.readouterr().err


def test_records_that_are_lost_are_said(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    writer = writers.JsonlWriter(path)
    for step in (10, 20, 30):
        writer.scalars(step, {"loss": 1.0})
    writer.close()
    writers.JsonlWriter(path, first_step=33, logged=30).close()
    assert capsys.readouterr().err == ""
    writers.JsonlWriter(path, first_step=44, logged=40).close()
    assert "no record between the steps 30 and 40: they are lost" in capsys.readouterr().err
    path.write_text("")
    writers.JsonlWriter(path, first_step=44, logged=40).close()
    assert "between the steps 0 and 40" in capsys.readouterr().err
    path.unlink()  # as of an imported checkpoint
    writers.JsonlWriter(path, first_step=44, logged=40).close()
    assert capsys.readouterr().err == ""


def test_tensorboard_gets_the_same_numbers(tmp_path):
    pytest.importorskip("tensorflow")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = writers.open_writers(tmp_path, first_step=0, tensorboard=True)
    writer.scalars(5, {"loss": 0.25})
    writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (tag,) = events.Tags()["tensors"] or events.Tags()["scalars"]
    assert tag == "loss"
    assert lines(tmp_path / "metrics.jsonl") == [{"step": 5, "loss": 0.25}]


def test_without_tensorflow_one_line_says_so_and_all_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(writers.importlib.util, "find_spec", lambda name: None)
    writer = writers.open_writers(tmp_path, first_step=0, tensorboard=True)
    writer.scalars(5, {"loss": 0.25})
    writer.close()
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1
    assert "tensorflow and clu not installed" in warning
    assert lines(tmp_path / "metrics.jsonl") == [{"step": 5, "loss": 0.25}]


@pytest.mark.parametrize("with_clu", [True, False])
def test_overview_ends_with_the_total(with_clu, monkeypatch):
    if not with_clu:
        monkeypatch.setattr(writers.importlib.util, "find_spec", lambda name: None)
    text = writers.parameter_overview({"a": {"kernel": jnp.ones((3, 400))}, "b": jnp.ones(5)})
    assert text.splitlines()[-1] == "1,205 parameters in 2 arrays"
    assert ("a/kernel" in text) == with_clu
