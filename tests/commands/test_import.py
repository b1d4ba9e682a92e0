"""--mode=import: a PyTorch checkpoint becomes a run that other modes read, with both of its weights."""

import json
import shutil

import jax
import numpy as np
import pytest

import scoreflow_jax
from scoreflow_jax.checkpoints import Checkpoints
from scoreflow_jax.commands import export, import_checkpoint, interpolate, sample, train
from scoreflow_jax.commands.teacher import begun_from, open_teacher
from scoreflow_jax.errors import UserError
from scoreflow_jax.experiment import build, resolve
from scoreflow_jax.parallel import make_layout
from scoreflow_jax.plain_config import to_plain
from scoreflow_jax.torch_files import read_torch_file
from scoreflow_jax.training import state_shapes
from tests.commands.runs import experiment_of
from tests.models.published_network import PublishedNetwork, Weights
from tests.torch_writer import archive, checkpoint, integer, mapping

CONFIG = "rectified_flow_256.py"
STEP = 1234


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A random checkpoint of the smoke variant, and the network that made it."""
    weights = Weights(3)
    network = PublishedNetwork(
        weights,
        nf=8,
        mult=(1, 1),
        attention=(16,),
        taps=(1.0, 3.0, 3.0, 1.0),
        output="output_skip",
        input="input_skip",
        embedding="fourier",
        scale_by_sigma=True,
    )
    network(np.zeros((1, 3, 32, 32)), np.array([1.0]))  # makes the weights
    averages = [tensor * np.float32(0.9) for tensor in weights.averages]
    sigmas = np.exp(np.linspace(np.log(378), np.log(0.01), 2000))
    path = tmp_path_factory.mktemp("published") / "checkpoint_8.pth"
    return checkpoint(path, {**weights.tensors, "module.sigmas": sigmas}, averages, STEP), network, weights, averages


@pytest.fixture(scope="module")
def imported(published, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    import_checkpoint.run_command(experiment_of(CONFIG), workdir, str(published[0]))
    return workdir


def test_the_model_is_the_published_network_with_its_averages(imported, published):
    _, network, weights, averages = published
    model = scoreflow_jax.load(imported)
    assert model.step == STEP
    x = np.asarray(jax.random.normal(jax.random.key(0), (2, 32, 32, 3)))
    t = np.array([0.25, 0.75], np.float32)
    trained = [name for name in weights.tensors if name not in weights.untrained]
    kept = dict(weights.tensors)
    weights.tensors.update(zip(trained, averages, strict=True))
    expected = network(x.transpose(0, 3, 1, 2), 999.0 * t.astype(np.float64)).transpose(0, 2, 3, 1)
    weights.tensors.update(kept)
    got = np.asarray(model.drift(x, t))
    assert np.linalg.norm(got - expected) < 1e-4 * np.linalg.norm(expected)


def test_it_goes_back_to_a_checkpoint_of_the_same_tensors(imported, published, tmp_path, capsys):
    """--mode=export --format=pytorch: names, shapes and numbers of the averages, and what cannot be averaged; imported again."""
    export.run_command(experiment_of(CONFIG), imported, str(tmp_path / "out"), format="pytorch")
    content = read_torch_file(tmp_path / "out" / "checkpoint.pth")
    before = read_torch_file(published[0])
    assert list(content["model"]) == [*[n for n in content["model"] if "sigmas" in n], *published[2].tensors]
    assert (content["step"], content["ema"]["num_updates"]) == (STEP, STEP)
    np.testing.assert_allclose(content["model"]["module.sigmas"], before["model"]["module.sigmas"], rtol=1e-6)
    for found, expected in zip(content["ema"]["shadow_params"], before["ema"]["shadow_params"], strict=True):
        np.testing.assert_array_equal(found, expected)
    frozen = published[2].untrained
    for name in frozen:
        np.testing.assert_array_equal(content["model"][name], before["model"][name])
    import_checkpoint.run_command(experiment_of(CONFIG), tmp_path / "again", str(tmp_path / "out" / "checkpoint.pth"))
    assert scoreflow_jax.load(tmp_path / "again").fingerprint == scoreflow_jax.load(imported).fingerprint


def test_a_flow_map_begins_with_it(imported):
    """Told a second time it gives, where that is the first, what the published network gives, before any step."""
    config = to_plain(experiment_of(CONFIG).config)
    config["objective"] = {"name": "flow_map", "teacher": str(imported)}
    config["model"]["two_times"] = True
    experiment, model = open_teacher(build(resolve(config)), make_layout())
    params, found = begun_from(experiment.init(jax.random.key(0)), model, experiment)
    assert found
    x = np.asarray(jax.random.normal(jax.random.key(0), (2, 32, 32, 3)))
    t = np.array([0.25, 0.75], np.float32)
    np.testing.assert_allclose(jax.jit(experiment.drift(params))(x, t, None), model.drift(x, t), atol=1e-8)


def test_it_can_be_sampled_from_where_it_is_defined(imported):
    """At t = 0 the network is NaN; solving starts at the path's t_min."""
    experiment = experiment_of(CONFIG, solver__method="euler", solver__num_steps=3)
    sample.run_command(experiment, imported)
    assert np.load(imported / "sample" / "samples.npz")["images"].shape == (10, 32, 32, 3)
    report = json.loads((imported / "sample" / "report.json").read_text())
    assert (report["step"], report["cost"]["nfe_mean"]) == (STEP, 3)
    model = scoreflow_jax.load(imported)
    x = np.zeros((1, 32, 32, 3), np.float32)
    assert not np.isfinite(model.drift(x, 0.0)).all()
    assert np.isfinite(model.drift(x, 1e-3)).all()


def test_the_other_modes_work_on_it_and_training_goes_on(imported, pictures_dir, tmp_path):
    """In a copy: interpolate reads it, and a training step starts from its raw weights at its step."""
    workdir = tmp_path / "run"
    shutil.copytree(imported, workdir)
    quick = {"solver__method": "euler", "solver__num_steps": 2}
    interpolate.run_command(experiment_of(CONFIG, pictures_dir, **quick), workdir)
    assert (workdir / "interpolate" / "strip.png").exists()
    train.run_command(experiment_of(CONFIG, pictures_dir, train__num_steps=STEP + 2), workdir)
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["step"] == STEP + 2
    assert np.isfinite(records[-1]["loss"])
    assert scoreflow_jax.load(workdir).step == STEP + 2


def test_raw_weights_are_there_to_train_on(imported, published, pictures_dir):
    _, _, weights, _ = published
    experiment = experiment_of(CONFIG, pictures_dir, train__num_steps=STEP + 1, train__checkpoint_every=1)
    ema, rest = train.split_state(state_shapes(experiment.initial_state, make_layout()))
    checkpoints = Checkpoints(imported / "checkpoints", keep=1)
    restored = checkpoints.restore_latest(ema=ema, train=rest)
    checkpoints.close()
    raw = restored.train["params"]["in_conv"]["kernel"]
    np.testing.assert_array_equal(raw, weights.tensors["module.all_modules.3.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_allclose(restored.ema["in_conv"]["kernel"], 0.9 * raw, rtol=1e-6)
    assert int(restored.train["step"]) == STEP
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(restored.train["opt_state"]))
    origin = json.loads((imported / "import.json").read_text())
    assert (origin["file"], origin["step"], len(origin["sha256"])) == ("checkpoint_8.pth", STEP, 64)


def test_refusals_leave_nothing_behind(published, imported, tmp_path):
    source = str(published[0])
    workdir = tmp_path / "new"
    with pytest.raises(UserError, match="published checkpoints are of unconditional networks"):
        import_checkpoint.run_command(experiment_of("digits.py"), workdir, source)
    with pytest.raises(UserError, match="holds checkpoints already"):
        import_checkpoint.run_command(experiment_of(CONFIG), imported, source)
    with pytest.raises(
        UserError, match=r"does not fit the config: the checkpoint (lacks|has besides) module\.all_modules"
    ):
        import_checkpoint.run_command(experiment_of(CONFIG, model__num_blocks=2), workdir, source)
    with pytest.raises(UserError, match="set config.model.num_scales"):
        import_checkpoint.run_command(experiment_of(CONFIG, model__num_scales=1000), workdir, source)
    other = archive(tmp_path / "other.pth", mapping(model=integer(1)))
    with pytest.raises(UserError, match="'model' is int, expected a dict"):
        import_checkpoint.run_command(experiment_of(CONFIG), workdir, str(other))
    archive(other, mapping(model=b"}", ema=b"}"))
    with pytest.raises(UserError, match="it has no 'step'"):
        import_checkpoint.run_command(experiment_of(CONFIG), workdir, str(other))
    assert not workdir.exists()
