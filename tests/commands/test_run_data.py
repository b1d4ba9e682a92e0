"""A run and its data: every mode that uses them opens the same ones, or refuses in a sentence."""

import dataclasses
import shutil

import pytest

import scoreflow_jax
from scoreflow_jax.commands import difference_flow, draw_figures, evaluate, interpolate, train, translate
from scoreflow_jax.commands import workdir as workdirs
from scoreflow_jax.data import TrainedOn
from scoreflow_jax.errors import UserError
from tests.commands.runs import experiment_of
from tests.commands.test_data_modes import SMALL, copy_of
from tests.data.folders import one_line
from tests.data.test_pipeline import Counting

CHANGES = {
    **SMALL,
    "data__test_share": 0.3,
    "interpolate__between": "images",
    "interpolate__num_pairs": 1,
    "difference__scores": "learned",
    "difference__target": 0,
    "eval__reversibility__on": False,
    "eval__generation__images": 10,
}
USERS = {
    "eval": evaluate.run_command,
    "translate": translate.run_command,
    "interpolate": interpolate.run_command,
    "difference-flow": difference_flow.run_command,
    "train": train.run_command,
}
"""Modes that open the run's data."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pictures_dir):
    return copy_of(pictures_dir, tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def renamed(tmp_path_factory, folder):
    """The same pictures, the cats' folder under another name, which comes after the dogs'."""
    root = tmp_path_factory.mktemp("data") / "renamed"
    for name, before in (("dog", "dog"), ("felis", "cat")):
        shutil.copytree(folder / before, root / name)
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory, folder):
    """Two steps on cats and dogs."""
    workdir = tmp_path_factory.mktemp("run")
    train.run_command(experiment_of("image_folder.py", folder, **CHANGES), workdir)
    return workdir


@pytest.mark.parametrize("mode", USERS)
def test_classes_in_another_order_are_refused_by_every_mode(mode, run, renamed):
    """The numbers that the network knows would be those of other classes."""
    with pytest.raises(
        UserError, match="trained on the classes 0 cat, 1 dog, these data have 0 dog, 1 felis. Give the same"
    ):
        USERS[mode](experiment_of("image_folder.py", renamed, **CHANGES), run)


def test_the_api_and_the_figures_refuse_them_too(run, renamed):
    model = scoreflow_jax.load(run)
    assert model.experiment.split("test").class_names == ("cat", "dog")
    moved = dataclasses.replace(model.experiment.data, path=str(renamed))
    model.experiment = dataclasses.replace(model.experiment, data=moved)
    with pytest.raises(UserError, match="these data have 0 dog, 1 felis"):
        model.experiment.split("test")
    assert "these data have 0 dog, 1 felis" in draw_figures._Case(model, ("cat", "dog")).test


class Named(Counting):
    """Data whose classes have these names."""

    def __init__(self, names):
        super().__init__(2)
        self.class_names = tuple(names)


def test_both_orders_are_named():
    known = lambda *names: TrainedOn("runs/x", {"class_names": list(names)})
    known("a", "b").check(Named("ab"))
    with pytest.raises(UserError) as caught:
        known("a", "b").check(Named("ba"))
    assert str(caught.value) == (
        "runs/x was trained on the classes 0 a, 1 b, these data have 0 b, 1 a, the same in another order, so that every number "
        "would mean another class. Give the same data, or another --workdir"
    )
    with pytest.raises(UserError, match="classes 0 a, 1 b, these data have none. Give"):
        known("a", "b").check(Named(""))
    many = [f"n{i:03d}" for i in range(100)]
    with pytest.raises(UserError, match=r"classes 50 n050, .*, 61 n061, \.\.\., these data have 50 x, 51 n051"):
        known(*many).check(Named([*many[:50], "x", *many[51:]]))
    with pytest.raises(UserError, match="classes 0 b at t = 0, these data have 0 a"):
        TrainedOn("runs/x", {"class_names": ["a"], "base": {"class_names": ["b"]}}).check(Named("a"), Named("a"))


def test_a_run_on_pairs_knows_the_classes_but_not_the_files(tmp_path):
    """Its sketch is of the pairs; an unconditional model's pairs name no classes."""
    facts = {"kind": "pairs", "class_names": ["a", "b"], "sketch": ["00"]}
    source = Named("ab")
    source.facts = {"kind": "folder of pictures", "sketch": ["ff"]}
    TrainedOn("runs/x", facts).check(source)
    TrainedOn("runs/x", {**facts, "class_names": []}).check(source)
    with pytest.raises(UserError, match="classes 0 b, 1 a"):
        TrainedOn("runs/x", {**facts, "class_names": ["b", "a"]}).check(source)
    source.facts = {"kind": "pairs", "sketch": ["ff"]}
    with pytest.raises(UserError, match="other data: about 0% of its files"):
        TrainedOn("runs/x", facts).check(source)
    assert TrainedOn.read(tmp_path) is None  # an imported checkpoint was trained elsewhere


SETTLED = {
    "framing": "fit",
    "test_share": 0.5,
    "train_split": "cat",
    "test_split": "dog",
    "classes": (1, 0),
    "name": "others",
    "source": "digits",
    "base": {"source": "digits"},
}
"""Other values than the run's of what says which examples are held out and how they become pixels."""


@pytest.mark.parametrize("field", SETTLED)
def test_what_is_held_out_belongs_to_the_run(field, run, folder):
    """With half of the files "held out" most of these would have been trained on; fitted pictures are other pixels."""
    other = experiment_of("image_folder.py", folder, **CHANGES)
    config = {**other.config, "data": {**other.config["data"], field: SETTLED[field]}}
    with pytest.raises(UserError) as caught:
        workdirs.open_model(dataclasses.replace(other, config=config), run, batch_size=8)
    named = f"base.source is 'digits', was {None!r}" if field == "base" else f"{field} is {SETTLED[field]!r}, was "
    one_line(caught, f"config.data.{named}", str(run), "how they become pixels belongs to the run")


@pytest.mark.parametrize("mode", [name for name in USERS if name != "train"])
def test_every_mode_asks_for_the_runs_held_out_data(mode, run, folder):
    experiment = experiment_of("image_folder.py", folder, **{**CHANGES, "data__test_share": 0.5})
    with pytest.raises(UserError, match="config.data.test_share is 0.5, was 0.3 of the run in .* belongs to the run"):
        USERS[mode](experiment, run)


def test_sampling_opens_no_data_and_asks_for_none(run, folder):
    experiment = experiment_of("image_folder.py", folder, **{**CHANGES, "data__test_share": 0.5})
    assert workdirs.open_model(experiment, run, batch_size=8, with_data=False).step == 2


def test_what_decides_nothing_held_out_is_free(run, folder, tmp_path):
    """Where the data are, what is done with unreadable ones, and how they are drawn in training."""
    moved = shutil.copytree(folder, tmp_path / "moved")
    free = {"data__flip": False, "data__sampling": "balanced", "data__strict": True, "data__test_share": 0.3}
    model = workdirs.open_model(experiment_of("image_folder.py", moved, **{**CHANGES, **free}), run, batch_size=8)
    assert len(model.experiment.split("test")) == len(scoreflow_jax.load(run).experiment.split("test"))


def test_an_imported_checkpoint_may_be_measured_on_any_data(run, folder, tmp_path):
    """Its workdir has a config but no data.json, since nothing was held out here."""
    imported = shutil.copytree(run, tmp_path / "imported")
    (imported / "data.json").unlink()
    experiment = experiment_of("image_folder.py", folder, **{**CHANGES, "data__test_share": 0.5})
    assert workdirs.open_model(experiment, imported, batch_size=8).step == 2
