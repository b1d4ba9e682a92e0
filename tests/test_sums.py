"""Sums of stored bytes: whatever bit is turned over, what is read is what was written, or is called damaged."""

import json
import math
import shutil
import subprocess

import numpy as np
import pytest

from scoreflow_jax import sums
from scoreflow_jax.files import save_arrays

VALUE = {"class_names": ["a", "b"], "shift": [0.25, -1e-300], "of": {"step": 3, "none": None}, "path": "naïve"}


def flips(content: bytes, count: int):
    """Copies with one bit turned over; all bits, or `count` of them."""
    bits = np.arange(8 * len(content))
    for bit in bits if len(bits) <= count else np.random.default_rng(0).choice(bits, count, replace=False):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def test_json_comes_back_and_any_flipped_bit_is_damage_or_changes_nothing(tmp_path, capsys):
    path = tmp_path / "data.json"
    sums.write_json(path, VALUE)
    assert sums.read_json(path) == VALUE
    assert json.loads(path.read_text()).keys() == VALUE.keys() | {"sha256"}
    whole, harmless, noticed = path.read_bytes(), 0, 0
    for changed in flips(whole, 10_000):
        path.write_bytes(changed)
        try:
            value = sums.read_json(path)
        except sums.Damaged:
            noticed += 1
            continue
        value.pop(next(iter(value.keys() - VALUE.keys()), None), None)  # where the name of the sum itself was hit
        assert value == VALUE
        harmless += 1
    assert noticed > 5 * harmless > 0


def test_json_cut_short_of_another_kind_or_not_text_is_damage(tmp_path):
    path = tmp_path / "data.json"
    sums.write_json(path, VALUE)
    whole = path.read_bytes()
    for content in (b"", whole[:-3], whole[: len(whole) // 2], b"[1, 2]", b"3", b"\xff\xfe", b"[" * 100_000):
        path.write_bytes(content)
        with pytest.raises(sums.Damaged):
            sums.read_json(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        sums.read_json(path)


def test_json_of_an_earlier_version_is_read_with_a_line_once(tmp_path, capsys):
    (tmp_path / "data.json").write_text(json.dumps(VALUE))
    assert sums.read_json(tmp_path / "data.json") == sums.read_json(tmp_path / "data.json") == VALUE
    assert capsys.readouterr().err.count("data.json has no sum") == 1


def test_a_line_with_a_flipped_bit_is_no_record_or_the_same(tmp_path):
    record = {"step": 40, "loss": 0.1234567890123, "grad_norm": math.inf, "rate": 1e-5}
    line = sums.line_of(record)
    assert sums.record_of(line) == record
    assert json.loads(line) == {**record, "crc32": json.loads(line)["crc32"]}
    same = 0
    for changed in flips(line.encode(), 10_000):
        found = sums.record_of(changed.decode(errors="replace"))
        if found is not None:
            assert found == record
            same += 1
    assert same < 8 * line.count(" ")
    for text in ("", "3", "null", "[1]", line[:-1], '{"step": 40, "lo'):
        assert sums.record_of(text) is None
    assert sums.record_of('{"step": 40, "loss": 0.5}') == {"step": 40, "loss": 0.5}  # of an earlier version


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_with_a_flipped_bit_are_damage_or_the_same(tmp_path, compressed):
    """NumPy itself reads of an array what it needs, and may stop before the end, where zip compares."""
    path = tmp_path / "a.npz"
    arrays = {
        "features": np.random.default_rng(0).normal(size=(20, 30)).astype(np.float32),
        "text": np.asarray(["x: 1"]),
    }
    save_arrays(path, arrays, compressed=compressed)
    whole, same = path.read_bytes(), 0
    for changed in flips(whole, 800):
        path.write_bytes(changed)
        try:
            found = sums.read_arrays(path)
        except sums.Damaged:
            continue
        if found.keys() == arrays.keys():
            for name, array in arrays.items():
                np.testing.assert_array_equal(found[name], array)
        same += 1
    assert same < 0.2 * 800
    path.write_bytes(b"")
    with pytest.raises(sums.Damaged):
        sums.read_arrays(path)


def test_sums_of_a_folder_name_what_differs(tmp_path):
    (tmp_path / "deeper").mkdir()
    for name in ("a.npy", "deeper/b c"):
        (tmp_path / name).write_bytes(name.encode())
    assert sums.check_sums(tmp_path) is False
    sums.write_sums(tmp_path, ["deeper/b c", "a.npy"])
    assert sums.check_sums(tmp_path) is True
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", sums.SUMS], cwd=tmp_path, check=True)
    (tmp_path / "new").touch()
    with pytest.raises(sums.Damaged, match="new has no sum"):
        sums.check_sums(tmp_path)
    assert sums.check_sums(tmp_path, lambda name: name != "new")
    (tmp_path / "new").unlink()
    (tmp_path / "deeper/b c").write_bytes(b"other")
    with pytest.raises(sums.Damaged, match="deeper/b c has another sum"):
        sums.check_sums(tmp_path)
    (tmp_path / "deeper/b c").unlink()
    with pytest.raises(sums.Damaged, match="deeper/b c is missing"):
        sums.check_sums(tmp_path)
    for content in (b"", b"nonsense\n", b"\xff"):
        (tmp_path / sums.SUMS).write_bytes(content)
        with pytest.raises(sums.Damaged, match=sums.SUMS):
            sums.check_sums(tmp_path)
