"""--mode=page: a page in the browser to play with a model, made with gradio: the layout. What it does is in page_session.py.

It listens on this machine alone unless --host says otherwise, loads nothing from elsewhere and reports to nobody; what visitors
upload and make lies in temporary folders, and no other file can be fetched.
"""

import contextlib
import importlib
import importlib.util
import inspect
import os
import pathlib
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from scoreflow_jax.commands import workdir as workdirs
from scoreflow_jax.commands.page_session import (
    FRAMES,
    LARGEST_SEED,
    MOST_PICTURES,
    MOST_PIXELS,
    Studio,
    Visit,
    shares,
)
from scoreflow_jax.data.pictures import only_safe_formats
from scoreflow_jax.errors import UserError
from scoreflow_jax.experiment import Experiment
from scoreflow_jax.sampling import RULES

_LOCAL = "127.0.0.1"
_LARGEST_UPLOAD = "16mb"
_GRADIO = 6
_LIGHT = 2  # uploads and drawings that are read at a time
_WAITING = 16  # visitors' computations at the most
_KEPT = 3600  # seconds that a visitor's files are kept after the last request
_STYLE = """
.pixels img { image-rendering: pixelated; width: 100%; height: 100%; object-fit: contain; }
.pixels .image-frame { padding-top: 2.4rem; box-sizing: border-box; }
footer { display: none !important; }
"""
_DRAWN = (256, 256)


def run_command(experiment: Experiment, workdir: pathlib.Path, host: str = _LOCAL, port: str = "7860") -> None:
    """Serves the page until it is interrupted.

    Args:
        experiment: of the config at hand.
        workdir: of the run, or a published model.
        host: address to listen on; 0.0.0.0: all of this machine.
        port: to listen on.

    Raises:
        UserError: gradio is missing, a model without pictures, or an address that cannot be listened on.
    """
    number = _port(port)
    gradio = _gradio()
    shut_out(gradio)
    model = workdirs.open_model(experiment, workdir, batch_size=experiment.sample.batch_size, with_data=False)
    names = list(workdirs.class_names(experiment, workdir)) or [str(i) for i in range(model.num_classes)]
    studio = Studio(model, names[: model.num_classes])
    with tempfile.TemporaryDirectory(prefix="scoreflow_page_", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        page = layout(gradio, studio)
        _reach_without_proxy(host)
        try:
            page.launch(
                server_name=host,
                server_port=number,
                share=False,
                quiet=True,
                show_error=True,
                max_file_size=_LARGEST_UPLOAD,
                ssr_mode=False,
                prevent_thread_lock=True,
                footer_links=[],
                **looks(gradio),
            )
        except OSError as error:
            raise UserError(
                f"cannot listen on {host}:{number}, which is taken or no address of this machine: give another --port or --host"
            ) from error
        whole = "" if host == _LOCAL else ", for whoever reaches this machine"
        print(f"{model.experiment.name} at http://{host}:{number}{whole}; Ctrl-C ends it", flush=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that its folder goes with it
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(1)
        page.close()


def _reach_without_proxy(host: str) -> None:
    """gradio asks itself whether it has started, which a proxy would not know."""
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), host, _LOCAL, "localhost")))


def _port(port: str) -> int:
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"--port is {port!r}, expected a number from 1 to 65535")
    return int(port)


def _gradio() -> Any:
    if importlib.util.find_spec("gradio") is None:
        raise UserError("--mode=page is made with gradio, which is not installed: pip install gradio")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before it is imported
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    gradio = importlib.import_module("gradio")
    if int(gradio.__version__.split(".")[0]) < _GRADIO:
        raise UserError(
            f"--mode=page needs gradio {_GRADIO}, and {gradio.__version__} is installed: pip install -U gradio"
        )
    return gradio


def shut_out(gradio: Any) -> None:
    """What gradio does for pages that we do not want: it fetches addresses for visitors, and opens any format of picture."""

    async def refuse(*_: Any, **__: Any) -> Any:
        raise importlib.import_module("fastapi").HTTPException(403, "this page fetches nothing from elsewhere")

    gradio.routes.secure_url_stream_response = refuse
    gradio.processing_utils.async_ssrf_protected_get = refuse
    gradio.processing_utils.async_ssrf_protected_download = refuse
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS
    only_safe_formats()


def looks(gradio: Any) -> dict[str, Any]:
    """Theme and style: fonts of the visitor's own system, none that is fetched."""
    theme = gradio.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return {"theme": theme, "css": _STYLE}


def layout(gradio: Any, studio: Studio) -> Any:
    """The page, queued: one computation at a time, the others wait."""
    experiment = studio.model.experiment
    height, width, _ = studio.model.image_shape
    title = f"{experiment.name}: {height}x{width} pictures"
    with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=(_KEPT, _KEPT)) as page:
        visit = gradio.State(lambda: Visit(), time_to_live=_KEPT, delete_callback=lambda visit: visit.end())
        classes = f" of {len(studio.names)} classes" if studio.names else ""
        gradio.Markdown(
            f"# {experiment.name}\n{height}x{width} pictures{classes}; weights after {studio.model.step:,} steps. Pictures that "
            "you give are cut to the middle and made as small as the model's. They stay on the machine that serves this page."
        )
        way = gradio.Dropdown(list(studio.ways), label="Solved by", value=next(iter(studio.ways)), elem_id="way")
        build = _Builder(gradio, studio, visit, way)
        with gradio.Tabs():
            if len(studio.names) > 1:
                with gradio.Tab("Translate", id="translate"):
                    build.translate()
            with gradio.Tab("Generate", id="generate"):
                build.generate()
            with gradio.Tab("Interpolate", id="interpolate"):
                build.interpolate()
            with gradio.Tab("Encode and measure", id="measure"):
                build.measure()
        with gradio.Row():
            together = gradio.Button("Put everything that I made into one file", elem_id="together")
            everything = gradio.DownloadButton("Download it", visible=False, elem_id="everything")

        def bundle(visit: Visit) -> Any:
            return gradio.DownloadButton(value=visit.bundle(studio.head()), visible=True)

        build.light(together.click, bundle, [visit], [everything])
        build.open(page)
    # Closed: what is asked for past the queue would not take its turn.
    return page.queue(max_size=_WAITING, default_concurrency_limit=1, api_open=False)


class _Builder:
    """Tabs of the page; each method builds one."""

    def __init__(self, gradio: Any, studio: Studio, visit: Any, way: Any) -> None:
        self.gradio, self.studio, self.visit, self.way = gradio, studio, visit, way
        self.first: list[tuple[Callable[..., Any], list[Any], list[Any]]] = []
        """What makes a picture of each input of one."""

    def guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with our errors as messages on the page."""
        gradio = self.gradio

        def run(*arguments: Any) -> Any:
            try:
                return function(*arguments)
            except UserError as error:
                raise gradio.Error(str(error), print_exception=False) from error

        return run

    def guarded_steps(self, function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """The same of a function that yields what there is so far."""
        gradio = self.gradio

        def run(*arguments: Any) -> Iterator[Any]:
            try:
                yield from function(*arguments)
            except UserError as error:
                raise gradio.Error(str(error), print_exception=False) from error

        return run

    def compute(
        self, button: Any, function: Callable[..., Any], inputs: list[Any], outputs: list[Any], cancel: Any = None
    ) -> Any:
        """A click that takes its turn among all computations, and that `cancel` ends."""
        steps = inspect.isgeneratorfunction(function)
        event = button.click(
            self.guarded_steps(function) if steps else self.guarded(function),
            inputs,
            outputs,
            concurrency_id="compute",
            concurrency_limit=1,
            api_visibility="private",
        )
        if cancel is not None:
            cancel.click(None, None, None, cancels=[event], queue=False)
        return event

    def open(self, page: Any) -> None:
        """The first tab begins with a picture that the model makes."""
        function, inputs, outputs = self.first[0]
        one = {"concurrency_id": "compute", "concurrency_limit": 1, "api_visibility": "private"}
        page.load(self.guarded(function), inputs, outputs, **one)

    def light(
        self, listen: Callable[..., Any], function: Callable[..., Any], inputs: list[Any], outputs: list[Any]
    ) -> None:
        """What computes nothing, and waits for nobody."""
        listen(
            self.guarded(function),
            inputs,
            outputs,
            concurrency_id="light",
            concurrency_limit=_LIGHT,
            show_progress="hidden",
            api_visibility="private",
        )

    def image(self, label: str, name: str, height: int) -> Any:
        """A picture that is shown large, pixel by pixel."""
        return self.gradio.Image(
            label=label,
            interactive=False,
            height=height,
            buttons=["download", "fullscreen"],
            format="png",
            elem_classes="pixels",
            elem_id=name,
        )

    def class_choice(self, label: str, index: int, name: str) -> Any:
        """A choice of one class; hidden for a model without."""
        names = self.studio.names
        value = names[index % len(names)] if names else None
        return self.gradio.Dropdown(names, value=value, label=label, visible=bool(names), elem_id=name)

    def picture(self, name: str, label: str) -> Any:
        """Three ways to a picture; returns the state that holds its pixels."""
        gradio, studio = self.gradio, self.studio
        state = gradio.State(None)
        grey = studio.model.image_shape[2] == 1
        with gradio.Tabs():
            with gradio.Tab("Upload"):
                upload = gradio.File(type="filepath", label=f"{label}: a file", height=120, elem_id=f"{name}-upload")
            with gradio.Tab("Draw"):
                pad = gradio.Sketchpad(
                    type="numpy", canvas_size=_DRAWN, label=f"{label}: draw", layers=False, elem_id=f"{name}-draw"
                )
                light = gradio.Checkbox(grey, label="light strokes on a dark ground")
                draw = gradio.Button("Take the drawing")
            with gradio.Tab("Generate"):
                label_of = self.class_choice("Class", 1, f"{name}-class")
                seed = gradio.Number(0, label="Seed", precision=0, minimum=0, maximum=LARGEST_SEED)
                make = gradio.Button("Generate one", elem_id=f"{name}-generate")
        seen = self.image(f"{label}, as the model sees it", f"{name}-seen", 200)
        take = lambda pixels: (pixels, _shown(pixels))  # noqa: E731
        self.light(upload.upload, lambda path: take(studio.read(path)), [upload], [state, seen])

        def drawn(canvas: Any, light: bool) -> Any:
            return take(studio.drawn((canvas or {}).get("composite"), light=light))

        self.light(draw.click, drawn, [pad, light], [state, seen])

        def generated(name: str | None, seed: Any, way: str) -> Any:
            return take(studio.generate([name] if name else [], 1, seed, 1.0, way)[0][0])

        self.compute(make, generated, [label_of, seed, self.way], [state, seen])
        self.first.append((generated, [label_of, seed, self.way], [state, seen]))
        return state

    def buttons(self, words: str, name: str) -> tuple[Any, Any]:
        """One that computes and one that ends it."""
        with self.gradio.Row():
            run = self.gradio.Button(words, variant="primary", elem_id=name)
            cancel = self.gradio.Button("Cancel", elem_id=f"{name}-cancel")
        return run, cancel

    def gallery(self, label: str, name: str, columns: int = 4) -> Any:
        """Pictures side by side."""
        self.gradio.Markdown(f"### {label}")
        return self.gradio.Gallery(
            label=label,
            show_label=False,
            columns=columns,
            height="auto",
            object_fit="contain",
            elem_classes="pixels",
            elem_id=name,
            format="png",
        )

    def frames(self, label: str, name: str) -> tuple[Any, Any, Any]:
        """Pictures along a slider: their state, the slider and the picture."""
        gradio = self.gradio
        state = gradio.State(None)
        slider = gradio.Slider(0, FRAMES - 1, value=0, step=1, label=label, elem_id=f"{name}-slider")
        picture = self.image(label, f"{name}-frame", 240)
        heads = gradio.Markdown(elem_id=f"{name}-head")

        def pick(kept: Any, index: float) -> tuple[Any, str]:
            if kept is None:
                return None, ""
            pictures, words = kept
            i = min(max(int(index), 0), len(pictures) - 1)
            return _shown(pictures[i]), words[i]

        self.light(slider.change, pick, [state, slider], [picture, heads])
        return state, slider, (picture, heads)

    def translate(self) -> None:
        """Both methods and flow maps beside each other, and the way along t."""
        studio, gradio = self.studio, self.gradio
        with gradio.Row():
            with gradio.Column():
                state = self.picture("translate", "Picture")
                source = self.class_choice("It is of class", 1, "source")
                target = self.class_choice("Make it of class", len(studio.names) - 1, "target")
                run, cancel = self.buttons("Translate", "translate")
            with gradio.Column():
                results = self.gallery("Translated", "translated", 3)
                kept, slider, shown = self.frames("Along t: to noise and on", "path")

        def translate(visit: Visit, pixels: Any, source: str, target: str, way: str) -> Iterator[Any]:
            found: list[tuple[str, str]] = []
            made: dict[str, str] = {}
            for name, image in studio.translations(pixels, source, target, way):
                path = visit.picture(f"translated-{len(found)}", image)
                made[name] = pathlib.Path(path).name
                found.append((path, name))
                yield visit, found, None, gradio.skip(), None, ""
            given = visit.picture("source", np.asarray(pixels))
            names = {"given": pathlib.Path(given).name, "pictures": made, "along_t_by": next(iter(studio.ways))}
            visit.note("translation", source=source, target=target, way=way, **names)
            states, heads = studio.path(pixels, source, target)
            end = gradio.Slider(maximum=len(states) - 1, value=0)
            yield visit, found, (states, heads), end, _shown(states[0]), heads[0]

        outputs = [self.visit, results, kept, slider, *shown]
        self.compute(run, translate, [self.visit, state, source, target, self.way], outputs, cancel)

    def generate(self) -> None:
        """A grid by classes and seed."""
        studio, gradio = self.studio, self.gradio
        some = studio.names[:10]
        classes = gradio.Dropdown(
            studio.names, value=some, multiselect=True, label="Classes", visible=bool(studio.names), elem_id="classes"
        )
        with gradio.Row():
            count = gradio.Slider(1, MOST_PICTURES, value=20, step=1, label="Pictures", elem_id="count")
            seed = gradio.Number(0, label="Seed", precision=0, minimum=0, maximum=LARGEST_SEED, elem_id="seed")
            guidance = gradio.Slider(
                0, studio.guided, value=1, step=0.1, label="Guidance", visible=studio.guided > 1, elem_id="guidance"
            )
        run, cancel = self.buttons("Generate", "generate")
        results = self.gallery("Generated", "generated", 5)

        def generate(visit: Visit, classes: list[str], count: float, seed: Any, guidance: float, way: str) -> Any:
            pictures, names = studio.generate(classes, int(count), seed, guidance, way)
            paths = [visit.picture(f"generated-{i:03d}", picture) for i, picture in enumerate(pictures)]
            files = [pathlib.Path(path).name for path in paths]
            visit.note("generated", seed=int(seed), guidance=guidance, way=way, classes=names, pictures=files)
            return visit, list(zip(paths, names or [""] * len(paths), strict=True))

        inputs = [self.visit, classes, count, seed, guidance, self.way]
        self.compute(run, generate, inputs, [self.visit, results], cancel)

    def interpolate(self) -> None:
        """Between two pictures, or two seeds."""
        studio, gradio = self.studio, self.gradio
        with gradio.Row():
            with gradio.Column():
                first = self.picture("first", "First picture")
            with gradio.Column():
                second = self.picture("second", "Second picture")
        with gradio.Row():
            label = self.class_choice("Class of both", 1, "between-class")
            rule = gradio.Dropdown(list(RULES), value=next(iter(RULES)), label="Rule", elem_id="rule")
            seeds = [
                gradio.Number(i, label=f"{n} seed", precision=0, minimum=0) for i, n in enumerate(("First", "Second"))
            ]
        with gradio.Row():
            run = gradio.Button("Between the pictures", variant="primary", elem_id="between")
            by_seeds = gradio.Button("Between the seeds", elem_id="between-seeds")
            cancel = gradio.Button("Cancel", elem_id="between-cancel")
        kept, slider, shown = self.frames("From the first to the second", "between")
        strip = self.gallery("All of them", "strip", 6)

        def keep(visit: Visit, pictures: Any, **facts: Any) -> Any:
            paths = [visit.picture(f"between-{i:02d}", picture) for i, picture in enumerate(pictures)]
            visit.note("interpolation", pictures=[pathlib.Path(path).name for path in paths], **facts)
            heads = [f"{i / (FRAMES - 1):.2f}" for i in range(len(pictures))]
            return visit, (pictures, heads), paths, gradio.Slider(value=0), _shown(pictures[0]), heads[0]

        def of_pictures(visit: Visit, a: Any, b: Any, label: str | None, rule: str, way: str) -> Any:
            return keep(visit, studio.between((a, b), label, rule, way), label=label, rule=rule, way=way)

        def of_seeds(visit: Visit, a: Any, b: Any, label: str | None, rule: str, way: str) -> Any:
            made = studio.between_seeds((a, b), label, rule, way)
            return keep(visit, made, seeds=[int(a), int(b)], label=label, rule=rule, way=way)

        outputs = [self.visit, kept, strip, slider, *shown]
        more = [label, rule, self.way]
        self.compute(run, of_pictures, [self.visit, first, second, *more], outputs, cancel)
        self.compute(by_seeds, of_seeds, [self.visit, *seeds, *more], outputs, cancel)

    def measure(self) -> None:
        """The latent of a picture, its log likelihood, and its class by density."""
        studio, gradio = self.studio, self.gradio
        with gradio.Row():
            with gradio.Column():
                state = self.picture("measure", "Picture")
                label = self.class_choice("Class", 1, "measure-class")
            with gradio.Column():
                encode = gradio.Button("Encode", variant="primary", elem_id="encode")
                latent = gradio.DownloadButton("Save the latent", visible=False, elem_id="latent")
                decoded = self.image("Decoded again", "decoded", 160)
                density = gradio.Button("Log likelihood", elem_id="density")
                by_class = gradio.Button("Class by density", visible=len(studio.names) > 1, elem_id="by-class")
                cancel = gradio.Button("Cancel")
                said = gradio.Markdown(elem_id="said")
                chart = gradio.Label(label="Class by density", visible=len(studio.names) > 1, elem_id="chart")

        def encode_it(visit: Visit, pixels: Any, name: str | None, way: str) -> Any:
            found, again, error = studio.encode(pixels, name, way)
            path = visit.place("latent.npz")
            np.savez(path, latent=found, label=np.int32(-1 if name is None else studio.names.index(name)))
            visit.note("latent", file=path.name, label=name, way=way, mean_absolute_error=error)
            words = f"The latent deviates by {found.std():.3f} (noise by 1). Decoded it is {error:.2f} of 255 grey levels off."
            return visit, gradio.DownloadButton(value=str(path), visible=True), _shown(again), words

        def sentence(name: str, value: float, error: float) -> str:
            return f"log p = {value:.1f} ± {error:.1f} nats, {studio.bits(value):.3f} bits/dim ({name})"

        def density_of(visit: Visit, pixels: Any, name: str | None) -> Any:
            found = studio.likelihoods(pixels, [name] if name else None)
            given = visit.picture("measured", np.asarray(pixels))
            visit.note("log likelihood", given=pathlib.Path(given).name, nats=found, **studio.how_measured)
            lines = [sentence(k, *v) for k, v in found.items()]
            return visit, "\n\n".join([*lines, studio.warning()])

        def class_of(visit: Visit, pixels: Any) -> Iterator[Any]:
            found: dict[str, tuple[float, float]] = {}
            for name in studio.names:
                found |= studio.likelihoods(pixels, [name])
                yield visit, "\n\n".join(sentence(k, *v) for k, v in found.items()), gradio.skip()
            given = pathlib.Path(visit.picture("measured", np.asarray(pixels))).name
            visit.note("class by density", given=given, nats=found, shares=shares(found), **studio.how_measured)
            yield visit, "\n\n".join([*(sentence(k, *v) for k, v in found.items()), studio.warning()]), shares(found)

        self.compute(
            encode, encode_it, [self.visit, state, label, self.way], [self.visit, latent, decoded, said], cancel
        )
        self.compute(density, density_of, [self.visit, state, label], [self.visit, said], cancel)
        self.compute(by_class, class_of, [self.visit, state], [self.visit, said, chart], cancel)


def _shown(pixels: Any) -> Any:
    """As gradio takes pictures: grey ones without their axis of channels."""
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels
