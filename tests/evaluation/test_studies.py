"""Tables of studies: means, standard errors, and what may be called a difference."""

import math

import pytest

from scoreflow_jax.evaluation import studies


def test_mean_and_standard_error():
    mean = studies.mean_of([1.0, 2.0, 6.0])
    assert mean.value == 3.0
    assert mean.error == pytest.approx(math.sqrt(7.0 / 3.0))  # variance (4 + 1 + 9) / 2
    assert math.isnan(studies.mean_of([1.0]).error)


def test_a_difference_under_two_standard_errors_is_none():
    a, b = studies.Mean(1.0, 0.3, 3), studies.Mean(0.0, 0.4, 3)
    assert studies.difference(a, b) == (1.0, pytest.approx(0.5), False)
    assert studies.difference(studies.Mean(1.01, 0.3, 3), b)[2]
    assert not studies.difference(studies.Mean(9.0, math.nan, 1), b)[2]


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
    assert "| base | 10 | 1.000 ± 0.000 | 105 ± 5 |" in text
    assert "| without | 5 | - | because |" in text
    assert "bits/dim" not in text
    told = studies.differences(rows, "base")
    assert "| same | - | none |" in told
    assert "| far | another n | +96 ± 5 |" in told  # distances of fewer images are larger
    assert "| without | - | - |" in told


def test_differences_along_t():
    rows = {"base": [{"along_t": [1.0, 2.0]}] * 2, "other": [{"along_t": [1.0, 3.0]}, {"along_t": [1.0, 3.1]}]}
    found = studies.along_t(rows, "base", [0.0, 1.0])
    assert found["other"][0].value == 0.0
    assert found["other"][1].value == pytest.approx(1.05)
    text = studies.table_along_t(found, "base", [0.0, 1.0], every=1)
    assert "| other | none | +1.0500 ± 0.0500 |" in text
