"""What the page does, without the page: each action is the model's own, checks what it is given, and keeps a record."""

import json
import pathlib
import zipfile

import jax
import numpy as np
import pytest
from PIL import Image

from scoreflow_jax import load
from scoreflow_jax.command_line import load_config, parse
from scoreflow_jax.commands import page
from scoreflow_jax.commands.page_session import FRAMES, Studio, Visit, shares
from scoreflow_jax.errors import UserError
from scoreflow_jax.experiment import build, resolve
from scoreflow_jax.model import Model
from scoreflow_jax.ode import Solver
from scoreflow_jax.plain_config import to_plain
from scoreflow_jax.programs import LogLikelihood
from scoreflow_jax.published import SHIPPED
from scoreflow_jax.sampling import Sampler
from tests.conftest import ROOT

NAMES = [f"the {i}" for i in range(10)]
FAST = "ODE in 20 network calls"


@pytest.fixture(scope="module")
def model():
    return load(SHIPPED / "digits-flow-map")


@pytest.fixture(scope="module")
def studio(model):
    return Studio(model, NAMES)


@pytest.fixture(scope="module")
def three(studio):
    pictures, _ = studio.generate(["the 3"], 1, 0, 1.0, FAST)
    return pictures[0]


def test_pictures_are_those_of_the_seed_whatever_their_number(studio, model):
    pictures, classes = studio.generate(["the 3", "the 8"], 5, 7, 1.0, FAST)
    assert (pictures.shape, classes) == ((5, 8, 8, 1), ["the 3", "the 8", "the 3", "the 8", "the 3"])
    again, _ = studio.generate(["the 3", "the 8"], 2, 7, 1.0, FAST)
    np.testing.assert_array_equal(again, pictures[:2])
    expected = model.with_solver(Solver.of_preset("fast")).generate(jax.random.key(7), [3, 8])
    np.testing.assert_array_equal(again, model.experiment.scaling.to_pixels(expected))


def test_translations_stand_beside_each_other(studio, model, three):
    """By both methods the way that is chosen, and by the map's jumps, each the model's own."""
    found = dict(studio.translations(three, "the 3", "the 8", FAST))
    assert list(found) == ["latent", "difference", "1 jump each way", "2 jumps each way", "4 jumps each way"]
    x = model.experiment.scaling.from_eight_bits(three)[None]
    pixels = model.experiment.scaling.to_pixels
    jumps = model.with_solver(Solver(method="flow_map", num_steps=2))
    np.testing.assert_array_equal(found["2 jumps each way"], pixels(jumps.translate(x, 3, 8))[0])
    ode = model.with_solver(Solver.of_preset("fast"))
    np.testing.assert_array_equal(found["latent"], pixels(ode.translate(x, 3, 8))[0])
    exact = pixels(model.translate(x, 3, 8, method="difference"))[0]
    assert np.abs(found["difference"].astype(int) - exact).mean() < 8  # 20 calls against a tolerance, of 255
    only = [name for name, _ in studio.translations(three, "the 3", "the 8", "flow map, 1 jump")]
    assert only == ["latent", "difference", "2 jumps each way", "4 jumps each way"]


def test_the_way_begins_with_the_picture_and_ends_with_its_translation(studio, three):
    states, heads = studio.path(three, "the 3", "the 8")
    assert len(states) == len(heads) == 2 * FRAMES
    assert (heads[0], heads[FRAMES - 1], heads[-1]) == ("t = 1.00, the 3", "t = 0.00, the 3", "t = 1.00, the 8")
    np.testing.assert_array_equal(states[0], three)
    np.testing.assert_array_equal(states[FRAMES - 1], states[FRAMES])
    latent = dict(studio.translations(three, "the 3", "the 8", FAST))["latent"]
    np.testing.assert_array_equal(states[-1], latent)


def test_walks_begin_and_end_with_what_they_lie_between(studio):
    ends = [studio.generate(["the 3"], 1, seed, 1.0, FAST)[0][0] for seed in (0, 1)]
    walk = studio.between((ends[0], ends[1]), "the 3", "slerp", "ODE to a tolerance of 0.0001")
    by_seeds = studio.between_seeds((0, 1), "the 3", "slerp", FAST)
    for made in (walk, by_seeds):
        assert made.shape == (FRAMES, 8, 8, 1)
        for found, expected in zip((made[0], made[-1]), ends, strict=True):
            assert np.abs(found.astype(int) - expected).mean() < 3
    assert np.abs(walk[FRAMES // 2].astype(int) - ends[0]).mean() > 10


def test_likelihoods_are_the_models(studio, model, three):
    found = studio.likelihoods(three)
    assert list(found) == NAMES
    solver = Solver(rtol=1e-3, atol=1e-3)
    x = model.experiment.scaling.from_eight_bits(three)[None]
    value, _, error = model.with_solver(solver).solve(LogLikelihood(jax.random.key(0), probes=4), x, 8).y
    assert found["the 8"] == pytest.approx((value[0], error[0]), rel=1e-5)
    assert studio.likelihoods(three, ["the 8"]) == {"the 8": found["the 8"]}
    assert max(found, key=lambda name: found[name][0]) == "the 3"
    assert studio.bits(0.0) == pytest.approx(np.log2(17) - 1)  # a density of 1 on [-1, 1]


def test_shares_follow_bayes_rule():
    found = shares({"a": (-1000.0, 1.0), "b": (-1000.0 + np.log(3), 1.0), "c": (-3000.0, 1.0)})
    assert list(found.values()) == pytest.approx([0.25, 0.75, 0.0])


def test_a_latent_decodes_to_the_picture(studio, three):
    latent, again, error = studio.encode(three, "the 3", "ODE to a tolerance of 1e-05")
    assert latent.shape == (8, 8, 1)
    assert error < 1
    assert np.abs(again.astype(int) - three).mean() < 3


def test_uploads_are_read_as_in_training(studio, tmp_path):
    """Cut to the middle, made small; anything else is refused in a sentence."""
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, 20:60] = 200
    Image.fromarray(picture).save(tmp_path / "wide.png")
    np.testing.assert_array_equal(studio.read(str(tmp_path / "wide.png")), np.full((8, 8, 1), 200))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    (tmp_path / "link.png").symlink_to(tmp_path / "wide.png")
    for name, match in (
        ("bad.png", "not a picture"),
        ("link.png", "links are not followed"),
        ("none.png", "cannot be"),
    ):
        with pytest.raises(UserError, match=f"this picture cannot be taken: .*{match}"):
            studio.read(str(tmp_path / name))


def test_a_drawing_is_dark_on_light_or_turned_over(studio):
    canvas = np.zeros((64, 64, 4), np.uint8)
    canvas[8:56, 16:48] = (0, 0, 0, 255)  # a stroke on nothing
    drawn = studio.drawn(canvas, light=False)
    assert drawn[0, 0, 0] == 255
    assert drawn[4, 4, 0] <= 2  # Lanczos rings a little
    np.testing.assert_array_equal(studio.drawn(canvas, light=True), 255 - drawn)
    for nothing in (None, np.zeros((64, 64, 4), np.uint8), np.zeros((3, 3)), "text"):
        with pytest.raises(UserError, match="draw something first"):
            studio.drawn(nothing, light=False)


def refusals():
    yield lambda s, p: s.generate([], 1, 0, 1.0, FAST), "choose a class first"
    yield lambda s, p: s.generate(["the 3"], 101, 0, 1.0, FAST), "101 pictures are asked for, expected 1 to 100"
    yield lambda s, p: s.generate(["the 3"], 1, -1, 1.0, FAST), "the seed is -1, expected a whole number"
    yield lambda s, p: s.generate(["the 3"], 1, 0.5, 1.0, FAST), "the seed is 0.5"
    yield lambda s, p: s.generate(["the 3"], 1, 2**40, 1.0, FAST), "expected a whole number from 0 to 2147483647"
    yield lambda s, p: s.generate(["the 3"], 1, None, 1.0, FAST), "the seed is None"
    yield lambda s, p: s.generate(["the 3"], 1, 0, 3.0, FAST), "guidance is 3.0, expected a weight from 0 to 1"
    yield lambda s, p: s.generate(["../../etc"], 1, 0, 1.0, FAST), "there is no class '../../etc'"
    yield lambda s, p: s.generate(["the 3"], 1, 0, 1.0, "other"), "there is no way 'other'; expected one of ODE in 20"
    yield lambda s, p: list(s.translations(None, "the 3", "the 8", FAST)), "give a picture first"
    yield lambda s, p: list(s.translations(p, "the 3", "the 3", FAST)), "both classes are 'the 3': choose two"
    yield lambda s, p: s.path(p, "the 3", "the 3"), "choose two classes"
    yield lambda s, p: s.between((p, None), "the 3", "slerp", FAST), "give the second picture first"
    yield lambda s, p: s.likelihoods(None), "give a picture first"
    yield lambda s, p: s.read(None), "give a picture first"
    yield lambda s, p: Visit().bundle({}), "nothing was made yet"


@pytest.mark.parametrize(("ask", "match"), list(refusals()))
def test_what_does_not_fit_is_said(studio, three, ask, match):
    with pytest.raises(UserError, match=match):
        ask(studio, three)


def test_a_visit_keeps_what_was_made_until_its_end(studio, three):
    visit = Visit()
    path = visit.picture("three", three)
    visit.note("picture", pictures=[pathlib.Path(path).name])
    with zipfile.ZipFile(visit.bundle(studio.head())) as file:
        assert set(file.namelist()) == {"001-three.png", "report.json"}
        report = json.loads(file.read("report.json"))
    assert (report["mode"], report["made"]) == ("page", [{"what": "picture", "pictures": ["001-three.png"]}])
    np.testing.assert_array_equal(np.asarray(Image.open(path)), three[..., 0])
    folder = visit.folder
    visit.end()
    assert not folder.exists()
    Visit().end()  # which made nothing


def test_the_way_that_is_chosen_is_taken_whatever_the_configs_sampler(model):
    noisy = model.with_sampler(Sampler(name="euler_maruyama", num_steps=500))
    studio = Studio(noisy, NAMES)
    found, _ = studio.generate(["the 3"], 1, 0, 1.0, FAST)
    expected = Studio(model, NAMES).generate(["the 3"], 1, 0, 1.0, FAST)[0]
    np.testing.assert_array_equal(found, expected)


def test_a_path_without_noise_levels_has_another_way_in_20_calls():
    config = to_plain(load_config(f"{ROOT / 'configs' / 'interpolant'}.py:digits"))
    config["path"] = {"name": "learned"}
    experiment = build(resolve(config))
    assert Studio(Model(experiment, {}, 0), NAMES).ways[FAST].method == "midpoint"


def test_the_configs_own_fixed_steps_are_a_way(model):
    fixed = model.with_solver(Solver(method="heun", num_steps=7))
    assert Studio(fixed, NAMES).ways["heun in 7 steps, as the config says"].num_steps == 7


def test_models_that_have_no_page():
    config = to_plain(load_config(f"{ROOT / 'configs' / 'rectified_flow'}.py:gaussians"))
    experiment = build(resolve(config))
    with pytest.raises(UserError, match="--mode=page shows pictures, and this model is of points"):
        Studio(Model(experiment, {}, 0), [])


def test_it_opens_on_the_shipped_photographs():
    mode, config, workdir, more = parse(["scoreflow", "--mode=page", "--port=8000"])
    assert (mode, workdir, more) == ("page", SHIPPED / "cifar10-small", {"port": "8000"})
    assert config["name"] == "cifar10-small"
    assert parse(["scoreflow", "--mode=page", "--config=digits"])[2] == pathlib.Path("runs/digits")


def test_gradio_and_the_port_are_asked_for_first(studio, monkeypatch):
    with pytest.raises(UserError, match="--port is '70000', expected a number from 1 to 65535"):
        page.run_command(studio.model.experiment, SHIPPED, port="70000")
    monkeypatch.setattr(page.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="made with gradio, which is not installed: pip install gradio"):
        page.run_command(studio.model.experiment, SHIPPED)


def test_the_page_can_be_built(studio):
    """Where gradio is installed: `make test-page` looks at it in a browser."""
    gradio = pytest.importorskip("gradio")
    built = page.layout(gradio, studio)
    labels = {block.label for block in built.blocks.values() if getattr(block, "label", None)}
    assert {"Translate", "Generate", "Interpolate", "Encode and measure"} <= labels
