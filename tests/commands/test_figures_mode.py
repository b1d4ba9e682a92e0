"""--mode=figures: the model's own pixels where the paper has its pictures, under the classes' names."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from scoreflow_jax import figures, randomness
from scoreflow_jax.commands import draw_figures, train
from scoreflow_jax.data import Digits
from scoreflow_jax.errors import UserError
from scoreflow_jax.experiment import Experiment, build
from scoreflow_jax.model import Model
from scoreflow_jax.pixels import to_pixels
from scoreflow_jax.programs import Translate
from tests.commands.runs import experiment_of, report

FIXED = {"solver__method": "euler", "solver__num_steps": 6}  # so that images do not depend on who shares their batch
TRAINED = {"train__num_steps": 100, "train__checkpoint_every": 100, "train__sample_every": 0, "train__log_every": 50}
NAMES = ["zero", "один", "猫", "3", "4", "5", "6", "7", "a name that is far too long for a picture", "9"]
CLASSES = (1, 0, 2)
N, PAIRS = 4, 2  # of the smoke variant


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short training of the digits' smoke variant under other names, so that translations differ from their sources."""
    workdir = tmp_path_factory.mktemp("run")
    # The names are the data's, which every command after the training asks again.
    renamed = property(lambda self: tuple(NAMES), lambda self, names: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Digits, "class_names", renamed, raising=False)
        train.run_command(experiment_of("digits.py", **TRAINED), workdir)
        yield workdir


@pytest.fixture(scope="module")
def both(run):
    """All figures drawn: the panels of each, and the model, which has compiled what the tests ask of it again."""
    panels, models = [], []
    with pytest.MonkeyPatch.context() as patch:
        save, load = figures.save_panels, draw_figures.workdirs.open_model
        patch.setattr(figures, "save_panels", lambda path, lines: (panels.append(lines), save(path, lines)))
        patch.setattr(draw_figures.workdirs, "open_model", lambda *a, **k: (models.append(load(*a, **k)), models[0])[1])
        draw_figures.run_command(experiment_of("digits.py", figures__classes=CLASSES, **FIXED), run)
    return dict(zip((3, 4, 5, 6), panels, strict=True)), models[0]


@pytest.fixture(scope="module")
def drawn(both):
    return both[0]


@pytest.fixture(scope="module")
def model(both):
    return both[1]


def untrained(experiment, monkeypatch):
    """A model of random parameters, which the command gets in place of a trained one."""
    rng = np.random.default_rng(0)
    draw = lambda leaf: jnp.asarray(rng.normal(0, 0.1, leaf.shape), leaf.dtype)
    model = Model(experiment, jax.tree.map(draw, experiment.parameter_shapes()), 1, batch_size=4)
    monkeypatch.setattr(draw_figures.workdirs, "open_model", lambda *_, **__: model)
    return model


def picture(workdir, number):
    return np.asarray(Image.open(workdir / "figures" / f"figure{number}.png")).astype(int)


def places(canvas, image):
    """(y, x) of every place where the picture shows an 8x8 image enlarged five times, to one grey level."""
    height, width = canvas.shape[0] - 39, canvas.shape[1] - 39
    found = np.ones((height, width), bool)
    for i, j in np.ndindex(8, 8):
        y, x = 5 * i + 2, 5 * j + 2
        found &= np.abs(canvas[y : y + height, x : x + width, 0] - int(to_pixels(image)[i, j, 0])) <= 1
    near = lambda y, x: canvas[y : y + 40, x : x + 40] - to_pixels(image).repeat(5, 0).repeat(5, 1)
    return [(int(y), int(x)) for y, x in np.argwhere(found) if np.abs(near(y, x)).max() <= 1]


def grid(canvas, rows):
    """The place of each image of some rows, each having one that is level with its row and its column."""
    where = np.asarray([[places(canvas, image)[0] for image in row] for row in rows])
    assert all(len(places(canvas, image)) == 1 for row in rows for image in row)
    assert np.all(where[:, :, 0] == where[:, :1, 0])
    assert np.all(where[:, :, 1] == where[:1, :, 1])
    assert np.all(np.diff(where[:, 0, 0]) >= 42)
    assert np.all(np.diff(where[0, :, 1]) >= 42)
    return where


def key_of(number):
    return jax.random.fold_in(randomness.key_of(jax.random.key(0), "figure"), number)


def test_images(label, count):
    test = Digits("test")
    return test.read(np.flatnonzero(test.labels() == label)[:count])["image"] / np.float32(8) - np.float32(1)


test_images.__test__ = False


def texts(lines):
    return [[panel.title for panel in line] for line in lines], [p.captions for line in lines for p in line]


def test_figure_3_is_a_row_of_samples_a_class(run, drawn, model):
    samples = model.generate(key_of(3), np.repeat(np.arange(10), N))
    grid(picture(run, 3), samples.reshape(10, N, 8, 8, 1))
    titles, (captions,) = texts(drawn[3])
    assert titles == [["samples"]]
    assert captions[:4] == ["zero", "один", "class 2", "class 3"]  # the font has no 猫
    assert captions[8] == "a name that is far too …"


def test_figure_4_shows_both_classes_and_both_translations_of_test_images(run, drawn, model):
    canvas = picture(run, 4)
    first, second = CLASSES[:2]
    samples = model.generate(key_of(4), np.repeat([first, second], N))
    a, b = (grid(canvas, samples[i : i + N].reshape(2, N // 2, 8, 8, 1)) for i in (0, N))
    assert a[0, 0, 0] == b[0, 0, 0]
    assert a[0, -1, 1] + 42 < b[0, 0, 1]
    below = a[1, 0, 0]
    for of, to in ((first, second), (second, first)):
        images = test_images(of, N)
        rows = [images, *(model.translate(images, of, to, method=m) for m in ("difference", "latent"))]
        where = grid(canvas, rows)
        assert where[0, 0, 0] > below + 42
        below = where[-1, 0, 0]
    titles, captions = texts(drawn[4])
    assert titles == [["(a) samples of один", "(b) samples of zero"], ["(c) один to zero"], ["(d) zero to один"]]
    assert captions[2:] == [["test images", "difference (eq. 20)", "latent"]] * 2


def test_figure_5_goes_from_the_first_class_to_the_third_along_t(run, drawn, model):
    canvas = picture(run, 5)
    samples = model.generate(key_of(5), np.repeat(CLASSES, N)).reshape(3, 2, N // 2, 8, 8, 1)
    tops = [grid(canvas, rows)[0, 0] for rows in samples]
    assert len({y for y, _ in tops}) == 1
    assert tops[0][1] < tops[1][1] < tops[2][1]
    images = test_images(CLASSES[0], PAIRS)
    along = {
        m: model.solve(Translate(m), images, CLASSES[0], CLASSES[2], times=[0.0, 0.5, 1.0])
        for m in ("difference", "latent")
    }
    latents = along["latent"].path[2]
    for i in range(PAIRS):
        starts, met, *ends = (places(canvas, x[i]) for x in (images, latents, *(s.y for s in along.values())))
        assert len(met) == 2  # the end of encoding and the beginning of decoding
        assert [y for y, _ in starts] == [y for y, _ in (*ends[0], *ends[1])]  # each row begins at the image
        assert starts[1] < met[0] < met[1] < ends[1][0]
    grid(canvas, np.swapaxes(along["difference"].path[1:], 0, 1))
    titles, _ = texts(drawn[5])
    assert titles[0] == ["(a) samples of один", "(b) samples of zero", "(c) samples of class 2"]
    assert titles[1] == ["(d) один to class 2 along t, from test images: difference (eq. 20)"]
    heads = [panel.heads for line in drawn[5][1:] for panel in line]
    assert heads == [["t=0.00", "t=0.50", "t=1.00"], ["t=1.00", "t=0.50", "t=0.00"], ["t=0.00", "t=0.50", "t=1.00"]]


def test_figure_6_walks_by_the_square_root_rule(run, drawn, model):
    noise = np.asarray(model.source_points(key_of(6), 2 * PAIRS))
    z0, z1, labels = noise[0::2], noise[1::2], CLASSES[:PAIRS]
    columns = [model.decode(z, labels) for z in (z0, np.sqrt(0.5) * (z0 + z1), z1)]
    grid(picture(run, 6), np.stack(columns, axis=1))
    (((panel,),), shown) = drawn[6], texts(drawn[6])
    assert shown[1] == [["один", "zero"]]
    assert panel.heads == ["α=0.00", "α=0.50", "α=1.00"]


def test_the_report_states_methods_cost_and_sources(run, drawn):
    r = report(run / "figures")
    assert (r["mode"], r["step"], r["seed"], r["left_out"]) == ("figures", 100, 0, {})
    assert r["solver"]["method"] == "euler"
    told = r["figures"]
    assert told.keys() == {"figure3", "figure4", "figure5", "figure6"}
    assert told["figure3"]["classes"]["2"] == "猫"
    assert [told[f]["cost"]["nfe_mean"] for f in ("figure3", "figure6")] == [6, 6]
    for name in ("figure4", "figure5"):
        assert {m["cost"]["nfe_mean"] for m in told[name]["translations"].values()} == {12}  # two networks, or two legs
        assert "eq. 20" in told[name]["translations"]["difference"]["method"]
        assert told[name]["samples"]["cost"]["images"] == N * len(told[name]["classes"])
    assert told["figure4"]["sources"] == {"1": "test images, 4 of them", "0": "test images, 4 of them"}
    assert told["figure5"]["sources"] == {"1": "test images, 2 of them"}
    assert told["figure5"]["times"] == [0, 0.5, 1]


@pytest.mark.parametrize("split", ["absent", "without the class"])
def test_generated_images_stand_in_where_there_is_no_test_image(model, monkeypatch, split):
    def opened(self, name):
        if split == "absent":
            raise UserError("no such folder")
        return Digits(name)

    monkeypatch.setattr(Experiment, "split", opened)
    if split != "absent":
        monkeypatch.setattr(Digits, "labels", lambda self: np.full(len(self), 7, np.int32))
    lines, told = draw_figures._figure4(draw_figures._Case(model, tuple(NAMES)))
    why = "no such folder" if split == "absent" else "the test split has none of the class"
    assert told["sources"] == dict.fromkeys("10", f"generated images: {why}, 4 of them")
    (a, b), (c,), (d,) = lines
    for samples, moved in ((a, c), (b, d)):
        assert moved.captions[0] == "generated images"
        np.testing.assert_array_equal(np.concatenate(samples.rows), moved.rows[0])
    np.testing.assert_allclose(c.rows[2], model.translate(c.rows[0], 1, 0), atol=1e-5)


def test_an_unconditional_model_has_figures_3_and_6(tmp_path, capsys, monkeypatch):
    experiment = experiment_of("digits.py", model__conditional=False, **FIXED)
    model = untrained(experiment, monkeypatch)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "figure4.png").write_text("of an earlier model")
    draw_figures.run_command(experiment, tmp_path)
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == "figures 4 and 5 are left out: they translate between classes, and the model is unconditional"
    assert len(rest) == 2
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert names == ["figure3.png", "figure6.png", "report.json"]
    assert report(tmp_path / "figures")["left_out"].keys() == {"figure4", "figure5"}
    samples = model.generate(key_of(3), num_images=N * N)
    grid(picture(tmp_path, 3), samples.reshape(N, N, 8, 8, 1))


def test_a_model_between_two_data_sets_has_figures_3_and_4(tmp_path, capsys, monkeypatch):
    changes = {
        "data__classes": (3,),
        "data__base": {"classes": (8,)},
        "data__num_classes": 0,
        "model__conditional": False,
    }
    experiment = experiment_of("digits.py", **changes, **FIXED)
    model = untrained(experiment, monkeypatch)
    draw_figures.run_command(experiment, tmp_path)
    printed = capsys.readouterr().out
    assert "figure 5 is left out: it is of classes" in printed
    assert "figure 6 is left out: it interpolates between Gaussian latents" in printed
    base = np.asarray(model.source_points(key_of(3), N * PAIRS)).reshape(PAIRS, N, 8, 8, 1)
    eights = {image.tobytes() for image in test_images(8, 1000)}
    assert all(image.tobytes() in eights for row in base for image in row)
    grid(picture(tmp_path, 3), [row for images in base for row in (images, model.decode(images))])
    threes = test_images(3, N)
    grid(picture(tmp_path, 4), [threes, model.encode(threes)])
    assert report(tmp_path / "figures")["figures"]["figure4"]["translations"].keys() == {"0 to 1", "1 to 0"}


def test_two_classes_have_figure_4_and_one_has_neither():
    two = experiment_of("digits.py", data__classes=(3, 8), data__num_classes=2)
    assert draw_figures._left_out(two) == {5: "it shows 3 classes, and the model has 2"}
    assert draw_figures._left_out(experiment_of("digits.py", figures__classes=(4,))).keys() == {4, 5}
    named = draw_figures._left_out(experiment_of("digits.py", figures__classes=(4, 2)))
    assert named == {5: "it shows 3 classes, and config.figures.classes names 2"}


def test_many_classes_are_said_to_be_the_first(run, model, monkeypatch):
    monkeypatch.setattr(draw_figures, "_MOST_CLASSES", 3)
    ((panel,),), told = draw_figures._figure3(draw_figures._Case(model, tuple(NAMES)))
    assert panel.title == told["shows"] == "samples of the first 3 of 10 classes"
    assert len(panel.rows) == 3


def test_refuses_points_and_rows_that_are_too_wide(tmp_path):
    experiment = experiment_of("digits.py")
    points = dataclasses.replace(experiment, spec=dataclasses.replace(experiment.spec, levels=0))
    with pytest.raises(UserError, match="points of a table, but these figures are of images"):
        draw_figures.run_command(points, tmp_path)
    with pytest.raises(UserError, match="config.figures.num_times is 90, expected at most 85"):
        draw_figures.run_command(experiment_of("digits.py", figures__num_times=90), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("classes", (3, 10), "config.figures.classes has 10, expected a class from 0 to 9"),
        ("classes", (3, 3), "config.figures.classes is .3, 3., expected different classes"),
        ("num_images", 0, "at least 1"),
        ("num_steps", 1, "at least 2"),
        ("colour", 1, "colour"),
    ],
)
def test_settings_out_of_range_are_named(field, value, match):
    with pytest.raises(UserError, match=match):
        experiment_of("digits.py", **{f"figures__{field}": value})


def test_the_config_of_a_run_from_before_this_mode_builds():
    config = experiment_of("digits.py").config
    older = {name: section for name, section in config.items() if name != "figures"}
    assert build(older).figures.num_images == 8
