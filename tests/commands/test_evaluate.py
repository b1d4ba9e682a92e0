"""--mode=eval, compare and statistics on the digits' smoke run."""

import numpy as np
import pytest
from PIL import Image

from scoreflow_jax import sums
from scoreflow_jax.commands import compare, evaluate, statistics
from scoreflow_jax.data import Digits
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation.data import Data
from scoreflow_jax.evaluation.samples import distances
from tests.commands.runs import experiment_of, report


@pytest.fixture(scope="module")
def evaluated(digits_run):
    """The digits' run with every part of its evaluation, of two seeds, but those that tests/evaluation runs by themselves."""
    # likelihood is on; few_calls is of flow maps
    apart = ("likelihood", "density_cost", "density_classifier", "outliers", "score_difference", "few_calls")
    parts = {f"eval__{part}__on": True for part in evaluate.PARTS if part not in apart}
    evaluate.run_command(
        experiment_of("digits.py", eval__seeds=(1, 2), eval__sweep__methods=("euler", "heun", "dopri5"), **parts),
        digits_run,
    )
    return digits_run / "eval" / "4"


def test_eval_measures_generation_over_seeds(evaluated):
    generation = report(evaluated)["generation"]
    assert generation["images"] == 40
    assert generation["by_seed"].keys() == {"1", "2"}
    first, second = generation["by_seed"].values()
    # What the report says of real images does not depend on the model and is known.
    real = generation["real"]
    assert real["recognized"] > 0.97
    assert real["nearest_training_distance"] > 1
    assert abs(real["kid"]) < 0.05
    # An untrained model's images are noise: far from every digit, and recognized by chance.
    assert first["nearest_training_distance"] > 1.5 * real["nearest_training_distance"]
    assert first["recognized"] < 0.4
    assert first["kid"] > 0.2
    assert first["precision"] < 0.1
    assert (
        first["frechet_distance"]
        == "not measured: 40 images are too few for a covariance of 64 features (give at least 65); see KID"
    )
    kid = generation["over_seeds"]["kid"]
    assert kid["mean"] == pytest.approx((first["kid"] + second["kid"]) / 2)
    assert kid["std"] == pytest.approx(abs(first["kid"] - second["kid"]) / np.sqrt(2))
    page = (evaluated / "report.md").read_text()
    assert (
        "± is the standard deviation over 2 seeds; recognition, deviation and nearest distance are of the first 40"
        in page
    )
    assert f"| KID | {kid['mean']:.5f} ± {kid['std']:.5f} | {real['kid']:.5f} |" in page


def test_eval_measures_translation_and_the_way_back(evaluated):
    methods = report(evaluated)["translation"]["methods"]
    assert methods.keys() == {"latent", "difference"}
    for method in methods.values():
        assert method["by_pair"].keys() == {f"{a} to {b}" for a in range(10) for b in range(10) if a != b}
        assert method["by_target"].keys() == {str(c) for c in range(10)}
        for target in method["by_target"].values():
            assert target["images"] == 9  # an image of each other class
            assert target["real"]["kid"] < target["kid"]
    # Both inverses are exact but for the tolerance; that swapping is none of eq. 20 shows only on a trained model.
    assert methods["latent"]["cycle_error_swapped"] < 0.05
    assert methods["difference"]["cycle_error_reversed"] < 0.05
    assert (evaluated / "translation_latent.png").exists()


def test_eval_measures_likelihood_and_warns(evaluated):
    figures = report(evaluated)["likelihood"]
    # An untrained drift is about 0: data are judged by N(0, I), which is known.
    pixels = np.stack([Digits("test")[i]["image"] for i in range(20)])
    x = 2 * (pixels + 0.5) / 17 - 1
    normal = np.mean(0.5 * x**2) / np.log(2) + 0.5 * np.log2(2 * np.pi) + np.log2(17) - 1
    assert figures["bits_per_dim"] == pytest.approx(normal, abs=0.1)
    assert figures["uniform"] == pytest.approx(np.log2(17))
    assert 0 < figures["standard_error"] < 0.1
    assert "dequantize=True" in figures["warning"]


def test_eval_sweeps_solvers_and_audits_against_scipy(evaluated):
    measured = report(evaluated)
    rows = measured["sweep"]["rows"]
    nfe = {(r["method"], r.get("steps")): r["nfe"] for r in rows if "steps" in r}
    assert nfe[("euler", 4)] == 4
    assert nfe[("heun", 2)] == 4
    assert nfe[("dopri5", 2)] == 13
    differences = {r.get("steps"): r["rms_difference"] for r in rows if r["method"] == "euler"}
    assert differences[4] < differences[2]
    audit = measured["audit"]
    assert audit["ours"]["nfe"] == pytest.approx(audit["scipy"]["nfe"], abs=12)
    assert audit["mean_absolute_difference"] < 1e-2
    errors = measured["truncation"]["root_mean_square"]
    assert all(len(v) == 3 for v in errors.values())
    assert all(v[0] == pytest.approx(0, abs=1e-5) for v in errors.values())  # both paths start at the latent
    for name in ("sweep.png", "truncation.png", "grid.png"):
        assert Image.open(evaluated / name).size[0] > 100


def test_eval_can_have_every_part_off(digits_run):
    parts = {f"eval__{part}__on": False for part in evaluate.PARTS}
    with pytest.raises(UserError, match="every part of the evaluation is off"):
        evaluate.run_command(experiment_of("digits.py", **parts), digits_run)


def test_evaluations_are_compared(evaluated, digits_run, capsys):
    changed = sums.read_json(evaluated / "report.json") | {"rounding": "floor"}
    other = digits_run / "other"
    sums.write_json(other / "report.json", changed)
    compare.run_command(experiment_of("digits.py"), digits_run, f"{evaluated},{other}")
    printed = capsys.readouterr().out
    assert "not measured alike" in printed
    assert "| floor |" in printed
    assert (digits_run / "compare.md").read_text().strip() in printed
    with pytest.raises(UserError, match="fewer than two evaluations"):
        compare.run_command(experiment_of("digits.py"), digits_run, str(evaluated))
    with pytest.raises(UserError, match="the same evaluation twice"):
        compare.run_command(experiment_of("digits.py"), digits_run, f"{evaluated},{evaluated}/report.json")


def test_statistics_of_the_data_need_no_model(tmp_path, capsys):
    statistics.run_command(experiment_of("digits.py"), tmp_path)
    assert "Frechet distance on pixels, test split to train split" in capsys.readouterr().out
    measured = report(tmp_path / "statistics")
    train = np.stack([Digits("train")[i]["image"] for i in range(len(Digits("train")))]).reshape(-1, 64) / 8.0 - 1
    stored = np.load(tmp_path / "statistics" / "train.npz")
    np.testing.assert_allclose(stored["mu"], train.mean(0), atol=4e-3)  # pixels are rounded to 8 bits
    np.testing.assert_allclose(stored["sigma"], np.cov(train, rowvar=False), atol=4e-3)
    assert measured["train"]["images"] == len(train)
    assert 0 < measured["test_to_train"]["frechet_distance"] < 1
    # As the reference of an evaluation.
    path = str(tmp_path / "statistics" / "train.npz")
    data = Data(experiment_of("digits.py", eval__reference=path))
    assert data.reference.features is None
    figures = distances(Data(experiment_of("digits.py")).statistics("test").features, data.reference, data.extractor)
    assert figures["frechet_distance"] == pytest.approx(measured["test_to_train"]["frechet_distance"])
    assert "only a mean and a covariance" in figures["kid"]


def test_too_few_images_for_a_covariance_are_said(tfds_dir, tmp_path, capsys):
    experiment = experiment_of("cifar10.py", tfds_dir)
    statistics.run_command(experiment, tmp_path)
    printed = capsys.readouterr().out
    assert "images are too few for a covariance, so no train.npz" in printed
    assert "give at least 3073); see KID" in printed
    assert not (tmp_path / "statistics" / "train.npz").exists()


def test_evaluation_refuses_before_it_works(digits_run, tmp_path):
    for changes, match in (
        ({"eval__reference": str(tmp_path / "absent.npz")}, "reference is .*absent.npz, which is not a file"),
        ({"eval__extractor": "inception", "eval__inception_weights": "no.pth"}, "no.pth, which is not a file"),
    ):
        with pytest.raises(UserError, match=match):
            evaluate.run_command(experiment_of("digits.py", **changes), digits_run)
