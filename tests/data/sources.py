"""Settings of `config.data` in one line."""

from scoreflow_jax.settings.data import DataSettings


def settings_of(source, **changes):
    """Settings of a source with RGB images of 8x8, and what is to differ."""
    plain = {"name": source, "train_split": "train", "test_split": "test", "shape": (8, 8, 3), "num_classes": None}
    return DataSettings(**{**plain, "source": source, "levels": 256, "flip": True, **changes})
