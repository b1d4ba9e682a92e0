"""A model whose drift is written down, behind everything that a trained one is behind: batches, labels, solver, sampler, path."""

import dataclasses

import scoreflow_jax
from scoreflow_jax.command_line import load_config
from scoreflow_jax.experiment import Experiment, build, resolve
from scoreflow_jax.paths import NetworkDrift
from scoreflow_jax.plain_config import to_plain
from tests.changes import set_fields
from tests.conftest import ROOT


def known_model(drift, system="rectified_flow", *, variant="gaussians", batch_size=4096, **changes):
    """A `Model` of points of the plane in eight classes, or of a config's data, whose drift is f(x, t, label).

    `changes` are fields of the config, solver__rtol=1e-6; labels may be left out, as of a model trained with label dropout.
    """
    config = to_plain(load_config(f"{ROOT / 'configs' / system}.py:{variant}"))
    set_fields(config, {"model__label_dropout": 0.1, "eval__translation__on": False, **changes})
    built = build(resolve(config))

    class Known(Experiment):
        """The experiment with that drift in place of its network's."""

        def drift(self, params, dtype="float32"):
            return NetworkDrift(drift, self.path)

    experiment = Known(**{field.name: getattr(built, field.name) for field in dataclasses.fields(built)})
    return scoreflow_jax.Model(experiment, {}, 0, batch_size=batch_size)
