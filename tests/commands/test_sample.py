"""--mode=sample, translate and interpolate on the digits' smoke run, and runs that they refuse."""

import jax
import numpy as np
import pytest
from PIL import Image

import scoreflow_jax
from scoreflow_jax.commands import interpolate, reports, sample, train, translate
from scoreflow_jax.errors import UserError
from tests.commands.runs import experiment_of, report


def test_samples_come_with_likelihoods(digits_run):
    experiment = experiment_of("digits.py", sample__likelihood=True, sample__likelihood_probes=2)
    sample.run_command(experiment, digits_run)
    stored = np.load(digits_run / "sample" / "samples.npz")
    told = report(digits_run / "sample")["likelihood"]
    assert (told["probe"], told["probes"]) == ("rademacher", 2)
    assert "dequantize=True" in told["warning"]
    assert stored["log_likelihood"].shape == (10,)
    # Of an untrained drift: about that of the noise itself, -D/2 (ln 2 pi + 1).
    assert stored["log_likelihood"].mean() == pytest.approx(-32 * (np.log(2 * np.pi) + 1), rel=0.1)
    # Two estimates half a distance from their mean; the untrained network's divergence is small, and so is what they scatter by.
    assert (stored["log_likelihood_error"] > 0).all()
    assert stored["log_likelihood_error"].max() < 5


def test_reports_state_what_is_needed_to_make_them_again(digits_run):
    experiment = experiment_of("digits.py")
    sample.run_command(experiment, digits_run)
    r = report(digits_run / "sample")
    assert (r["step"], r["parameters"], r["seed"], r["config_hash"]) == (4, "ema", 0, experiment.config_hash)
    other = experiment_of("digits.py", train__ema_decay=0.5)
    sample.run_command(other, digits_run)
    again = report(digits_run / "sample")
    assert (again["config_hash"], again["trained_config_hash"]) == (other.config_hash, experiment.config_hash)
    assert again["ema_decay"] == experiment.train.ema_decay
    assert r["solver"]["method"] == "dopri5"
    assert (r["solver"]["rtol"], r["solver"]["atol"]) == (1e-3, 1e-3)
    assert {"jax", "flax", "diffrax", "scoreflow_jax", "python"} <= r["versions"].keys()
    cost = r["cost"]
    assert cost["nfe_mean"] >= 9  # one step of Dopri5 and the first step's size
    assert cost["images_per_second"] == pytest.approx(10 / cost["seconds"])
    assert "round" in r["rounding"]


def test_sampling_is_the_same_for_any_batch_size_and_again(digits_run):
    """To the tolerance, since one step control serves a batch; noise i is the same exactly."""
    model = scoreflow_jax.load(digits_run)
    one, other = (scoreflow_jax.load(digits_run, batch_size=n) for n in (3, 7))
    key, labels = jax.random.key(5), np.arange(7)
    np.testing.assert_array_equal(model.generate(key, labels), model.generate(key, labels))
    np.testing.assert_allclose(one.generate(key, labels), other.generate(key, labels), atol=2e-2)


def test_translations_hold_sources_and_results(digits_run):
    experiment = experiment_of("digits.py", translate__method="difference", translate__target=3)
    translate.run_command(experiment, digits_run)
    out = digits_run / "translate"
    stored = np.load(out / "translations.npz")
    assert stored["source_images"].shape == stored["translated_images"].shape == (10, 8, 8, 1)
    assert set(stored["target_labels"]) == {3}
    assert 3 not in stored["source_labels"]
    test = {i.tobytes() for i in np.load(out / "translations.npz")["source_images"]}
    assert len(test) == 10
    r = report(out)
    assert r["method"] == "difference"
    assert r["methods"].keys() == {"latent", "difference"}
    for measured in r["methods"].values():
        assert 0 <= measured["recognized_as_target"] <= 1
        assert measured["distance_to_own_source"] > 0
    # Both legs of a fixed-step solve cost as much as the two networks of the difference.
    fixed = experiment_of("digits.py", solver__method="heun", solver__num_steps=5)
    translate.run_command(fixed, digits_run)
    assert {m["cost"]["nfe_mean"] for m in report(out)["methods"].values()} == {20.0}
    assert all(Image.open(out / name).size[0] > 100 for name in ("grid.png", "path.png"))


def test_translates_a_folder_of_pictures(digits_run, tmp_path):
    for i in range(3):
        Image.fromarray(np.full((20, 16), 40 * i, np.uint8)).save(tmp_path / f"{i}.png")
    with pytest.raises(UserError, match="--config.translate.source=CLASS"):
        translate.run_command(experiment_of("digits.py", translate__images=str(tmp_path)), digits_run)
    changes = {"translate__images": str(tmp_path), "translate__source": 7}
    translate.run_command(experiment_of("digits.py", **changes), digits_run)
    stored = np.load(digits_run / "translate" / "translations.npz")
    assert stored["source_images"][:, 0, 0, 0].tolist() == [0, 40, 80]
    assert set(stored["source_labels"]) == {7}
    assert 7 not in stored["target_labels"]


@pytest.mark.parametrize("rule", ["square_root", "slerp", "linear"])
def test_interpolation_between_real_images_begins_and_ends_at_them(digits_run, rule):
    fine = {"solver__rtol": 1e-5, "solver__atol": 1e-5}
    changes = {"interpolate__between": "images", "interpolate__rule": rule, "interpolate__labels": (4,), **fine}
    interpolate.run_command(experiment_of("digits.py", **changes), digits_run)
    strips = np.load(digits_run / "interpolate" / "interpolations.npz")["images"]
    assert strips.shape == (2, 5, 8, 8, 1)
    test = experiment_of("digits.py").split("test")
    fours = {
        np.rint(test[i]["image"] * 255.0 / 16).astype(np.uint8).tobytes()
        for i in range(len(test))
        if test[i]["label"] == 4
    }
    ends = [strips[0, 0], strips[0, -1], strips[1, 0], strips[1, -1]]
    nearest = [min(np.abs(np.frombuffer(f, np.uint8).astype(int) - e.ravel()).max() for f in fours) for e in ends]
    assert max(nearest) <= 1
    assert len({e.tobytes() for e in ends}) == 4


def test_workdir_of_another_config_is_refused(digits_run):
    other = experiment_of("digits.py", optimizer__learning_rate=1.0)
    with pytest.raises(UserError, match="optimizer.learning_rate is 1.0, was 0.002"):
        train.run_command(other, digits_run)
    sample.run_command(other, digits_run)  # the network is the same
    with pytest.raises(UserError, match="model.base_channels is 16, was 8"):
        sample.run_command(experiment_of("digits.py", model__base_channels=16), digits_run)


def test_missing_and_damaged_checkpoints_are_named(digits_run, tmp_path):
    (tmp_path / "config.json").write_text((digits_run / "config.json").read_text())
    with pytest.raises(UserError, match="train first"):
        sample.run_command(experiment_of("digits.py"), tmp_path)
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    with pytest.raises(UserError, match="no whole checkpoint"):
        sample.run_command(experiment_of("digits.py"), tmp_path)
    assert not (tmp_path / "sample").exists()


def test_damaged_config_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json is damaged"):
        scoreflow_jax.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="the config has no 'name'"):
        scoreflow_jax.load(tmp_path)
    with pytest.raises(UserError, match="holds no run"):
        scoreflow_jax.load(tmp_path / "config.json")


@pytest.mark.parametrize("text", ['{"mode": "eval"}', '{"a": 1}', '{"mode": "sam', "[]"])
def test_out_does_not_write_over_another_modes_report(tmp_path, text):
    """Nor over a file of that name that is none; a mode's own is made anew, and in the workdir each has its folder."""
    report = tmp_path / "report.json"
    report.write_text(text)
    with pytest.raises(
        UserError, match="report.json is not of --mode=sample, which would write over it: give --out another"
    ):
        reports.out_folder("sample", tmp_path / "run", "sample", str(tmp_path))
    assert report.read_text() == text
    report.write_text('{"mode": "sample"}')
    assert reports.out_folder("sample", tmp_path / "run", "sample", str(tmp_path)) == tmp_path
    assert reports.out_folder("sample", tmp_path / "run", "sample", None) == tmp_path / "run" / "sample"
