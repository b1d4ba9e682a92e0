"""A low-dimensional density from a table of your own: columns of a file of text, of NumPy or of parquet.

Command     python main.py --config=configs/table.py --mode=train --config.data.path=points.csv
            (then --mode=sample, translate, interpolate, eval with the same path)
Hardware    a laptop: 2 CPU cores, under 1 GB
Time        about a minute and a half of training on 2 idle cores
Expect      --mode=eval states the mean log likelihood of held-out points in nats, a density in the table's own units: minus the
            entropy of the density that they are drawn from, at the best. On 6,000 points of three Gaussian classes: 1.09 ± 0.04
            (600 held out) where that is 1.07; NFE of sampling about 55. Loss there 0.71 in the first 100 steps,
            0.33 after 400, 0.32 at the end
Data        points.csv: a line of names or none, then a row a point. A column "label" (or --config.data.label=NAME) holds the
            class, a number or a word; without one the model is unconditional. The coordinates are all other columns of
            numbers, or --config.data.columns="('x', 'y')". Cells may be parted by semicolons or tabs, decimal signs be commas,
            and the file be a .tsv or a .csv.gz. points.npz: an array (rows, columns), and "label" for classes; or an array for
            each column. points.npy; points.parquet, where pyarrow is installed. A tenth of the rows is held out
Variants    configs/table.py:smoke    a few steps of a tiny network, in seconds

Columns and classes are found in the table (with two columns and three classes the network has 1,186,306 parameters). Coordinates
are standardized inside; what is written is in the table's own units.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The experiment, or its `smoke` variant."""
    config = common.base("table")
    config.model = common.mlp()
    config.data.update(source="table", name="table", shape=(), levels=0, flip=False)
    common.find_classes(config)
    config.optimizer.update(learning_rate=1e-3, warmup_steps=100)
    config.train.update(
        batch_size=256, num_steps=5000, ema_decay=0.999, sample_every=1000, checkpoint_every=1000, log_every=100
    )
    config.sample.update(num_images=1000, batch_size=1000)
    config.translate.update(num_images=500, batch_size=500, shown=200)
    config.interpolate.update(batch_size=500)
    # Features are the coordinates themselves; the divergence of so few is exact at little cost.
    config.eval.update(
        extractor="pixels",
        batch_size=1000,
        generation={"images": 5000},
        reversibility={"images": 1000},
        likelihood={"by": "ode", "images": 5000, "probe": "exact"},
    )
    return common.variant(config, variant)
