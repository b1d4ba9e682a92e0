"""The whole method on real digits, by a network just large enough to be judged: what README promises, with room for its size."""

import pytest

from scoreflow_jax.command_line import load_config
from scoreflow_jax.commands import evaluate, train
from scoreflow_jax.experiment import build
from scoreflow_jax.plain_config import to_plain
from tests.commands.runs import report
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def reports(tmp_path_factory, optimized):
    """What eval says of the digits' config made smaller: 16 channels and one resolution in place of 32 and two."""
    config = to_plain(load_config(str(ROOT / "configs/digits.py")))
    config["train"].update(num_steps=800, checkpoint_every=800, ema_decay=0.99, tensorboard=False)
    config["model"].update(base_channels=16, channel_multipliers=(1,))
    config["solver"].update(rtol=1e-4, atol=1e-4)  # a third of the calls of 1e-5
    # Equal numbers: equal programs, which are compiled once.
    config["eval"].update(num_images=80, batch_size=80, num_reconstructions=80, reconstruction_tolerances=(1e-4,))
    config["eval"].update(translation_pairs=((3, 8), (0, 1)), translation_images=20)
    config["eval"].update(truncation=False, audit=False, likelihood_images=40)
    workdir = tmp_path_factory.mktemp("quality")
    for command in (train, evaluate):
        command.run_command(build(config), workdir)
    return report(workdir / "eval" / "800")


def test_generated_digits_are_recognized_and_neither_prototypes_nor_copies(reports):
    generated, real = reports["generation"]["by_seed"]["1"], reports["generation"]["real"]
    assert generated["recognized"] > 0.85
    assert 0.6 < generated["within_class_std"] / real["within_class_std"] < 1.2
    assert generated["nearest_training_distance"] > 0.8 * real["nearest_training_distance"]
    assert generated["precision"] > 0.3  # N(0, I) has 0
    assert generated["recall"] > 0.6
    assert generated["frechet_distance"] < 6  # N(0, I) is more than 50 away


def test_encoding_and_decoding_gives_real_digits_back(reports):
    assert reports["reversibility"]["by_tolerance"]["0.0001"]["mean_absolute_error"] < 5e-3


def test_likelihood_is_better_than_uniform(reports):
    likelihood = reports["likelihood"]
    assert 1 < likelihood["bits_per_dim"] < likelihood["uniform"] - 0.5


@pytest.mark.parametrize("method", ["latent", "difference"])
def test_translations_are_recognized(reports, method):
    assert reports["translation"]["methods"][method]["recognized_as_target"] > 0.85


def test_only_the_exact_ways_back_lead_back(reports):
    """The paper's return, labels swapped, is not the inverse of eq. 20; reversed time is."""
    methods = reports["translation"]["methods"]
    assert methods["latent"]["cycle_error_swapped"] < 1e-2
    assert methods["difference"]["cycle_error_reversed"] < 5e-3
    assert methods["difference"]["cycle_error_swapped"] > 0.05


def test_nfe_is_of_the_published_order(reports):
    """Table 1 of the paper has 127 on CIFAR-10; a drift that costs thousands would be noise."""
    assert 60 < reports["generation"]["by_seed"]["1"]["nfe"] < 400
