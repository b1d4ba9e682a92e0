"""Which example stands at which place of the endless training stream: a function of the seed and the place alone.

The stream never depends on the number of processes, workers or the batch size, and to resume at a place nothing has to be read
before it. Natural: an epoch is every example once, in an order of its own. Balanced: places go round the classes, and each class
is a natural stream of its own members.
"""

import numpy as np
from jaxtyping import Int, Int32

Places = Int[np.ndarray, " places"]


class Order:
    """Maps places in the stream to indices of examples.

    Keeps the last epochs' permutations: 8 bytes an example each.
    """

    def __init__(self, size: int, seed: int, labels: Int32[np.ndarray, " examples"] | None = None) -> None:
        """States the stream.

        Args:
            size: number of examples, at least 1.
            seed: of the shuffles.
            labels: of all examples, for a balanced stream; None for a natural one.
        """
        members = [None] if labels is None else [np.flatnonzero(labels == c) for c in np.unique(labels)]
        sizes = [size] if labels is None else [len(m) for m in members if m is not None]
        self._members = members
        self._streams = [_Shuffled(n, (seed, stream)) for stream, n in enumerate(sizes)]

    def __call__(self, places: Places) -> Places:
        """Indices of the examples at these places."""
        count = len(self._streams)
        if count == 1:
            found = self._streams[0](places)
            return found if self._members[0] is None else self._members[0][found]
        indices = np.empty_like(places)
        for stream, members in enumerate(self._members):
            here = places % count == stream
            assert members is not None
            indices[here] = members[self._streams[stream](places[here] // count)]
        return indices


class _Shuffled:
    """Every number below `size` once an epoch, each epoch in an order of its own."""

    def __init__(self, size: int, seed: tuple[int, ...]) -> None:
        self._size, self._seed = size, seed
        self._epochs: dict[int, np.ndarray] = {}

    def __call__(self, places: Places) -> Places:
        epochs, offsets = np.divmod(places, self._size)
        found = np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            found[here] = self._permutation(epoch)[offsets[here]]
        return found

    def _permutation(self, epoch: int) -> np.ndarray:
        known = self._epochs
        if epoch not in known:
            # Two are enough: a batch may straddle an epoch's end. The dict is replaced, not changed: threads share it.
            kept = {e: p for e, p in list(known.items())[-1:]}
            order = np.random.default_rng((*self._seed, epoch)).permutation(self._size)
            self._epochs = known = {**kept, epoch: order}
        return known[epoch]
