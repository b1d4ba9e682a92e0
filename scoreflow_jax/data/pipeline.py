"""Batches of a source, in an order that depends on the seed and nothing else. The only module that imports grain.

The stages come in this order: source, seed, shuffle, repeat, slice for the process, batch, and at the end a slice from the
number of batches already consumed. So the stream of all processes together is the same for any number of them, each
epoch is shuffled by itself, and a run resumes with the very next image from one integer. (Grain's own iterator states do
not carry over a change of workers, so none is ever saved.)
"""

from collections.abc import Iterator
from typing import Any, cast

import grain

from scoreflow_jax.data.base import Examples, ImageSource
from scoreflow_jax.errors import UserError


def check_epoch_holds_batch(batch_size: int, num_images: int) -> None:
    """Refuses a batch that an epoch cannot fill.

    Raises:
        UserError: with both sizes.
    """
    if batch_size > num_images:
        raise UserError(
            f"batch_size {batch_size} is larger than the data set of {num_images} images: lower config.train.batch_size"
        )


def train_batches(
    source: ImageSource,
    batch_size: int,
    *,
    seed: int,
    consumed: int = 0,
    num_workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Examples]:
    """Yields this process's share of each shuffled global batch, for ever.

    Args:
        source: the training split.
        batch_size: of all processes together.
        seed: of the shuffle; each epoch has its own order.
        consumed: global batches already used, skipped without being read.
        num_workers: processes that read ahead; 0 reads in threads of this one, which is faster for data in memory.
        process_index, process_count: which share to read.

    Raises:
        UserError: a batch larger than the data set.
    """
    check_epoch_holds_batch(batch_size, len(source))
    dataset = grain.MapDataset.source(cast(Any, source)).seed(seed).shuffle().repeat()
    dataset = dataset[process_index::process_count]
    dataset = dataset.batch(batch_size // process_count)[consumed:]
    options = grain.ReadOptions(num_threads=0 if num_workers else 4, prefetch_buffer_size=512)
    batches = dataset.to_iter_dataset(options)
    if num_workers:
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))
    return iter(batches)
