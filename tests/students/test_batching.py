from __future__ import annotations

import numpy as np

from tiercel.students.batching import batches_by_length

LENGTHS = np.random.default_rng(0).integers(1, 200, 3_000).tolist()


def test_each_row_comes_once_and_a_seed_gives_its_order_again() -> None:
    found = list(batches_by_length(LENGTHS, 32, seed=1))
    assert sorted(i for batch in found for i in batch) == list(range(len(LENGTHS)))
    assert found == list(batches_by_length(LENGTHS, 32, seed=1))
    assert found != list(batches_by_length(LENGTHS, 32, seed=2))


def test_rows_of_a_batch_are_about_as_long() -> None:
    def padding(batches: list[list[int]]) -> int:
        return sum(max(LENGTHS[i] for i in batch) * len(batch) for batch in batches) - sum(LENGTHS)

    found = list(batches_by_length(LENGTHS, 32, seed=1))
    in_order = [list(range(i, min(i + 32, len(LENGTHS)))) for i in range(0, len(LENGTHS), 32)]
    assert padding(found) < 0.1 * padding(in_order)
    # Not from short to long: a model that sees all short rows first learns them first.
    lengths = [LENGTHS[batch[0]] for batch in found]
    assert abs(np.corrcoef(lengths, range(len(lengths)))[0, 1]) < 0.3
