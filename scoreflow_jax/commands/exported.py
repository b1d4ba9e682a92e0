"""Runs an exported model with jax, numpy and Pillow alone: python run.py [CLASS [OTHER]], two numbers of classes."""

import json
import pathlib
import sys

import jax
import numpy as np
from jax import export
from PIL import Image


def main() -> None:
    """Generates 8 images of a class, encodes and decodes them, translates them to another, and writes the pictures."""
    here = pathlib.Path(__file__).parent
    about = json.loads((here / "export.json").read_text())
    weights = dict(np.load(here / "weights.npz"))
    read = lambda name: export.deserialize(bytearray((here / f"{name}.stablehlo").read_bytes()))  # noqa: E731
    run = {name: jax.jit(read(name).call) for name in about["programs"]}
    classes = [np.full(8, int(c), np.int32) for c in [*sys.argv[1:], 0, 1][:2]] if about["classes"] else []
    noise = np.random.default_rng(0).standard_normal((8, *about["shape"]), np.float32) * np.float32(
        about["noise_scale"]
    )
    images = {"generated": run["generate"](weights, noise, *classes[:1])}
    images["again"] = run["generate"](weights, run["encode"](weights, images["generated"], *classes[:1]), *classes[:1])
    if "translate" in run:
        images["translated"] = run["translate"](weights, images["generated"], *classes)
    print("encoded and decoded, mean absolute error", float(np.abs(images["again"] - images["generated"]).mean()))
    for name, made in images.items():
        if len(about["shape"]) == 1:
            np.savetxt(here / f"{name}.csv", about["units"]["shift"] + made * about["units"]["scale"], delimiter=",")
            continue
        pixels = np.clip(np.rint(127.5 * np.asarray(made) + 127.5), 0, 255).astype(np.uint8)
        Image.fromarray(np.concatenate(pixels, axis=1).squeeze()).save(here / f"{name}.png")


if __name__ == "__main__":
    main()
