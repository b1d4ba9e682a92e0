"""--mode=config: writes the config with all changes to it, as JSON that --config takes."""

import pathlib

from scoreflow_jax import files
from scoreflow_jax.errors import UserError, first_line
from scoreflow_jax.experiment import Experiment
from scoreflow_jax.user_paths import user_path


def run_command(experiment: Experiment, workdir: pathlib.Path, out: str) -> None:
    """Writes it: for a machine without ml_collections, which reads the configs in Python.

    Args:
        experiment: whose config to write.
        workdir: not touched.
        out: the file.

    Raises:
        UserError: by its name not JSON, or it cannot be written.
    """
    del workdir
    if not out.lower().endswith(".json"):
        raise UserError(f"--out={out} is not JSON by its name; expected a file such as config.json")
    try:
        files.write_json(user_path(out), experiment.config)
    except OSError as error:
        raise UserError(f"cannot write {out} ({first_line(error)}); give another --out") from error
    print(f"wrote {out}: use it as --config={out}")
