"""--mode=statistics: features, mean and covariance of the data, without a model."""

import pathlib
import sys

from scoreflow_jax import files
from scoreflow_jax.commands import reports
from scoreflow_jax.evaluation.data import Data
from scoreflow_jax.evaluation.extractors import distance_name
from scoreflow_jax.evaluation.samples import distances
from scoreflow_jax.evaluation.statistics import jpeg_warning, save_npz
from scoreflow_jax.experiment import Experiment


def run_command(experiment: Experiment, workdir: pathlib.Path, out: str | None = None) -> None:
    """Writes statistics/{train.npz, test.npz, report.json}: the usual mu and sigma, and how far the two splits are apart.

    That distance is what a perfect model would reach with as many images as the test split has, and a check of the whole
    measurement: CIFAR-10's is published.

    Args:
        experiment: built from the config at hand.
        workdir: the folder to write below; no run is needed there.
        out: the folder to write to; None: statistics/ in the workdir.
    """
    data = Data(experiment)
    folder = reports.out_folder("statistics", workdir, "statistics", out)
    splits = {split: data.statistics(split) for split in ("train", "test")}
    for split, statistics in splits.items():
        if statistics.gaussian is not None:
            with files.whole_file(folder / f"{split}.npz") as path:
                save_npz(path, statistics)
        else:
            print(f"{split}: {statistics.facts['images']} images are too few for a covariance, so no {split}.npz")
    test = splits["test"].features
    assert test is not None
    apart = distances(test, splits["train"], data.extractor)
    head = reports.environment()
    files.write_json(
        folder / "report.json",
        {
            "mode": "statistics",
            **head,
            "extractor": data.extractor.facts,
            **{s: x.facts for s, x in splits.items()},
            "test_to_train": apart,
        },
    )
    name = distance_name(data.extractor.facts)
    for field, words in (("frechet_distance", name), ("kid", "KID"), ("precision", "precision"), ("recall", "recall")):
        value = apart[field]
        print(f"{words}, test split to train split: {value if isinstance(value, str) else format(value, '.4f')}")
    shares = {f"the {split} split": x.facts.get("jpeg") for split, x in splits.items()}
    if (warning := jpeg_warning(shares)) is not None:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"see {folder / 'report.json'}")
