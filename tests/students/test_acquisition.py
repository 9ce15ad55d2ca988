from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiercel.students.acquisition import choose, cluster, coverage, density, entropy, k_center, margin, unit_rows


def blobs(sizes: list[int], *, width: int = 16, spread: float = 0.05, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows around far-apart centres, and the centre of each."""
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.normal(size=(width, width)))[0][: len(sizes)]
    member = np.repeat(np.arange(len(sizes)), sizes)
    rows = centres[member] + spread * rng.normal(size=(len(member), width))
    return unit_rows(rows), member


class TestUncertainty:
    P = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.4, 0.35, 0.25], [1 / 3, 1 / 3, 1 / 3]])

    def test_margin(self) -> None:
        assert margin(self.P) == pytest.approx([0.0, 1.0, 0.95, 1.0])

    def test_entropy(self) -> None:
        wanted = [0.0, np.log(2) / np.log(3), -sum(p * np.log(p) for p in self.P[2]) / np.log(3), 1.0]
        assert entropy(self.P) == pytest.approx(wanted, abs=1e-6)

    @pytest.mark.parametrize("measure", [margin, entropy])
    def test_one_label_is_certain(self, measure: object) -> None:
        assert measure(np.ones((3, 1))).tolist() == [0.0, 0.0, 0.0]  # type: ignore[operator]


class TestGeometry:
    def test_clusters_are_found(self) -> None:
        rows, member = blobs([40, 30, 20, 10])
        found, similar = cluster(rows, 4, seed=1)
        assert len({(a, b) for a, b in zip(found, member, strict=True)}) == 4
        assert similar.min() > 0.9

    def test_equal_rows_make_one_cluster(self) -> None:
        found, _ = cluster(unit_rows(np.ones((10, 3))), 4)
        assert set(found.tolist()) == {0}

    def test_density_is_the_mean_similarity_of_the_neighbours(self) -> None:
        rows, _ = blobs([30, 30])
        similar = rows @ rows.T
        np.fill_diagonal(similar, -np.inf)
        wanted = np.sort(similar, axis=1)[:, -5:].mean(axis=1)
        assert density(rows, neighbours=5) == pytest.approx(wanted, abs=1e-5)

    def test_density_of_a_large_pool_is_told_from_a_sample(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rows, _ = blobs([300, 300], spread=0.3)
        whole = density(rows, neighbours=60)
        monkeypatch.setattr("tiercel.students.acquisition.REFERENCE", 200)
        monkeypatch.setattr("tiercel.students.acquisition._sample.__defaults__", (200,))
        part = density(rows, neighbours=60)
        assert np.corrcoef(whole, part)[0, 1] > 0.9

    def test_coverage(self) -> None:
        rows, _ = blobs([5, 5])
        assert coverage(rows, np.array([], dtype=np.int64)).tolist() == [-1.0] * 10
        near = coverage(rows, np.array([0]))
        assert near[:5].min() > 0.7
        assert near[5:].max() < 0.3

    def test_k_center_goes_where_nothing_is_near(self) -> None:
        rows, member = blobs([50, 50, 50, 50])
        assert set(member[k_center(rows, 4, seed=3)]) == {0, 1, 2, 3}
        labelled = np.flatnonzero(member < 2)
        assert set(member[k_center(rows, 2, labelled=labelled)]) == {2, 3}


class TestChoice:
    def test_the_start_takes_one_typical_row_of_each_cluster(self) -> None:
        rows, member = blobs([100, 60, 30, 10])
        chosen = choose(rows, 4)
        assert sorted(member[chosen]) == [0, 1, 2, 3]
        dense = density(rows, neighbours=5)
        for row in chosen:
            assert (dense[member == member[row]] <= dense[row]).mean() > 0.5

    def test_without_a_student_it_goes_where_nothing_is_labelled(self) -> None:
        rows, member = blobs([100, 60, 30, 10])
        labelled = np.flatnonzero(member == 0)[:1]
        found = member[choose(rows, 3, labelled=labelled, seed=2)]
        assert 0 not in found
        assert 1 in found, "the largest cluster without a label comes first"

    def test_with_a_student_it_goes_where_that_is_unsure(self) -> None:
        rows, member = blobs([500] * 4, spread=0.15)
        unsure = np.where(member == 2, 0.9, 0.1)
        assert set(member[choose(rows, 10, uncertainty=unsure)]) == {2}

    def test_near_duplicates_are_not_chosen_together(self) -> None:
        rows, member = blobs([20] * 5, spread=1e-4)
        unsure = 0.5 + 0.01 * member
        chosen = choose(rows, 5, uncertainty=unsure)
        assert sorted(member[chosen]) == [0, 1, 2, 3, 4], "the five least certain rows are all of one cluster"
        assert set(member[np.argsort(-unsure)[:5]]) == {4}

    def test_it_beats_chance_where_classes_are_unequal(self) -> None:
        rows, member = blobs([400, 400, 100, 50, 20, 10, 5, 5], width=24, spread=0.12)
        chosen = [len(set(member[choose(rows, 16, seed=s)])) for s in range(5)]
        chance = [len(set(member[np.random.default_rng(s).permutation(len(rows))[:16]])) for s in range(5)]
        assert np.mean(chosen) >= 6.5
        assert np.mean(chosen) > np.mean(chance) + 1.5

    @settings(max_examples=60, deadline=None)
    @given(
        st.integers(1, 40), st.integers(0, 50), st.integers(0, 40), st.booleans(), st.integers(1, 4), st.integers(0, 5)
    )
    def test_always_as_many_new_rows_as_there_are(
        self, n: int, count: int, labelled: int, student: bool, distinct: int, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        rows = rng.normal(size=(distinct, 3))[rng.integers(distinct, size=n)]
        known = rng.permutation(n)[:labelled]
        unsure = rng.random(n) * (seed % 2) if student else None
        chosen = choose(rows, count, labelled=known, uncertainty=unsure, seed=seed)
        assert len(set(chosen.tolist())) == len(chosen) == min(count, n - len(known))
        assert not set(chosen.tolist()) & set(known.tolist())
        assert choose(rows, count, labelled=known, uncertainty=unsure, seed=seed).tolist() == chosen.tolist()

    def test_what_can_not_be(self) -> None:
        with pytest.raises(ValueError, match="count"):
            choose(np.ones((3, 2)), -1)
        with pytest.raises(ValueError, match="one number for each row"):
            choose(np.ones((3, 2)), 1, uncertainty=np.ones(2))
