"""CIFAR-10 in small: the official binary files with few random images, prepared by the real builder without a network."""

import pathlib
import tempfile
from unittest import mock

import numpy as np

NUM_TRAIN, NUM_TEST = 80, 40
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def images_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """All images, train before test, and their labels, each class in turn."""
    images = np.random.default_rng(0).integers(0, 256, (NUM_TRAIN + NUM_TEST, 32, 32, 3), np.uint8)
    return images, (np.arange(len(images)) % 10).astype(np.uint8)


def prepare(
    root: pathlib.Path, data: tuple[np.ndarray, np.ndarray] | None = None, num_train: int = NUM_TRAIN
) -> pathlib.Path:
    """Writes the official layout and has tensorflow-datasets make array_record files of it under `root`."""
    import tensorflow_datasets as tfds

    images, labels = images_and_labels() if data is None else data
    rows = np.concatenate([labels[:, None], images.transpose(0, 3, 1, 2).reshape(len(images), -1)], axis=1)
    parts = [*np.split(rows[:num_train], 5), rows[num_train:]]
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    with tempfile.TemporaryDirectory() as folder:
        base = pathlib.Path(folder) / "cifar-10-batches-bin"
        base.mkdir()
        for name, part in zip(names, parts, strict=True):
            (base / name).write_bytes(part.tobytes())
        (base / "batches.meta.txt").write_text("\n".join(CLASSES) + "\n")
        fetch = mock.patch.object(tfds.download.DownloadManager, "download_and_extract", return_value=folder)
        with fetch:
            tfds.builder("cifar10", data_dir=str(root), file_format="array_record").download_and_prepare()
    return root
