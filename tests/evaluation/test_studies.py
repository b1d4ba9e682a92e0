"""Tables of studies: means and intervals by Student's t, seeds in pairs, and what may be called different."""

import math

import numpy as np
import pytest
import scipy.stats

from scoreflow_jax.evaluation import studies


def test_intervals_are_students():
    """Of three values 4.303 standard errors, of eight 2.365 (any table of t), where the normal distribution has 1.96."""
    mean = studies.mean_of([1.0, 2.0, 6.0])
    assert mean.value == 3.0
    assert mean.half == pytest.approx(4.3027 * math.sqrt(7.0 / 3.0), rel=1e-4)  # variance (4 + 1 + 9) / 2
    eight = studies.mean_of([0.0, 1.0] * 4)
    assert eight.half == pytest.approx(2.3646 * math.sqrt(2.0 / 7.0 / 8.0), rel=1e-4)
    assert math.isnan(studies.mean_of([1.0]).half)


@pytest.mark.parametrize(("count", "shared"), [(3, 0.0), (3, 3.0), (8, 1.0)])
def test_an_interval_misses_equal_cells_in_a_twentieth_of_studies(count, shared):
    """Whatever the seeds share. Two standard errors, unpaired, call 11.5 % of equal cells of three seeds different."""
    rng, trials = np.random.default_rng(0), 4000
    missed = 0
    for _ in range(trials):
        both = shared * rng.normal(size=count)
        a, b = (both + rng.normal(size=count) for _ in range(2))
        mean = studies.mean_of(
            studies.paired([{"nfe": v} for v in a.tolist()], [{"nfe": v} for v in b.tolist()], "nfe")
        )
        missed += abs(mean.value) > mean.half
    assert missed / trials == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / trials))


def test_figures_are_paired_by_their_seeds():
    """What all seeds of two rows share drops out; a seed without the figure takes its partner along."""
    ours = [{"nfe": 10.0}, {}, {"nfe": 35.0}]
    theirs = [{"nfe": 9.0}, {"nfe": 500.0}, {"nfe": 33.0}, {"nfe": 1.0}]
    assert studies.paired(ours, theirs, "nfe") == [1.0, 2.0]


def test_p_values_are_corrected_for_their_number():
    """Holm's own rule on an example: 0.01 x 4, 0.015 x 3 = 0.045, then 0.02 x 2 = 0.04 is raised to that, and 0.9."""
    assert studies.corrected([0.9, 0.015, 0.01, 0.02]) == pytest.approx([0.9, 0.045, 0.04, 0.045])
    assert studies.corrected([0.04, math.nan]) == pytest.approx(
        [0.08, 1.0]
    )  # what is not measured yet counts all the same
    assert studies.p_value([1.0, 2.0, 4.0]) == pytest.approx(
        scipy.stats.ttest_rel([2.0, 4.0, 8.0], [1.0, 2.0, 4.0]).pvalue
    )


def test_only_what_was_fixed_beforehand_is_decided_and_by_eight_seeds():
    rng = np.random.default_rng(1)
    base = rng.normal(10, 3, 8)
    rows = {
        "base": [{"frechet_distance": v, "nfe": v} for v in base.tolist()],
        "worse": [{"frechet_distance": v, "nfe": v} for v in (base + 1 + 0.3 * rng.normal(size=8)).tolist()],
        "same": [{"frechet_distance": v} for v in (base + 0.3 * np.array([1, -1] * 4)).tolist()],
    }
    fixed = {
        "first": studies.Comparison("worse", "base", "frechet_distance"),
        "second": studies.Comparison("same", "base", "frechet_distance"),
    }
    text = studies.decided(rows, fixed)
    first, second = text.splitlines()[2:]
    assert first.startswith("| first: worse less base | distance | +")
    assert first.endswith("| different |")
    assert second.endswith("| 8 | 1 | no difference shown |")
    few = studies.decided({name: runs[:7] for name, runs in rows.items()}, fixed)
    assert few.count("not decided: 7 of 8 seeds") == 2


def test_tables():
    rows = {
        "base": [{"nfe": n, "images": 10, "frechet_distance": 1.0} for n in (100.0, 110.0)],
        "same": [{"nfe": 104.0, "images": 10}, {"nfe": 108.0, "images": 10}],
        "far": [
            {"nfe": 200.0, "images": 5, "frechet_distance": 9.0},
            {"nfe": 201.0, "images": 5, "frechet_distance": 9.1},
        ],
        "without": [{"images": 5}],
    }
    text = studies.table(rows, {"without": {"nfe": "because"}}, first=5)
    assert "| base | 10 | 1.000 ± 0.000 | 105 ± 64 |" in text
    assert "| without | 5 | - | because |" in text
    assert "bits/dim" not in text
    told = studies.differences(rows, "base")
    assert "| same | - | +1 ± 38 |" in told  # 4 and -2
    assert "| far | another n | +96 ± 57 |" in told  # distances of fewer images are larger
    assert "| without | - | - |" in told


def test_differences_along_t():
    """Seed by seed: 1 and 1.1, whose interval is 12.7 standard errors."""
    rows = {
        "base": [{"along_t": [1.0, 2.0]}, {"along_t": [5.0, 4.0]}],
        "other": [{"along_t": [1.0, 3.0]}, {"along_t": [5.0, 5.1]}],
    }
    found = studies.along_t(rows, "base", [0.0, 1.0])
    assert list(found) == ["other"]
    assert found["other"][0] == (0.0, 0.0, 2)
    assert found["other"][1].value == pytest.approx(1.05)
    assert found["other"][1].half == pytest.approx(12.706 * 0.05, rel=1e-4)
    text = studies.table_along_t(found, "base", [0.0, 1.0], every=1)
    assert "| other | +0.0000 ± 0.0000 | +1.0500 ± 0.6353 |" in text


def test_a_table_has_kid_where_there_are_too_few_images_for_a_distance():
    def report(**own):
        generation = {"images": 1000, "by_seed": {"1": {"nfe": 40.0, "seconds_per_image": 0.1, "kid": 0.05, **own}}}
        return studies.figures_of({"generation": generation})

    few = report(frechet_distance="not with 1,000 images: they have no covariance")
    assert few["kid"] == 0.05
    assert "frechet_distance" not in few
    assert "kid" not in report(frechet_distance=3.0)
    assert "kid" not in report(kid="the reference has no features")
