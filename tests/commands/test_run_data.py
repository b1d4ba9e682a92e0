"""A run and its data: every mode that uses them opens the same ones, or refuses in a sentence."""

import dataclasses
import shutil

import pytest

import scoreflow_jax
from scoreflow_jax.commands import difference_flow, draw_figures, evaluate, interpolate, train, translate
from scoreflow_jax.data import TrainedOn
from scoreflow_jax.errors import UserError
from tests.commands.runs import experiment_of
from tests.commands.test_data_modes import SMALL, copy_of
from tests.data.test_pipeline import Counting

CHANGES = {
    **SMALL,
    "data__test_share": 0.3,
    "interpolate__between": "images",
    "interpolate__num_pairs": 1,
    "difference__scores": "learned",
    "difference__target": 0,
    "eval__reversibility": False,
    "eval__num_images": 10,
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
    assert model.experiment.source("test").class_names == ("cat", "dog")
    moved = dataclasses.replace(model.experiment.data, path=str(renamed))
    model.experiment = dataclasses.replace(model.experiment, data=moved)
    with pytest.raises(UserError, match="these data have 0 dog, 1 felis"):
        model.experiment.source("test")
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
