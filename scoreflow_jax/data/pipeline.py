"""Batches of a source, in an order that depends on the seed and nothing else. The only module that knows grain.

Grain is given batches, not examples: element n of its data set is batch n, whose examples `order.py` names and the source reads
in one call. (Grain's own shuffle and batch go example by example through Python: a ninth of the rate on small images,
docs/performance.md.) It reads ahead, in threads or in processes, and keeps the order. A run resumes with the very next image
from one integer, the number of batches consumed: grain's iterator states do not carry over a change of workers, so none is
ever saved. Where grain is not installed, a thread of our own reads the same batches ahead.
"""

import collections
import importlib.util
import itertools
import os
import signal
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from absl import flags
from jaxtyping import Int

from scoreflow_jax.data.base import DataSource, Examples
from scoreflow_jax.data.order import Order
from scoreflow_jax.errors import UserError

_THREADS = min(8, os.cpu_count() or 4)
Rows = Int[np.ndarray, " rows"]

_AHEAD = 4  # batches read ahead of the one asked for, in each process


def check_epoch_holds_batch(batch_size: int, num_images: int) -> None:
    """Refuses a batch that an epoch cannot fill.

    Raises:
        UserError: with both sizes.
    """
    if batch_size > num_images:
        raise UserError(
            f"batch_size {batch_size} is larger than the data set of {num_images} images: lower config.train.batch_size"
        )


def check_workers(num_workers: int) -> None:
    """Refuses worker processes where grain, which runs them, is missing.

    Raises:
        UserError: with what to set.
    """
    if num_workers and not _has_grain():
        raise UserError(
            f"config.train.num_workers is {num_workers}, but grain, which runs these processes, is not installed: set it to 0 "
            "for a thread, or pip install grain"
        )


def _has_grain() -> bool:
    return importlib.util.find_spec("grain") is not None


class _Batches:
    """This process's share of each global batch, by the batch's number: a source as grain wants it."""

    def __init__(self, source: DataSource, order: Order, batch_size: int, rows: Rows, first: int) -> None:
        self._source, self._order, self._batch_size = source, order, batch_size
        self._rows, self._first = rows, first

    def __len__(self) -> int:
        return 2**40  # training says when to stop

    def __getitem__(self, number: int) -> Examples:
        return self._source.read(self._order((self._first + number) * self._batch_size + self._rows))


def batch_indices(source: DataSource, batch_size: int, number: int, *, seed: int, balanced: bool = False) -> Rows:
    """Returns the indices of the examples of one global batch of `train_batches`, counted from 0.

    Args:
        source: the data.
        batch_size: of all processes together.
        number: of the batch, from 0.
        seed: of the shuffle.
        balanced: whether each class is drawn equally often.
    """
    order = Order(len(source), seed, source.labels() if balanced else None)
    return order(number * batch_size + np.arange(batch_size))


def train_batches(
    source: DataSource,
    batch_size: int,
    *,
    seed: int,
    consumed: int = 0,
    balanced: bool = False,
    num_workers: int = 0,
    rows: Rows | None = None,
) -> Iterator[Examples]:
    """Yields this process's share of each shuffled global batch, for ever.

    Args:
        source: the training split.
        batch_size: of all processes together.
        seed: of the shuffle; each epoch has its own order.
        consumed: global batches already used, skipped without being read.
        balanced: draw each class equally often.
        num_workers: processes that read ahead; 0 reads in threads of this one, which is faster for packed data.
        rows: of each global batch, those to read: this process's share; None for all.

    Raises:
        UserError: a batch larger than the data set, or workers without grain.
    """
    check_workers(num_workers)
    check_epoch_holds_batch(batch_size, len(source))
    order = Order(len(source), seed, source.labels() if balanced else None)
    batches: Any = _Batches(source, order, batch_size, np.arange(batch_size) if rows is None else rows, consumed)
    return _by_grain(batches, num_workers) if _has_grain() else _by_thread(batches)


def _by_grain(batches: Any, num_workers: int) -> Iterator[Examples]:
    """Batch after batch, read ahead by grain."""
    import grain

    # In a worker process one thread is enough; so is it to keep one order of reading there.
    options = grain.ReadOptions(num_threads=1 if num_workers else _THREADS, prefetch_buffer_size=_AHEAD)
    dataset = grain.MapDataset.source(batches).to_iter_dataset(options)
    if num_workers:
        if not flags.FLAGS.is_parsed():  # outside absl's app.run, where grain's workers would refuse to start
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=num_workers)
        dataset = dataset.mp_prefetch(options, worker_init_fn=_ignore_signals)
    return iter(dataset)


def _ignore_signals(worker: int, count: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach a whole group of processes: workers read on, and the training process ends them."""
    del worker, count
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)


def _by_thread(batches: _Batches) -> Generator[Examples, None, None]:
    """Batch after batch, read ahead by one thread; what it raises is raised here, and closing waits for its last batch."""
    pool = ThreadPoolExecutor(1, "batches")
    try:
        ahead = collections.deque(pool.submit(batches.__getitem__, number) for number in range(_AHEAD))
        for number in itertools.count(_AHEAD):
            batch = ahead.popleft().result()
            ahead.append(pool.submit(batches.__getitem__, number))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)
