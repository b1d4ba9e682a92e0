"""What travels to a lent accelerator and back arrives as it was."""

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
