"""What the page of --mode=page can do, without the page: from pictures, classes and numbers to pictures, and a record of it.

A `Studio` is the model with what may be asked of it; a `Visit` is one visitor's files and record, to be downloaded.
"""

import dataclasses
import functools
import json
import os
import pathlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from scoreflow_jax import figures
from scoreflow_jax.commands import reports
from scoreflow_jax.data.pictures import UnreadablePicture, framed, read_picture
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.densities import WARNING, trained_on_dequantized
from scoreflow_jax.likelihood import bits_per_dim
from scoreflow_jax.model import Model
from scoreflow_jax.ode import Solver
from scoreflow_jax.programs import Generate, LogLikelihood, Translate
from scoreflow_jax.sampling import methods_by
from scoreflow_jax.typing import HostImages

Picture = UInt8[np.ndarray, "height width channel"]
Pictures = UInt8[np.ndarray, "batch height width channel"]

Latent = Float[np.ndarray, "height width channel"]

JUMPS = (1, 2, 4)
FRAMES = 17  # of a walk between two pictures, and of the way of a translation
MOST_PICTURES = 100
MOST_PIXELS = 20_000_000  # of an upload
LARGEST_SEED = 2**31 - 1
_DENSITY = {"rtol": 1e-3, "atol": 1e-3}
_PROBES = 4


class Visit:
    """What one visitor has made: files in a folder of its own, and what each is of.

    Attributes:
        made: a record for each thing, in order.
    """

    def __init__(self) -> None:
        self.made: list[dict[str, Any]] = []
        self._files = 0

    @functools.cached_property
    def folder(self) -> pathlib.Path:
        """A temporary one, made when it is first needed."""
        return pathlib.Path(tempfile.mkdtemp(prefix="scoreflow_page_", dir=os.environ.get("GRADIO_TEMP_DIR")))

    def place(self, name: str) -> pathlib.Path:
        """A new file's path, numbered in the order of making."""
        self._files += 1
        return self.folder / f"{self._files:03d}-{name}"

    def picture(self, name: str, pixels: Picture) -> str:
        """Writes one as it is and returns its path."""
        path = self.place(f"{name}.png")
        figures.save_picture(path, pixels)
        return str(path)

    def note(self, what: str, **facts: Any) -> None:
        """Adds to the record."""
        self.made.append({"what": what, **facts})

    def bundle(self, head: dict[str, Any]) -> str:
        """Everything in one zip, with report.json.

        Args:
            head: of the report: which model this was.

        Raises:
            UserError: nothing was made yet.
        """
        if not self.made:
            raise UserError("nothing was made yet: there is nothing to download")
        path = self.folder / "scoreflow.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for each in sorted(self.folder.iterdir()):
                if each != path:
                    file.write(each, each.name)
            file.writestr("report.json", json.dumps({**head, "made": self.made}, indent=2))
        return str(path)

    def end(self) -> None:
        """Removes its files."""
        if "folder" in vars(self):
            shutil.rmtree(self.folder, ignore_errors=True)


class Studio:
    """A model of pictures and what a page asks of it. Every method checks what it is given, as it may come from anybody.

    Attributes:
        model: of images.
        names: of its classes; empty for an unconditional model.
        ways: solvers by the name that the page gives them, the first of them the usual one.
    """

    def __init__(self, model: Model, names: list[str]) -> None:
        """Takes the model.

        Args:
            model: a trained one.
            names: of its classes.

        Raises:
            UserError: a model of points, or one that translates between two data sets.
        """
        if model.experiment.spec.is_points:
            raise UserError("--mode=page shows pictures, and this model is of points of a table: see --mode=sample")
        if model.experiment.data.base:
            raise UserError(
                "--mode=page begins with noise, and this model with the pictures of config.data.base: see --mode=translate"
            )
        self.model = model = model.with_sampler(dataclasses.replace(model.experiment.sampler, name="ode"))
        self.names = names
        solver = model.experiment.solver
        adaptive = solver.adaptive
        self.ways: dict[str, Solver] = {"ODE in 20 network calls": _in_20_calls(model)}
        self.ways |= {
            f"ODE to a tolerance of {tol:g}": dataclasses.replace(adaptive, rtol=tol, atol=tol) for tol in (1e-4, 1e-5)
        }
        if solver.num_steps is not None and solver not in self.ways.values():
            self.ways[f"{solver.method} in {solver.num_steps} steps, as the config says"] = solver
        if model.experiment.jumps:
            self.ways |= {f"flow map, {n} jump{'s' * (n > 1)}": adaptive.jumps(n) for n in JUMPS}

    @property
    def guided(self) -> float:
        """The largest weight of guidance; 1 for a model without."""
        network = self.model.experiment.network
        return 4.0 if network.label_dropout else max(1.0, network.most_guidance)

    def label(self, name: str | None) -> int | None:
        """The class of a name; None for an unconditional model.

        Raises:
            UserError: no such class.
        """
        if not self.names:
            return None
        if name not in self.names:
            raise UserError(f"there is no class {name!r}; expected one of {', '.join(self.names)}")
        return self.names.index(name)

    def way(self, name: str) -> Model:
        """The model by the solver of a name.

        Raises:
            UserError: no such way.
        """
        if name not in self.ways:
            raise UserError(f"there is no way {name!r}; expected one of {', '.join(self.ways)}")
        return self.model.with_solver(self.ways[name])

    def read(self, path: str | None) -> Picture:
        """A picture of the user's at the model's size, by the reader of training.

        Raises:
            UserError: none, or one that cannot be read.
        """
        if not path:
            raise UserError("give a picture first: upload, draw or generate one")
        data = self.model.experiment.data
        try:
            return read_picture(path, self.model.image_shape, data.framing, data.white_level)
        except UnreadablePicture as error:
            raise UserError(f"this picture cannot be taken: {error}") from error

    def drawn(self, canvas: Any, *, light: bool) -> Picture:
        """A drawing at the model's size.

        Args:
            canvas: 8-bit pixels (height, width, 1 to 4).
            light: take it as light strokes on dark ground, as digits are.

        Raises:
            UserError: nothing is drawn.
        """
        pixels = np.asarray(canvas) if canvas is not None else np.zeros((0, 0, 3), np.uint8)
        if pixels.ndim != 3 or pixels.dtype != np.uint8 or not pixels.size:
            raise UserError("draw something first")
        if pixels.shape[-1] == 4:  # white where nothing is drawn
            cover = pixels[..., 3:].astype(np.float32) / 255
            pixels = np.rint(pixels[..., :3] * cover + 255 * (1 - cover)).astype(np.uint8)
        if pixels.min() == pixels.max():
            raise UserError("draw something first")
        pixels = 255 - pixels if light else pixels
        return framed(pixels[..., :3] if pixels.shape[-1] > 2 else pixels[..., :1], self.model.image_shape)

    def seed(self, seed: Any) -> int:
        """A whole number from 0 on.

        Raises:
            UserError: another one.
        """
        if not isinstance(seed, (int, float)) or int(seed) != seed or not 0 <= seed <= LARGEST_SEED:
            raise UserError(f"the seed is {seed!r}, expected a whole number from 0 to {LARGEST_SEED}")
        return int(seed)

    def _pixels(self, images: HostImages) -> Pictures:
        return self.model.experiment.scaling.to_pixels(images)

    def _images(self, pixels: Picture | None, what: str = "a picture") -> HostImages:
        """One picture as a batch."""
        if pixels is None:
            raise UserError(f"give {what} first: upload, draw or generate one")
        return self.model.experiment.scaling.from_eight_bits(np.asarray(pixels, np.uint8))[None]

    def generate(
        self, classes: list[str], count: int, seed: Any, guidance: float, way: str
    ) -> tuple[Pictures, list[str]]:
        """Pictures of classes in turn, and the class of each.

        Args:
            classes: names; of an unconditional model none.
            count: how many.
            seed: of the noise: picture i of a seed is the same whatever the count.
            guidance: weight, 1: none.
            way: a name of `ways`.

        Raises:
            UserError: whatever of this does not fit.
        """
        if not 1 <= int(count) <= MOST_PICTURES:
            raise UserError(f"{count} pictures are asked for, expected 1 to {MOST_PICTURES}")
        if self.names and not classes:
            raise UserError("choose a class first")
        if not 0 <= guidance <= self.guided:
            raise UserError(f"guidance is {guidance}, expected a weight from 0 to {self.guided:g}")
        chosen = [self.label(name) for name in classes]
        labels = np.resize(np.asarray(chosen, np.int32), int(count)) if self.names else None
        made = self.way(way).solve_samples(self.seed(seed), int(count), labels, guidance=guidance)
        return self._pixels(made.y), [] if labels is None else [self.names[i] for i in labels]

    def translations(self, pixels: Picture | None, source: str, target: str, way: str) -> Iterator[tuple[str, Picture]]:
        """A picture in another class, by both methods the way that is chosen, and by flow maps: one after the other.

        Raises:
            UserError: no picture, unknown classes, or the same twice.
        """
        images, a, b = self._images(pixels), self.label(source), self.label(target)
        if a is None or b is None:
            raise UserError("this model has no classes to translate between")
        if a == b:
            raise UserError(f"both classes are {source!r}: choose two")
        model = self.way(way)
        jumping = model.experiment.solver.method == "flow_map"
        for method in methods_by(model.experiment.solver):
            yield method, self._pixels(model.translate(images, a, b, method=method))[0]
        if "difference" not in methods_by(model.experiment.solver):  # which takes a solver of two drifts
            solver = self.model.experiment.solver.fixed("midpoint", 10)
            two = self.model.with_solver(solver).translate(images, a, b, method="difference")
            yield "difference", self._pixels(two)[0]
        for name, solver in self.ways.items():
            if solver.method == "flow_map" and not (jumping and name == way):
                yield (
                    name.removeprefix("flow map, ") + " each way",
                    self._pixels(self.way(name).translate(images, a, b))[0],
                )

    def path(self, pixels: Picture | None, source: str, target: str) -> tuple[Pictures, list[str]]:
        """The way of a translation by `latent`: states from the picture to noise and on to the other class, with their t.

        Raises:
            UserError: as of `translations`.
        """
        images, a, b = self._images(pixels), self.label(source), self.label(target)
        if a is None or b is None or a == b:
            raise UserError("choose two classes")
        times = np.linspace(0.0, 1.0, FRAMES)
        solved = self.way(next(iter(self.ways))).solve(Translate("latent"), images, a, b, times=times)
        assert solved.path is not None  # times were given
        heads = [f"t = {t:.2f}, {source}" for t in times[::-1]] + [f"t = {t:.2f}, {target}" for t in times]
        return self._pixels(np.clip(solved.path[:, 0], -1, 1)), heads

    def between(self, ends: tuple[Picture | None, Picture | None], label: str | None, rule: str, way: str) -> Pictures:
        """Pictures from one to another of a class, through their latents.

        Args:
            ends: both pictures.
            label: the class of both.
            rule: "square_root", "slerp" or "linear".
            way: a name of `ways`.

        Raises:
            UserError: one is missing, or whatever does not fit.
        """
        first, second = (
            self._images(p, f"the {name} picture") for p, name in zip(ends, ("first", "second"), strict=True)
        )
        made = self.way(way).interpolate(first, second, self.label(label), num_steps=FRAMES, rule=rule)
        return self._pixels(made[0])

    def between_seeds(self, seeds: tuple[Any, Any], label: str | None, rule: str, way: str) -> Pictures:
        """Pictures between those of two seeds.

        Args:
            seeds: of both.
            label: the class.
            rule: as of `between`.
            way: a name of `ways`.
        """
        model = self.way(way)
        first, second = (np.asarray(model.source_points(self.seed(seed), 1)) for seed in seeds)
        made = model.interpolate(first, second, self.label(label), num_steps=FRAMES, rule=rule, latents=True)
        return self._pixels(made[0])

    def encode(self, pixels: Picture | None, label: str | None, way: str) -> tuple[Latent, Picture, float]:
        """The latent of a picture, what it is decoded to, and the mean absolute error of that in grey levels of 255.

        Raises:
            UserError: no picture, or an unknown class.
        """
        images, c, model = self._images(pixels), self.label(label), self.way(way)
        latent = model.encode(images, c)
        again = model.solve(Generate(), latent, c).y
        return latent[0], self._pixels(again)[0], float(np.abs(again - images).mean() * 127.5)

    def likelihoods(self, pixels: Picture | None, classes: list[str] | None = None) -> dict[str, tuple[float, float]]:
        """Log densities of a picture in each class, in nats on [-1, 1], with the standard error over probes.

        By Dopri5 at 1e-3, with the same probes for every class.

        Args:
            pixels: the picture.
            classes: names; None: all. An unconditional model has one, "any".

        Raises:
            UserError: no picture, or a source that is not Gaussian.
        """
        images = self._images(pixels)
        names = (self.names if classes is None else classes) or ["any"]
        solver = dataclasses.replace(self.model.experiment.solver.adaptive, **_DENSITY)
        model = self.model.with_solver(solver)
        program = LogLikelihood(jax.random.key(0), probes=_PROBES)
        found = {}
        for name in names:
            value, _, error = model.solve(program, images, self.label(name) if self.names else None).y
            found[name] = (float(value[0]), float(error[0]))
        return found

    @property
    def how_measured(self) -> dict[str, Any]:
        """What a record says of `likelihoods`."""
        return {"nats_are": "value and standard error over probes", "probes": _PROBES, **_DENSITY}

    def bits(self, nats: float) -> float:
        """Bits a number of a picture, of its log density."""
        levels = self.model.experiment.spec.levels
        return float(bits_per_dim(jnp.asarray([nats], jnp.float32), int(np.prod(self.model.image_shape)), levels)[0])

    def warning(self) -> str:
        """What has to be said of likelihoods of this model; empty: nothing."""
        return "" if trained_on_dequantized(self.model) else WARNING

    def head(self) -> dict[str, Any]:
        """What a report of a visit begins with."""
        return reports.report_head(self.model, "page", seed=None)


def _in_20_calls(model: Model) -> Solver:
    """The preset, or on a path without noise levels the midpoint method."""
    try:
        model.with_solver(Solver.of_preset("fast"))
        return Solver.of_preset("fast")
    except UserError:
        return model.experiment.solver.fixed("midpoint", 10)


def shares(densities: dict[str, tuple[float, float]]) -> dict[str, float]:
    """The probability of each class by Bayes' rule, all classes alike before."""
    values = np.asarray([value for value, _ in densities.values()])
    weights = np.exp(values - values.max())
    return dict(zip(densities, (weights / weights.sum()).tolist(), strict=True))
