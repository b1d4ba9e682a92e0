"""Measures the data: images a second from packs and from a folder of pictures, and memory over an epoch.

    python -m benchmarks.data [--pictures DIR] [--files 1000000] [--seconds 5]

Packs are of random pixels, which take the same time as any. --pictures is a folder of JPEGs at the size they are trained at, such
as AFHQ's at 256x256: the pipeline's rate is compared with Pillow's bare decoding by one thread, taking turns with it. --files
makes a folder of that many (hard links to a few small PNGs, in the temporary folder), scans it twice and reads a whole epoch.
Prints a JSON line for each.
"""

import argparse
import itertools
import json
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from scoreflow_jax.data import DataSource, DataSpec, open_source
from scoreflow_jax.data.packed import Packed, write_pack
from scoreflow_jax.data.pipeline import train_batches
from scoreflow_jax.settings.data import DataSettings

_LINKS = 50_000  # of a file; ext4 allows 65,000


class _Random(DataSource):
    """Random pixels."""

    class_names = ("a", "b")

    def __init__(self, count: int, size: int) -> None:
        self.spec = DataSpec((size, size, 3), 2)
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        pixels = np.random.default_rng(index).integers(0, 256, self.spec.shape, np.uint8)
        return {"image": pixels, "label": np.int32(index % 2)}


def main() -> None:
    """Measures what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", help="a folder of JPEGs")
    parser.add_argument("--files", type=int, default=0, help="also an index of this many files")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"  # scans are measured from nothing
        root = pathlib.Path(folder)
        packs(root, args.seconds, args.turns)
        if args.pictures:
            pictures(args.pictures, args.seconds, args.turns)
        if args.files:
            many_files(root / "many", args.files)


def packs(root: pathlib.Path, seconds: float, turns: int) -> None:
    """Packs of CIFAR-10's size and of 256x256, read in training's random order."""
    for size, count, batch in ((32, 50_000, 128), (256, 2_000, 64)):
        start = time.perf_counter()
        write_pack(root / str(size), {"train": _Random(count, size)})
        say(f"packed {size}x{size}", images=count, pack_seconds=time.perf_counter() - start)
        source = Packed(root / str(size), "train")
        rates = [_rate(source, batch, seconds, 0) for _ in range(turns)]
        say(f"packed {size}x{size}", batch=batch, images_per_second=rates, median=float(np.median(rates)))


def pictures(folder: str, seconds: float, turns: int) -> None:
    """A folder of pictures against bare decoding, at the size of the first one."""
    files = [path for path in sorted(pathlib.Path(folder).rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg")]
    width, height = Image.open(files[0]).size
    source = open_source("train", _settings(folder, (height, width, 3)))
    quarter = open_source("train", _settings(folder, (height // 4, width // 4, 3)))
    runs: dict[str, Callable[[], float]] = {
        "bare decoding, one thread": lambda: _bare(files, seconds),
        "pipeline, threads": lambda: _rate(source, 32, seconds, 0),
        f"pipeline, {os.cpu_count()} processes": lambda: _rate(source, 32, seconds, os.cpu_count() or 1),
        "pipeline, threads, resized to a quarter": lambda: _rate(quarter, 32, seconds, 0),
    }
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(turns):
        for name, run in runs.items():
            rates[name].append(run())
    bare = float(np.median(rates["bare decoding, one thread"])) * (os.cpu_count() or 1)
    for name, values in rates.items():
        median = float(np.median(values))
        say(name, size=[height, width], images_per_second=values, median=median, of_bare_times_cores=median / bare)


def many_files(folder: pathlib.Path, count: int) -> None:
    """Scan, second scan and an epoch of a folder of many files, with this process's memory along it."""
    rng = np.random.default_rng(0)
    say("before", memory_mb=_memory())
    for number in range(count):
        path = folder / f"class{number % 10}" / f"{number:07d}.png"
        if number < 10:
            path.parent.mkdir(parents=True)
        if number % _LINKS < 10:
            original = path
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
            originals = [original] if number % _LINKS == 0 else [*originals, original]
        else:
            os.link(originals[number % 10], path)
    for name in ("first scan", "second scan"):
        start = time.perf_counter()
        source = open_source("train", _settings(str(folder), (32, 32, 3)))
        say(name, files=count, train=len(source), seconds=time.perf_counter() - start, memory_mb=_memory())
    batches = train_batches(source, 128, seed=0)
    total, start = len(source) // 128, time.perf_counter()
    for part in range(1, 6):
        for _ in range(total // 5):
            next(batches)
        rate = part * (total // 5) * 128 / (time.perf_counter() - start)
        say(f"{part}/5 of an epoch", memory_mb=_memory(), images_per_second=rate)
    shutil.rmtree(folder)


def say(what: str, **figures: Any) -> None:
    """Prints a line."""
    rounded = {k: round(v, 3) if isinstance(v, float) else v for k, v in figures.items()}
    print(json.dumps({"what": what, **rounded}), flush=True)


def _settings(folder: str, shape: tuple[int, ...]) -> DataSettings:
    return DataSettings(
        source="image_folder", name="pictures", path=folder, train_split="train", test_split="test", shape=shape,
        num_classes=None, levels=256, flip=False, test_share=0.0,
    )  # fmt: skip


def _rate(source: DataSource, batch: int, seconds: float, workers: int) -> float:
    """Images a second of the pipeline, after its start."""
    batches: Iterator[Any] = train_batches(source, batch, seed=0, num_workers=workers)
    for _ in range(8):
        next(batches)
    done, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        next(batches)
        done += batch
    if hasattr(batches, "close"):
        batches.close()  # pyrefly: ignore[missing-attribute]
    return done / passed


def _bare(files: list[pathlib.Path], seconds: float) -> float:
    start = time.perf_counter()
    for done, path in enumerate(itertools.cycle(files), 1):
        with Image.open(path) as picture:
            picture.load()
        if (passed := time.perf_counter() - start) > seconds:
            return done / passed
    raise AssertionError("no files")


def _memory() -> float:
    """Resident memory of this process in MB."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
