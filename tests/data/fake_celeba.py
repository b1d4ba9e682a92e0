"""A data set with CelebA's features in small: pictures of any size, and truth values in place of a label."""

import pathlib

import numpy as np

COUNT = 24


def pictures() -> list[np.ndarray]:
    """Random pictures of several sizes."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (20 + i % 3, 18, 3), np.uint8) for i in range(COUNT)]


def prepare(root: pathlib.Path) -> pathlib.Path:
    """Has tensorflow-datasets make array_record files of it under `root`, as data set "faces", version 1.0.0."""
    import tensorflow_datasets as tfds

    class Faces(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            attributes = {"Male": np.bool_, "Young": np.bool_}
            features = {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                "attributes": tfds.features.FeaturesDict(attributes),
                "landmark": tfds.features.Scalar(np.int64),
            }
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i, picture in enumerate(pictures()):
                yield i, {"image": picture, "attributes": {"Male": i % 3 == 0, "Young": False}, "landmark": i}

    Faces(data_dir=str(root), file_format="array_record").download_and_prepare()
    return root
