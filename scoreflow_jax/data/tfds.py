"""Image data sets of tensorflow-datasets, read at random from array_record files, for which TensorFlow is not needed.

Preparing a data set for the first time (download, unpack, write array_record) does need TensorFlow and the network.
"""

import os
import pathlib
import shutil
from typing import Any

import numpy as np
from jaxtyping import Int32

from scoreflow_jax.data.base import DataSource, DataSpec, Example
from scoreflow_jax.data.obtain import how_to_get
from scoreflow_jax.data.pictures import FILTER, framed
from scoreflow_jax.errors import UserError, first_line
from scoreflow_jax.settings.data import DataSettings
from scoreflow_jax.user_paths import user_path


class TfdsImages(DataSource):
    """One split of an image data set of tensorflow-datasets.

    Attributes:
        directory: where its files lie.
    """

    def __init__(self, split: str, settings: DataSettings) -> None:
        """Opens the data set, and prepares it first where it is not there.

        Args:
            split: "train" or "test".
            settings: of `config.data`: name, as tensorflow-datasets calls the data set, such as "cifar10" or "celeb_a_hq/256";
                train_split and test_split, its names of the splits, such as "validation" or "train[:90%]"; path, the folder of
                all data sets, by default $TFDS_DATA_DIR, else ~/tensorflow_datasets; label, the feature that holds the class, by
                default "label" where there is one; shape and framing, to which images of other sizes are brought.

        Raises:
            UserError: the data set is not there and cannot be prepared, or has no such split, image or label.
        """
        name, split = settings.name, settings.split_name(split)
        root = user_path(settings.path or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
        builder = _open(name, root)
        self.directory = str(builder.data_path)
        features: Any = builder.info.features
        if "image" not in features:
            raise UserError(f"{name} has features {', '.join(features)}; expected an image among them")
        self._label = _label_path(name, features, settings.label)
        self.class_names = _class_names(features, self._label)
        height, width, channels = settings.shape
        classes = len(self.class_names)
        self.spec = DataSpec(shape=(height, width, channels), num_classes=classes if classes > 1 else 0)
        self._framing = settings.framing
        self._source = _open_split(builder, name, split)
        self._undecoded = builder, split
        self.labels_at_hand = False
        self.facts = {"kind": f"tensorflow-datasets {builder.info.full_name}", "split": split}
        encoding = getattr(getattr(features["image"], "_image_encoder", None), "encoding_format", None)
        if encoding in ("jpeg", "png"):  # None: as the files were that it was prepared from
            self.facts["jpeg"] = float(encoding == "jpeg")
        if tuple(features["image"].shape) != settings.shape:
            self.facts.update(filter=FILTER, framing=settings.framing)

    def __len__(self) -> int:
        """The number of images."""
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        """One decoded image."""
        example = self._source[int(index)]
        image = framed(np.asarray(example["image"], np.uint8), self.spec.shape, self._framing)
        return {"image": image, "label": self._label_of(example)}

    def labels(self) -> Int32[np.ndarray, " examples"]:
        """All labels, without decoding an image."""
        import tensorflow_datasets as tfds

        if not self.spec.num_classes:
            return np.zeros(len(self), np.int32)
        builder, split = self._undecoded
        undecoded = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
        return np.asarray([self._label_of(example) for example in undecoded], np.int32)

    def _label_of(self, example: Any) -> np.int32:
        for part in self._label.split("/") if self._label else ():
            example = example[part]
        return np.int32(example) if self._label else np.int32(0)


def _open_split(builder: Any, name: str, split: str) -> Any:
    try:
        source = builder.as_data_source(split=split)
        if len(source):
            return source
        why = "it is empty"
    except Exception as error:  # whatever its parser of splits runs into
        why = first_line(error)
    raise UserError(
        f"{name} has no split {split!r} ({why}), expected one of {', '.join(builder.info.splits)}, or a part such as "
        "'train[:90%]'"
    )


def _label_path(name: str, features: Any, label: str | None) -> str:
    """The feature that holds the class; empty where there is none.

    Raises:
        UserError: there is no such feature, or it is not a class or a truth value.
    """
    if label is None:
        return "label" if "label" in features else ""
    feature = features
    for part in label.split("/"):
        if not hasattr(feature, "keys") or part not in feature:
            names = ", ".join(sorted(feature)) if hasattr(feature, "keys") else "none below it"
            raise UserError(f"{name} has no feature {label!r} (config.data.label), expected one of {names}")
        feature = feature[part]
    return label


def _class_names(features: Any, label: str) -> tuple[str, ...]:
    if not label:
        return ()
    for part in label.split("/"):
        features = features[part]
    if hasattr(features, "names"):
        return tuple(features.names)
    if np.dtype(features.np_dtype) == bool:
        attribute = label.rsplit("/", 1)[-1]
        return (f"not {attribute}", attribute)
    raise UserError(f"the feature {label!r} (config.data.label) is {features}, expected a class or a truth value")


def _open(name: str, root: pathlib.Path) -> Any:
    """A read-only builder of the newest prepared version, preparing one where there is none."""
    prepared = _prepared_versions(root / name)
    if not prepared:
        prepared = [_prepare(name, root)]
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


def _prepare(name: str, root: pathlib.Path) -> pathlib.Path:
    """Downloads and writes a data set as array_record files; returns where they are.

    Raises:
        UserError: whatever stopped it, in one line.
    """
    print(f"preparing {name} in {root} (once)", flush=True)
    advice = (
        f"Prepare it on a machine with network and TensorFlow by tfds.builder({name!r}, file_format='array_record')"
        f".download_and_prepare(), copy the folder here and set TFDS_DATA_DIR or config.data.path to its "
        f"parent.{how_to_get(name)}"
    )
    created = [path for path in (root / name.split("/")[0], root / "downloads") if not path.exists()]
    try:
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.download import downloader

        # tfds retries for three and a half minutes where there is no network at all; so it is a few seconds.
        setattr(downloader, "MAX_RETRIES", 4)  # noqa: B010
        builder = tfds.builder(name, data_dir=str(root), file_format="array_record")
        builder.download_and_prepare()
    except ImportError as error:
        raise UserError(
            f"data set {name!r} is not in {root}, and preparing it needs tensorflow-datasets and TensorFlow "
            f"({error}). {advice}"
        ) from error
    # Whatever a download can raise: HTTP, TLS, checksum, disk and TensorFlow errors have no common base.
    except Exception as error:
        for path in created:  # what was half-written
            shutil.rmtree(path, ignore_errors=True)
        if type(error).__name__ == "DatasetNotFoundError":
            raise UserError(
                f"tensorflow-datasets knows no data set {name!r}: expected a name of its catalog as config.data.name, such as "
                "cifar10 or celeb_a"
            ) from error
        raise UserError(
            f"data set {name!r} is not in {root} and could not be prepared ({type(error).__name__}: {first_line(error)}). "
            f"{advice}"
        ) from error
    return pathlib.Path(builder.data_path)
