"""What travels to a lent accelerator and back arrives as it was."""

import json
import subprocess

import numpy as np
import pytest

from benchmarks import accelerator

pytest.importorskip("PIL.Image")


@pytest.mark.parametrize("count", [3, 10_050])
def test_mosaics_give_their_images_back(count):
    images = np.random.default_rng(0).integers(0, 256, (count, 2, 4, 3), np.uint8)
    data = b"".join(accelerator._sized(mosaic) for mosaic in accelerator._mosaics(images))
    np.testing.assert_array_equal(accelerator._images(data, images.shape), images)


def test_parts_join_to_the_arrays_that_were_packed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(accelerator, "_main_py", lambda *_: None)  # the configs
    rng = np.random.default_rng(0)
    arrays = {
        f"{name}_images": rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
        for name, count in (("train", 7), ("test", 4))
    }
    arrays |= {f"{name}_labels": rng.integers(0, 3, count) for name, count in (("train", 7), ("test", 4))}
    np.savez(tmp_path / "images.npz", **arrays)
    accelerator.pack(tmp_path / "images.npz", tmp_path / "lent", small=False)
    second = (tmp_path / "lent" / "part_1.npz").rename(tmp_path / "part_1.npz")
    accelerator.unpack(tmp_path / "lent")
    assert "waiting for part_1.npz" in capsys.readouterr().out
    second.rename(tmp_path / "lent" / "part_1.npz")
    accelerator.unpack(tmp_path / "lent")
    with np.load(tmp_path / "lent" / "images.npz") as joined:
        assert set(joined.files) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(joined[name], array)


def test_weights_come_back_as_they_were_to_eight_bits(tmp_path):
    """bfloat16 has eight significant bits; the names of nested parts stay apart."""
    rng = np.random.default_rng(0)
    params = {
        "a": {"kernel": rng.normal(size=(5, 3)).astype(np.float32)},
        "b": {"kernel": np.float32([1e30, 1.0, -3e-30])},
    }
    accelerator.write_weights(params, tmp_path / "weights.npz")
    found = accelerator.read_weights(tmp_path / "weights.npz", params)
    for name, leaves in params.items():
        assert found[name]["kernel"].dtype == np.float32
        np.testing.assert_allclose(found[name]["kernel"], leaves["kernel"], rtol=2.0**-8)


def test_speed_takes_up_what_is_missing_with_an_empty_folder_for_what_comes_back(tmp_path, monkeypatch):
    runs = []

    def measured(command, **_):
        runs.append(command[3:5])
        if len(runs) == 3:
            raise KeyboardInterrupt
        return subprocess.CompletedProcess(command, 0, '{"program": "matmul"}\n{"program": "step"}\n')

    monkeypatch.setattr(accelerator.subprocess, "run", measured)
    for name in ("parts", "first", "second"):
        (tmp_path / name).mkdir()
    with pytest.raises(KeyboardInterrupt):
        accelerator.speed(tmp_path / "parts", tmp_path / "first", small=False)
    assert len((tmp_path / "first" / "speed.jsonl").read_text().splitlines()) == 4
    accelerator.speed(tmp_path / "parts", tmp_path / "second", small=False)
    assert len(runs) == 5
    lines = [json.loads(line) for line in (tmp_path / "second" / "speed.jsonl").read_text().splitlines()]
    assert [line["run"] for line in lines[::2]] == [
        f"{name} {dtype}" for name in accelerator.CONFIGS for dtype in ("bfloat16", "float32")
    ]
