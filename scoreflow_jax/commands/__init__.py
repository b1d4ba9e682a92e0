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
    "figures": (
        "scoreflow_jax.commands.draw_figures",
        "draw the paper's figures 3 to 6: figures/{figure3.png ... figure6.png, report.json}",
    ),
    "eval": ("scoreflow_jax.commands.evaluate", "measure the model: eval/<step>/{report.json, report.md, pictures}"),
    "reflow": (
        "scoreflow_jax.commands.reflow",
        "straighten a trained rectified flow on pairs of its own, and distill it: reflow/{2, 3, ..., report.md}",
    ),
    "difference-flow": (
        "scoreflow_jax.commands.difference_flow",
        "move particles to the data by a difference of scores: difference_flow/{particles.npz, panels.png, animation.gif, "
        "kl.png, report.json}",
    ),
    "study": (
        "scoreflow_jax.commands.study",
        "train and measure a grid of variants with several seeds each: study.md, study.json, along_t.png",
    ),
    "status": (
        "scoreflow_jax.commands.status",
        "how far a run is: progress, rate, time left, loss curve, checkpoints; also while it trains",
    ),
    "compare": (
        "scoreflow_jax.commands.compare",
        "several evaluations in one table, and what differs in how they were measured: --reports=DIR,DIR",
    ),
    "statistics": (
        "scoreflow_jax.commands.statistics",
        "mean and covariance of the data's features: statistics/{train.npz, test.npz, report.json}",
    ),
    "pack": (
        "scoreflow_jax.commands.pack",
        "write the data at the training size to array_record files, given by --out=DIR, which then serves as config.data.path",
    ),
    "diagnose": (
        "scoreflow_jax.commands.failures",
        "repeat a training step that was not finite, kept in failure-*/, and say which examples and arrays are not",
    ),
    "config": (
        "scoreflow_jax.commands.write_config",
        "write the config with its changes as JSON, --out=FILE.json, which --config takes where ml_collections is missing",
    ),
    "publish": (
        "scoreflow_jax.commands.publish",
        "make a folder of the model, to be shared as it is, --out=DIR: weights, config, sums, model card, preview",
    ),
    "page": (
        "scoreflow_jax.commands.page",
        "a page in the browser to play with a model; of the shipped photographs where no --workdir is given",
    ),
    "export": (
        "scoreflow_jax.commands.export",
        "write the model for other runtimes: export/{*.stablehlo, weights.npz, export.json, run.py}; also as ONNX or for PyTorch",
    ),
    "import": (
        "scoreflow_jax.commands.import_checkpoint",
        "make a run of a PyTorch checkpoint of score_sde or RectifiedFlow, given by --source=FILE",
    ),
}
"""Module and one-line description of every mode. The modules are imported when they run: --help loads none."""

FLAGS = {
    "pack": {"out": "DIR"},
    "config": {"out": "FILE.json"},
    "import": {"source": "FILE"},
    "publish": {"out": "DIR"},
    "compare": {"reports": "DIR,DIR"},
}
"""Flags besides the common ones and what they take, for the modes that have some; they are required."""

OPTIONS: dict[str, dict[str, str]] = {
    "status": {"verify": ""},
    "publish": {"push": "OWNER/NAME"},
    **{
        mode: {"out": "DIR"}
        for mode in ("sample", "translate", "interpolate", "figures", "eval", "statistics", "difference-flow")
    },
    "page": {"host": "ADDRESS", "port": "N"},
    "export": {"out": "DIR", "format": "stablehlo|onnx|pytorch", "batch": "N"},
}
"""The same of flags that may be left out; one that takes nothing is a switch. --out is where to write in place of the workdir."""

WITHOUT_EXPERIMENT = ("status", "diagnose")
"""Modes that look at a workdir alone: run_command(workdir, **flags). They need neither data nor the run's config."""

ALONE = ("difference-flow", "compare", "pack", "config", "import", "publish", "export", "page")
"""Modes that run in one process: what they do is not divided."""

WITHOUT_DEVICES = ("status",)
"""Modes that leave the devices, and other processes, alone: they may belong to a run in progress."""

OF_PUBLISHED = ("sample", "translate", "interpolate", "figures", "eval", "export", "page")
"""Modes whose --workdir may be a published model, which is only read."""

OPENS = {"page": "pretrained:cifar10-small"}
"""What a mode works on where neither --workdir nor --config is given."""

TRAINING = ("train", "reflow", "study")
"""Modes that make training steps."""
