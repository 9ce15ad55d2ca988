from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tiercel.errors import DataError
from tiercel.students.distillation import distillation_loss, reverse_kl
from tiercel.students.teacher_logprobs import LEAST_TAIL, PackedTopK, pack_top_k, top_k_of, unpack


def recorded(seed: int, lengths: list[int], v: int, k: int) -> tuple[list[torch.Tensor], PackedTopK]:
    rng = np.random.default_rng(seed)
    logits = [torch.tensor(rng.standard_normal((t, v)) * 3) for t in lengths]
    kept = [top_k_of(x, k) for x in logits]
    return logits, pack_top_k([x.ids.numpy() for x in kept], [x.logprobs.numpy() for x in kept], v)


def test_top_k_holds_the_likeliest_and_all_mass() -> None:
    logits = torch.tensor(np.random.default_rng(0).standard_normal((2, 3, 17)))
    kept, log_p = top_k_of(logits, 5), logits.log_softmax(-1)
    expected = np.sort(log_p.numpy(), -1)[..., ::-1]
    np.testing.assert_allclose(kept.logprobs.numpy(), expected[..., :5], rtol=1e-12)
    np.testing.assert_allclose(kept.tail.exp().numpy(), np.exp(expected[..., 5:]).sum(-1), rtol=1e-12)
    assert top_k_of(logits, 17).tail.eq(-math.inf).all()
    for k in (0, 18):
        with pytest.raises(ValueError, match="17"):
            top_k_of(logits, k)


@pytest.mark.parametrize(("v", "kind"), [(50, np.uint16), (65_536, np.uint16), (65_537, np.uint32)])
def test_packing_keeps_ids_exactly_and_probabilities_to_a_thousandth(v: int, kind: type) -> None:
    logits, packed = recorded(1, [4, 0, 7], v, 6)
    assert packed.ids.dtype == kind
    assert len(packed) == 3
    for row, x in enumerate(logits):
        back, exact = unpack(packed, row), top_k_of(x, 6)
        assert back.ids.tolist() == exact.ids.tolist()
        assert back.vocabulary == v
        np.testing.assert_allclose(back.logprobs.exp(), exact.logprobs.exp(), atol=1e-3)
        total = back.logprobs.exp().sum(1) + back.tail.exp()
        np.testing.assert_allclose(total, 1, atol=1e-6)


def test_a_loss_from_the_packed_record_is_that_of_the_exact_one() -> None:
    logits, packed = recorded(2, [40], 300, 20)
    student = torch.tensor(np.random.default_rng(3).standard_normal((40, 300)))
    mask = torch.ones(40, dtype=torch.bool)
    exact = distillation_loss(student, top_k_of(logits[0], 20), mask).item()
    assert distillation_loss(student, unpack(packed, 0), mask).item() == pytest.approx(exact, rel=2e-3)
    itself = distillation_loss(logits[0], unpack(packed, 0), mask).item()
    assert 0 <= itself < 1e-6


def test_size_is_as_promised() -> None:
    _, packed = recorded(4, [50], 40_000, 20)
    assert packed.size_bytes == 50 * (20 * 4 + 2) + 2 * 8


def test_a_record_in_any_order_with_fewer_tokens_at_some_places() -> None:
    ids = np.array([[7, 3, 5], [2, 9, 9]])
    logprobs = np.log(
        np.array([[0.1, 0.6, 0.2], [0.8, 0.0, 0.0]]),
        where=np.array([[1, 1, 1], [1, 0, 0]], bool),
        out=np.full((2, 3), -np.inf),
    )
    back = unpack(pack_top_k([ids], [logprobs], 10), 0)
    assert back.ids[0].tolist() == [3, 5, 7]
    np.testing.assert_allclose(back.logprobs[0].exp(), [0.6, 0.2, 0.1], atol=1e-3)
    np.testing.assert_allclose(back.tail.exp(), [0.1, 0.2], atol=1e-3)
    assert back.logprobs[1, 1:].eq(-math.inf).all()


def test_a_teacher_that_reports_certainty_leaves_a_finite_reverse_divergence() -> None:
    packed = pack_top_k([np.array([[4]])], [np.array([[0.0]])], 10)
    back = unpack(packed, 0)
    assert back.tail.exp().item() == pytest.approx(LEAST_TAIL, rel=0.01)
    loss = distillation_loss(torch.zeros(1, 10), back, torch.tensor([True]), divergence=reverse_kl)
    assert math.isfinite(loss.item())
    whole = pack_top_k([np.array([[1, 0]])], [np.log([[0.25, 0.75]])], 2)
    assert unpack(whole, 0).tail.tolist() == [-math.inf]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=4), st.integers(1, 6), st.integers(0, 99))
def test_saving_and_loading_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], k: int, seed: int
) -> None:
    path = tmp_path_factory.mktemp("record") / "teacher.npz"
    _, packed = recorded(seed, lengths, 9, k)
    packed.save(path)
    assert [p.name for p in path.parent.iterdir()] == ["teacher.npz"]
    back = PackedTopK.load(path)
    assert back.vocabulary == packed.vocabulary
    for name in ("ids", "logprobs", "tail", "starts"):
        np.testing.assert_array_equal(getattr(back, name), getattr(packed, name))
        assert getattr(back, name).dtype == getattr(packed, name).dtype


def test_files_that_are_no_records(tmp_path: Path) -> None:
    path = tmp_path / "teacher.npz"
    with pytest.raises(DataError, match="No such file"):
        PackedTopK.load(path)
    path.write_bytes(b"not a record")
    with pytest.raises(DataError, match="whole record"):
        PackedTopK.load(path)
    _, packed = recorded(5, [3, 2], 9, 4)
    packed.save(path)
    whole = path.read_bytes()
    for end in range(0, len(whole), 37):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError):
            PackedTopK.load(path)
    fields = {n: getattr(packed, n) for n in ("ids", "logprobs", "tail", "starts")}
    for change, said in (
        ({"head": np.array([2, 9])}, "format 2"),
        ({"head": np.array([1, 3])}, "vocabulary of 3"),
        ({"tail": packed.tail[:-1]}, "do not belong together"),
        ({"starts": np.array([0, 4, 3])}, "starts"),
        ({"logprobs": packed.logprobs * np.float16("nan")}, "not numbers"),
    ):
        np.savez(path, **{"head": np.array([1, 9]), **fields, **change})
        with pytest.raises(DataError, match=said):
            PackedTopK.load(path)


@pytest.mark.parametrize(
    ("ids", "logprobs", "said"),
    [
        ([[1, 2]], [[-1.0, math.nan]], "not a number"),
        ([[1, 2]], [[-math.inf, -math.inf]], "no token"),
        ([[1, 10]], [[-1.0, -2.0]], "vocabulary of 10"),
        ([[1, 1]], [[-1.0, -2.0]], "one id twice"),
        ([[1, 2]], [[-0.1, -0.2]], "sum to more than 1"),
    ],
)
def test_a_bad_record_is_refused_with_its_token(ids: list[list[int]], logprobs: list[list[float]], said: str) -> None:
    good_ids, good = np.array([[3, 4]]), np.array([[-1.0, -2.0]])
    with pytest.raises(DataError, match=f"token 1 .*{said}"):
        pack_top_k([good_ids, np.array(ids)], [good, np.array(logprobs)], 10)


def test_shapes_that_do_not_fit_are_refused() -> None:
    one = np.array([[3, 4]])
    with pytest.raises(DataError, match="1 answers"):
        pack_top_k([one], [], 10)
    with pytest.raises(DataError, match="same k"):
        pack_top_k([one, one[:, :1]], [-one - 1.0, -one[:, :1] - 1.0], 10)
    assert len(pack_top_k([], [], 10)) == 0
