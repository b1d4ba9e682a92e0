"""What the command line can do: one module for each --mode, with a function run_command(experiment, workdir, **flags)."""

MODES = {
    "train": ("scoreflow_jax.commands.train", "train, or resume from the newest checkpoint of the workdir"),
    "sample": ("scoreflow_jax.commands.sample", "generate images: sample/{samples.npz, grid.png, report.json}"),
    "translate": (
        "scoreflow_jax.commands.translate",
        "turn images of one class into another: translate/{translations.npz, grid.png, path.png, report.json}",
    ),
    "interpolate": (
        "scoreflow_jax.commands.interpolate",
        "walk between two latents or two images: interpolate/{strip.png, interpolations.npz, report.json}",
    ),
    "eval": ("scoreflow_jax.commands.evaluate", "measure the model: eval/<step>/{report.json, report.md, pictures}"),
    "compare": (
        "scoreflow_jax.commands.compare",
        "several evaluations in one table, and what differs in how they were measured: --reports=DIR,DIR",
    ),
    "statistics": (
        "scoreflow_jax.commands.statistics",
        "mean and covariance of the data's features: statistics/{train.npz, test.npz, report.json}",
    ),
    "import": (
        "scoreflow_jax.commands.import_checkpoint",
        "make a run of a PyTorch checkpoint of score_sde or RectifiedFlow, given by --source=FILE",
    ),
}
"""Module and one-line description of every mode. The modules are imported when they run: --help loads none."""

FLAGS = {"import": {"source": "FILE"}, "compare": {"reports": "DIR,DIR"}}
"""Flags besides the common ones and what they take, for the modes that have some; they are required."""
