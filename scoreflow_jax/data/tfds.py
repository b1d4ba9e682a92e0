"""Image data sets of tensorflow-datasets, read at random from array_record files, for which TensorFlow is not needed.

Preparing a data set for the first time (download, unpack, write array_record) does need TensorFlow and the network.
"""

import os
import pathlib
import shutil
from typing import Any

import numpy as np

from scoreflow_jax.data.base import Example, ImageSource, ImageSpec
from scoreflow_jax.errors import UserError, first_line


class TfdsImages(ImageSource):
    """One split of an image-classification data set of tensorflow-datasets.

    Attributes:
        spec, class_names: from the data set's own description.
        directory: where its files lie.
    """

    def __init__(self, name: str, split: str, data_dir: str | None = None) -> None:
        """Opens the data set, and prepares it first where it is not there.

        Args:
            name: as tensorflow-datasets calls it, such as "cifar10".
            split: such as "train" or "test".
            data_dir: the folder of all data sets; by default $TFDS_DATA_DIR, else ~/tensorflow_datasets.

        Raises:
            UserError: the data set is not there and cannot be prepared, or has no such split, image or label.
        """
        root = pathlib.Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
        builder = _open(name, root)
        self.directory = str(builder.data_path)
        features: Any = builder.info.features
        if split not in builder.info.splits:
            raise UserError(f"{name} has no split {split!r}, expected one of {', '.join(builder.info.splits)}")
        if "image" not in features or "label" not in features:
            raise UserError(f"{name} has features {', '.join(features)}; expected an image and a label")
        self.class_names = tuple(features["label"].names)
        height, width, channels = features["image"].shape
        self.spec = ImageSpec(shape=(height, width, channels), num_classes=features["label"].num_classes)
        self._source: Any = builder.as_data_source(split=split)

    def __len__(self) -> int:
        """The number of images."""
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        """One decoded image."""
        example = self._source[int(index)]
        return {"image": np.asarray(example["image"], np.uint8), "label": np.int32(example["label"])}


def _open(name: str, root: pathlib.Path) -> Any:
    """A read-only builder of the newest prepared version, preparing one where there is none."""
    prepared = _prepared_versions(root / name)
    if not prepared:
        _prepare(name, root)
        prepared = _prepared_versions(root / name)
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(prepared[-1]))
    if "array_record" not in str(builder.info.file_format).lower():
        raise UserError(
            f"{name} in {prepared[-1]} was prepared as {builder.info.file_format}, which cannot be read at random. "
            "Expected array_record: move that folder away, and it is prepared again"
        )
    return builder


def _prepared_versions(folder: pathlib.Path) -> list[pathlib.Path]:
    """Versions of a data set that are complete, oldest first."""
    found = [path.parent for path in folder.glob("*/dataset_info.json")]
    return sorted(found, key=lambda path: [int(n) if n.isdigit() else 0 for n in path.name.split(".")])


def _prepare(name: str, root: pathlib.Path) -> None:
    """Downloads and writes a data set as array_record files.

    Raises:
        UserError: whatever stopped it, in one line.
    """
    print(f"preparing {name} in {root} (once)", flush=True)
    advice = (
        f"Prepare it on a machine with network and TensorFlow by tfds.builder({name!r}, file_format='array_record')"
        ".download_and_prepare(), copy the folder here and set TFDS_DATA_DIR or config.data.dir to its parent"
    )
    created = [path for path in (root / name, root / "downloads") if not path.exists()]
    try:
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.download import downloader

        # tfds retries for three and a half minutes where there is no network at all; so it is a few seconds.
        setattr(downloader, "MAX_RETRIES", 4)  # noqa: B010
        tfds.builder(name, data_dir=str(root), file_format="array_record").download_and_prepare()
    except ImportError as error:
        raise UserError(
            f"data set {name!r} is not in {root}, and preparing it needs tensorflow-datasets and TensorFlow "
            f"({error}). {advice}"
        ) from error
    # Whatever a download can raise: HTTP, TLS, checksum, disk and TensorFlow errors have no common base.
    except Exception as error:
        for path in created:  # what was half-written
            shutil.rmtree(path, ignore_errors=True)
        raise UserError(
            f"data set {name!r} is not in {root} and could not be prepared ({type(error).__name__}: {first_line(error)}). "
            f"{advice}"
        ) from error
