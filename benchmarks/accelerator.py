"""What is to be measured, and trained, on an accelerator that is lent for half an hour, in pieces of less than ten minutes.

Here, before (needs ml_collections; 94 MB in two parts, for where 64 MiB travel at a time; build/ is not under version control):

    python -m benchmarks.accelerator pack --images cifar10.npz --out build/lent

There, with JAX, flax, optax, diffrax, orbax-checkpoint, numpy and Pillow, in a folder that stays between calls (send part_0.npz,
part_1.npz and the two JSON files by their names: to send the folder again would replace what it has become). Each call may be
stopped and taken up again, and OUT may be empty each time:

    python -m benchmarks.accelerator speed --parts build/lent --out OUT
    python -m benchmarks.accelerator unpack --parts build/lent
    python -m benchmarks.accelerator train --parts build/lent --seconds 500
    python -m benchmarks.accelerator bring --parts build/lent --out OUT

Here, after (Inception's features of 10,000 images take minutes):

    python -m benchmarks.accelerator look --brought OUT --reference statistics/train.npz

`speed` takes bfloat16 and float32 of both configs in turn and writes speed.jsonl: images/s, share of the rate of matrix
products and of the device's peak in 16 bits, memory. `unpack` joins the parts that have come so far. `train` goes on with
configs/cifar10_small.py until the time is up. `bring` writes the averaged weights in bfloat16 and 10,000 8-bit images, in files
of at most 16 MiB, and says what 100 of them cost by Dopri5 at 1e-5. `look` measures those images' distance to what
--mode=statistics wrote. With --small it is a rehearsal.
"""

import argparse
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from scoreflow_jax.typing import PyTree

CONFIGS = ("cifar10", "cifar10_small")
_ROWS, _COLUMNS = 100, 100  # images of a mosaic
_BROUGHT = 10_000


def pack(images: pathlib.Path, out: pathlib.Path, small: bool) -> None:
    """Writes both configs as JSON and the images as lossless mosaics, the training set's in two files."""
    out.mkdir(parents=True, exist_ok=True)
    for name in CONFIGS:
        variant = f"configs/{name}.py{':smoke' if small else ''}"
        changes = ["--config.data.source=arrays", f"--config.data.path={out / 'images.npz'}"]
        _main_py("--mode=config", f"--config={variant}", *changes, f"--out={out / name}.json")
    with np.load(images) as file:
        arrays = {name: file[name] for name in file.files}
    if small:
        arrays = {name: array[:200] for name, array in arrays.items()}
    half = len(arrays["train_images"]) // 2
    first = {name: array[:half] for name, array in arrays.items() if name.startswith("train")}
    second = {name: array[half:] for name, array in arrays.items() if name.startswith("train")}
    second |= {name: array for name, array in arrays.items() if name.startswith("test")}
    for i, part in enumerate((first, second)):
        stored = {
            k: np.frombuffer(b"".join(_sized(m) for m in _mosaics(v)), np.uint8) if v.ndim == 4 else v
            for k, v in part.items()
        }
        np.savez(out / f"part_{i}.npz", **{f"{k}_shape": np.array(v.shape) for k, v in part.items()}, **stored)
        print(f"{out / f'part_{i}.npz'}: {(out / f'part_{i}.npz').stat().st_size / 2**20:.1f} MiB")


def unpack(parts: pathlib.Path) -> None:
    """Joins the parts to images.npz, where configs expect it, once both are there."""
    files = [parts / f"part_{i}.npz" for i in range(2)]
    if missing := [file.name for file in files if not file.exists()]:
        print(f"waiting for {', '.join(missing)}")
        return
    found: dict[str, list[np.ndarray]] = {}
    for path in files:
        with np.load(path) as file:
            for name in file.files:
                if not name.endswith("_shape"):
                    shape = tuple(file[f"{name}_shape"])
                    found.setdefault(name, []).append(
                        _images(file[name].tobytes(), shape) if len(shape) == 4 else file[name]
                    )
    np.savez(parts / "images.npz", **{name: np.concatenate(each) for name, each in found.items()})
    print({name: sum(map(len, each)) for name, each in found.items()})


def speed(parts: pathlib.Path, out: pathlib.Path, small: bool) -> None:
    """Runs benchmarks.network in a process for each config and type, since memory is a process's; `parts` keeps what is done."""
    done = parts / "speed.jsonl"
    known = done.read_text() if done.exists() else ""
    for name in CONFIGS:
        for dtype in ("bfloat16", "float32"):
            if f'"run": "{name} {dtype}"' not in known:
                command = [
                    sys.executable,
                    "-m",
                    "benchmarks.network",
                    f"--config={parts / name}.json",
                    f"--dtype={dtype}",
                ]
                command += ["--batch=8", "--repeats=1"] if small else ["--batch=128", "--repeats=20"]
                printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                lines = [json.dumps({"run": f"{name} {dtype}", **json.loads(line)}) for line in printed.splitlines()]
                print(*lines, sep="\n", flush=True)
                with done.open("a") as file:
                    print(*lines, sep="\n", file=file)
            shutil.copy(done, out)


def train(parts: pathlib.Path, seconds: float, small: bool) -> None:
    """Goes on with the run until its end or for so many seconds, the wait for its last checkpoint not counted."""
    command = [sys.executable, "-u", "main.py", "--mode=train", f"--config={parts / 'cifar10_small.json'}"]
    command += [f"--workdir={parts / 'run'}", "--config.train.tensorboard=False", "--config.train.sample_every=0"]
    command += [] if small else ["--config.train.steps_per_call=10", "--config.train.checkpoint_every=2000"]
    with subprocess.Popen(command) as process:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            process.wait()
    if process.returncode not in (0, 128 + signal.SIGTERM, -signal.SIGTERM):  # the last before training began
        raise SystemExit(f"training ended with exit code {process.returncode}: its last line says why")
    _main_py("--mode=status", f"--workdir={parts / 'run'}")


def bring(parts: pathlib.Path, out: pathlib.Path, small: bool) -> None:
    """Writes the averaged weights in bfloat16 and images of the newest checkpoint."""
    import jax

    import scoreflow_jax
    from scoreflow_jax.ode import Solver

    count = 40 if small else _BROUGHT
    model = scoreflow_jax.load(parts / "run", batch_size=count if small else 1000)
    write_weights(model.params, out / "ema_bfloat16.npz")
    labels = np.arange(count) % max(model.num_classes, 1)
    start = time.perf_counter()
    images = scoreflow_jax.to_pixels(
        model.with_solver(Solver(method="midpoint", num_steps=20)).generate(jax.random.key(0), labels)
    )
    print(f"{count} images by 20 midpoint steps in {time.perf_counter() - start:.1f} s at step {model.step}")
    few = min(count, 100)
    adaptive = model.with_solver(Solver(rtol=1e-5, atol=1e-5)).solve_samples(jax.random.key(0), few, labels[:few])
    print(f"{few} by Dopri5 at 1e-5: NFE {adaptive.stats.summary()['nfe_mean']:.0f}")
    for i, half in enumerate(np.array_split(images, 2)):
        file = out / f"images_{i}.npz"
        np.savez(file, shape=half.shape, images=np.frombuffer(b"".join(_sized(m) for m in _mosaics(half)), np.uint8))
    for file in sorted(out.iterdir()):
        assert file.stat().st_size < 16 * 2**20, f"{file} is too large to be brought"


def write_weights(params: PyTree, file: pathlib.Path) -> None:
    """A network's parameters in bfloat16, as their bits: NumPy's files do not know the type."""
    import jax
    import ml_dtypes

    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    bits = {jax.tree_util.keystr(path): np.asarray(x).astype(ml_dtypes.bfloat16).view(np.uint16) for path, x in leaves}
    np.savez_compressed(file, **bits)


def read_weights(file: pathlib.Path, like: PyTree) -> PyTree:
    """What `write_weights` wrote, in float32 and of the structure of `like`."""
    import jax
    import ml_dtypes

    with np.load(file) as found:
        stored = {name: found[name].view(ml_dtypes.bfloat16).astype(np.float32) for name in found.files}
    return jax.tree_util.tree_map_with_path(lambda path, _: stored[jax.tree_util.keystr(path)], like)


def look(brought: pathlib.Path, reference: str | None) -> None:
    """Draws a grid of the images that were brought, and measures their distance where there are enough of them."""
    from scoreflow_jax.evaluation.extractors import inception_extractor
    from scoreflow_jax.evaluation.statistics import covariance_of, load_npz
    from scoreflow_jax.metrics.frechet import frechet_distance

    halves = []
    for i in range(2):
        with np.load(brought / f"images_{i}.npz") as file:
            halves.append(_images(file["images"].tobytes(), tuple(file["shape"])))
    images = np.concatenate(halves)
    Image.fromarray(_mosaic(images[:100], 10)).save(brought / "grid.png")
    if reference is None:
        print(f"{len(images)} images; a FID takes --reference")
        return
    extractor = inception_extractor()
    ours, theirs = covariance_of(extractor(images)), load_npz(reference, extractor).gaussian
    if ours is None or theirs is None:
        print(f"{len(images)} images: too few for a FID")
    else:
        print(f"FID of {len(images)} images: {frechet_distance(ours, theirs):.3f}")


def _mosaic(images: np.ndarray, columns: int) -> np.ndarray:
    """Images in rows, the last one filled up with black."""
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    full = np.zeros((rows * columns, height, width, channels), np.uint8)
    full[:count] = images
    return (
        full.reshape(rows, columns, height, width, channels)
        .swapaxes(1, 2)
        .reshape(rows * height, columns * width, channels)
    )


def _mosaics(images: np.ndarray) -> list[bytes]:
    """Images in as few lossless pictures as that format's size allows: neighbours compress better than single files."""
    found = []
    for first in range(0, len(images), _ROWS * _COLUMNS):
        file = io.BytesIO()
        Image.fromarray(_mosaic(images[first : first + _ROWS * _COLUMNS], _COLUMNS)).save(
            file, "WEBP", lossless=True, method=4
        )
        found.append(file.getvalue())
    return found


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(8, "little") + data


def _images(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The images of `_mosaics`, one picture after the other."""
    found, (count, height, width, channels) = [], (int(n) for n in shape)
    while data:
        size = int.from_bytes(data[:8], "little")
        picture = np.asarray(Image.open(io.BytesIO(data[8 : 8 + size])).convert("RGB"))
        rows = picture.shape[0] // height
        tiles = picture.reshape(rows, height, _COLUMNS, width, channels).swapaxes(1, 2)
        found.append(tiles.reshape(-1, height, width, channels))
        data = data[8 + size :]
    return np.concatenate(found)[:count]


def _main_py(*arguments: str) -> None:
    subprocess.run([sys.executable, "main.py", *arguments], check=True)


def main() -> None:
    """Does what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("piece", choices=("pack", "unpack", "speed", "train", "bring", "look"))
    parser.add_argument(
        "--images", type=pathlib.Path, help="an npz with train_images, train_labels, test_images, test_labels"
    )
    parser.add_argument("--parts", type=pathlib.Path, help="where pack's files are, and the run will be")
    parser.add_argument("--out", type=pathlib.Path, help="a folder for what is written")
    parser.add_argument("--brought", type=pathlib.Path, help="the folder that bring wrote")
    parser.add_argument("--reference", help="an npz of mu and sigma, for look's FID")
    parser.add_argument("--seconds", type=float, default=500.0)
    parser.add_argument("--small", action="store_true", help="smoke variants and few images: a rehearsal")
    args = parser.parse_args()
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
    pieces: dict[str, Callable[[], None]] = {
        "pack": lambda: pack(args.images, args.out, args.small),
        "unpack": lambda: unpack(args.parts),
        "speed": lambda: speed(args.parts, args.out, args.small),
        "train": lambda: train(args.parts, args.seconds, args.small),
        "bring": lambda: bring(args.parts, args.out, args.small),
        "look": lambda: look(args.brought, args.reference),
    }
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    pieces[args.piece]()


if __name__ == "__main__":
    main()
