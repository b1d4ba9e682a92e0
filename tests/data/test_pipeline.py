"""The stream of batches: shuffled by epoch, the same for any number of processes and workers, resumed from a count."""

import dataclasses
import itertools
import os
import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from scoreflow_jax.data import open_source, pipeline
from scoreflow_jax.data.base import DataSource, DataSpec
from scoreflow_jax.data.packed import write_pack
from scoreflow_jax.data.pipeline import train_batches
from scoreflow_jax.errors import UserError
from tests.data.sources import settings_of


class Counting(DataSource):
    """Images that are their own number."""

    class_names = ("a", "b")

    def __init__(self, count: int) -> None:
        self.count = count
        self.spec = DataSpec(shape=(1, 1, 1), num_classes=2, levels=256)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"image": np.full((1, 1, 1), index, np.uint8), "label": np.int32(index % 2)}


def stream(count, batch_size, batches, **options):
    """The image numbers of the first batches."""
    iterator = train_batches(Counting(count), batch_size, seed=3, **options)
    rows = [b["image"].ravel() for b in itertools.islice(iterator, batches)]
    if hasattr(iterator, "close"):
        iterator.close()
    return np.stack(rows)


def test_each_epoch_has_every_image_once_in_an_order_of_its_own():
    numbers = stream(20, 5, 12).reshape(3, 20)
    for epoch in numbers:
        assert sorted(epoch) == list(range(20))
    assert not np.array_equal(numbers[0], numbers[1])
    assert not np.array_equal(numbers[0], np.arange(20))


def test_the_seed_decides_and_nothing_else():
    np.testing.assert_array_equal(stream(20, 5, 8), stream(20, 5, 8))
    other = [b["image"].ravel() for b in itertools.islice(train_batches(Counting(20), 5, seed=4), 8)]
    assert not np.array_equal(np.stack(other), stream(20, 5, 8))


@pytest.mark.parametrize("consumed", [1, 3, 4, 9])
def test_resumes_with_the_very_next_batch(consumed):
    """Also past the end of an epoch, and where a batch straddles two (22 images in batches of 5)."""
    np.testing.assert_array_equal(stream(22, 5, 6, consumed=consumed), stream(22, 5, 6 + consumed)[consumed:])


@pytest.mark.parametrize("processes", [2, 5])
def test_processes_share_the_same_global_batches(processes):
    whole = stream(22, 10, 7)
    shares = [stream(22, 10, 7, rows=rows) for rows in np.split(np.arange(10), processes)]
    np.testing.assert_array_equal(np.concatenate(shares, axis=1), whole)


def test_worker_processes_do_not_change_the_stream():
    np.testing.assert_array_equal(stream(22, 5, 8, num_workers=1, consumed=2), stream(22, 5, 8, consumed=2))


def test_balanced_batches_hold_each_class_equally_often_across_processes():
    """Counting's labels are even and odd numbers; 21 of them, so one class is larger."""
    shares = [
        [b["label"] for b in itertools.islice(train_batches(Counting(21), 8, seed=1, balanced=True, rows=rows), 6)]
        for rows in np.split(np.arange(8), 2)
    ]
    for both in zip(*shares, strict=True):
        assert np.bincount(np.concatenate(both)).tolist() == [4, 4]


def test_workers_start_without_absls_flags_being_parsed(root, tmp_path):
    """As from a notebook or a script of one's own."""
    script = tmp_path / "own_script.py"
    script.write_text(
        "from scoreflow_jax.data import Digits\n"
        "from scoreflow_jax.data.pipeline import train_batches\n"
        "if __name__ == '__main__':\n"
        "    batches = train_batches(Digits('train'), 4, seed=0, num_workers=1)\n"
        "    print(next(batches)['image'].shape)\n"
        "    batches.close()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.strip() == "(4, 8, 8, 1)", done.stderr[-2000:]
    assert "leaked" not in done.stderr


def test_memory_is_flat_along_the_stream(tmp_path):
    """From a folder and from its pack, over many epochs; a batch kept by mistake would be 25 kB each time.

    Readers ahead hold now more and now fewer batches: the least of each third is compared.
    """
    for i in range(40):
        path = tmp_path / "pictures" / f"{i:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    folder = settings_of("image_folder", path=str(path.parent), shape=(32, 32, 3), test_share=0.0)
    write_pack(tmp_path / "pack", {"train": open_source("train", folder)}, folder)
    for path in (folder.path, str(tmp_path / "pack")):
        batches = train_batches(open_source("train", dataclasses.replace(folder, path=path)), 8, seed=0)
        used = []
        tracemalloc.start()
        for _ in range(3):
            held = []
            for _ in range(100):
                next(batches)
                held.append(tracemalloc.get_traced_memory()[0])
            used.append(min(held))
        tracemalloc.stop()
        assert used[2] - used[1] < 200_000  # bytes, of the 2,500,000 read meanwhile


def test_refuses_a_batch_larger_than_the_data():
    with pytest.raises(UserError, match="larger than the data set of 20 images"):
        train_batches(Counting(20), 21, seed=0)


@pytest.fixture
def _no_grain(monkeypatch):
    monkeypatch.setattr(pipeline, "_has_grain", lambda: False)


@pytest.mark.parametrize("options", [{}, {"consumed": 3}, {"balanced": True}, {"rows": np.array([1, 3])}])
def test_the_stream_is_the_same_without_grain(options, monkeypatch):
    by_grain = stream(22, 5, 9, **options)
    monkeypatch.setattr(pipeline, "_has_grain", lambda: False)
    np.testing.assert_array_equal(stream(22, 5, 9, **options), by_grain)


@pytest.mark.usefixtures("_no_grain")
def test_batches_are_read_ahead_without_grain():
    """By one thread, which is gone when the stream is closed."""
    read = threading.Event()

    class Watched(Counting):
        def read(self, indices):
            numbers.append(len(numbers))
            if len(numbers) == 3:
                read.set()
            return super().read(indices)

    numbers = []
    before = set(threading.enumerate())
    batches = train_batches(Watched(20), 5, seed=0)
    next(batches)
    assert read.wait(10)
    # Threads of other tests may end meanwhile: only the new ones count.
    (reader,) = set(threading.enumerate()) - before
    batches.close()
    assert not reader.is_alive()
    assert len(numbers) < 10


@pytest.mark.usefixtures("_no_grain")
def test_an_error_of_the_reading_thread_comes_up_where_its_batch_is_asked_for():
    class Broken(Counting):
        def __getitem__(self, index):
            if index == bad:
                raise UserError("this image is damaged")
            return super().__getitem__(index)

    bad = int(stream(20, 5, 3)[2, 0])
    before = set(threading.enumerate())
    batches = train_batches(Broken(20), 5, seed=3)
    assert len(next(batches)["label"]) == len(next(batches)["label"]) == 5
    with pytest.raises(UserError, match="this image is damaged"):
        next(batches)
    assert set(threading.enumerate()) <= before


@pytest.mark.usefixtures("_no_grain")
def test_workers_without_grain_are_refused():
    with pytest.raises(UserError, match="num_workers is 2, but grain.* is not installed: set it to 0"):
        train_batches(Counting(20), 5, seed=0, num_workers=2)
