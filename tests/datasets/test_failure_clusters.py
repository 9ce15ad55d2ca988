from __future__ import annotations

import itertools

import numpy as np
import pytest

from tiercel.datasets import failure_clusters as module
from tiercel.datasets.failure_clusters import distinguishing_words, failure_clusters
from tiercel.errors import ConfigurationError, DataError

TOPICS = {
    "exchange": (
        ["what is the exchange rate of", "convert", "how much is a euro in"],
        ["dollars", "yen", "pounds", "zloty"],
    ),
    "alarm": (["set an alarm for", "wake me up at", "i need an alarm at"], ["six", "noon", "eight tomorrow", "seven"]),
    "music": (
        ["play some songs by", "put on an album of", "i want to hear songs of"],
        ["queen", "bach", "abba", "prince"],
    ),
}
TEXTS, TOPIC = [], []
for name, (starts, ends) in TOPICS.items():
    for start, end, last in itertools.product(starts, ends, ("please", "now", "")):
        TEXTS.append(f"{start} {end} {last}".strip())
        TOPIC.append(name)
TOPIC = np.array(TOPIC)


def losses(*failing: str, share: float = 1.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (np.isin(TOPIC, failing) & (rng.random(len(TEXTS)) < share)).astype(float)


def test_topics_that_fail_become_clusters_with_their_words() -> None:
    report = failure_clusters(TEXTS, losses("exchange", "alarm"), most_distance=0.9)
    assert report.failures == 72
    assert report.rows == 108
    told = {frozenset(TOPIC[list(c.rows)]) for c in report.clusters}
    assert told <= {frozenset(["exchange"]), frozenset(["alarm"])}
    assert len(told) == 2
    assert sum(c.size for c in report.clusters) + len(report.scattered) == 72
    alarm = next(c for c in report.clusters if TOPIC[c.rows[0]] == "alarm")
    assert "alarm" in {w for c in report.clusters if TOPIC[c.rows[0]] == "alarm" for w in c.words}
    assert not {"exchange", "euro", "songs"} & set(alarm.words)


def test_shares_add_up_and_representatives_are_members() -> None:
    hurt = losses("exchange", share=0.7) + 0.3 * losses("music")
    report = failure_clusters(TEXTS, hurt, least_size=2)
    assert report.total_loss == pytest.approx(hurt.sum())
    inside = sum(c.share_of_loss for c in report.clusters)
    scattered = hurt[list(report.scattered)].sum() / hurt.sum()
    music = 0.3 * 36 / hurt.sum()
    assert inside + scattered + music == pytest.approx(1)
    for cluster in report.clusters:
        assert set(cluster.representatives) <= set(cluster.rows)
        assert len(set(cluster.representatives)) == min(3, cluster.size)
        assert cluster.rows == tuple(sorted(cluster.rows))
        assert cluster.mean_loss == 1
    shares = [c.share_of_loss for c in report.clusters]
    assert shares == sorted(shares, reverse=True)


def test_embeddings_are_used_where_they_are_given() -> None:
    rng = np.random.default_rng(3)
    centres = {name: rng.standard_normal(16) * 4 for name in TOPICS}
    embeddings = np.array([centres[t] + rng.standard_normal(16) for t in TOPIC])
    report = failure_clusters(TEXTS, losses("alarm", "music", share=0.6), embeddings)
    assert len(report.clusters) == 2
    assert not report.scattered
    for cluster in report.clusters:
        assert len(set(TOPIC[list(cluster.rows)])) == 1
        inside = list(cluster.rows)
        unit = embeddings[inside] / np.linalg.norm(embeddings[inside], axis=1, keepdims=True)
        central = np.argsort(-(unit @ unit.sum(0)))[:3]
        assert set(cluster.representatives) == {inside[i] for i in central}


def test_the_same_input_gives_the_same_report_and_the_order_of_rows_does_not_matter() -> None:
    hurt = losses("exchange", "music", share=0.8)
    report = failure_clusters(TEXTS, hurt)
    assert report == failure_clusters(TEXTS, hurt)
    order = np.random.default_rng(4).permutation(len(TEXTS))
    mixed = failure_clusters([TEXTS[i] for i in order], hurt[order])
    back = {frozenset(int(order[r]) for r in c.rows) for c in mixed.clusters}
    assert back == {frozenset(c.rows) for c in report.clusters}


def test_more_failures_than_are_compared_join_the_clusters_of_the_worst(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    centres = {name: rng.standard_normal(16) * 4 for name in TOPICS}
    embeddings = np.array([centres[t] + rng.standard_normal(16) for t in TOPIC])
    hurt = np.where(np.isin(TOPIC, ("alarm", "music")), rng.uniform(0.5, 1, len(TEXTS)), 0.0)
    whole = failure_clusters(TEXTS, hurt, embeddings)
    monkeypatch.setattr(module, "MOST_COMPARED", 15)
    few = failure_clusters(TEXTS, hurt, embeddings)
    assert {c.rows for c in few.clusters} == {c.rows for c in whole.clusters}
    for wanted in (None, embeddings):
        monkeypatch.setattr(module, "MOST_COMPARED", 7)
        some = failure_clusters(TEXTS, hurt, wanted)
        assert sum(c.size for c in some.clusters) + len(some.scattered) == some.failures == 72


def test_few_failures() -> None:
    assert failure_clusters(TEXTS, np.zeros(len(TEXTS))).clusters == ()
    assert failure_clusters([], np.zeros(0)).rows == 0
    one = np.zeros(len(TEXTS))
    one[7] = 1
    report = failure_clusters(TEXTS, one)
    assert (report.clusters, report.scattered) == ((), (7,))
    alone = failure_clusters(TEXTS, one, least_size=1).clusters[0]
    assert (alone.rows, alone.share_of_loss, alone.representatives, alone.words) == ((7,), 1.0, (7,), ())
    silent = failure_clusters(["", "?", "!", "..."], np.ones(4))
    assert silent.failures == 4


def test_telling_words_are_frequent_here_and_rare_elsewhere() -> None:
    words = distinguishing_words(TEXTS, np.flatnonzero(TOPIC == "music"))
    assert words[0] == "songs"
    assert not {"please", "now", "alarm"} & set(words)
    assert len(distinguishing_words(TEXTS, np.flatnonzero(TOPIC == "music"), most=2)) == 2
    assert distinguishing_words(TEXTS, np.arange(len(TEXTS))) == []
    assert distinguishing_words(["a a", "a"], np.array([0, 1])) == []


def test_bad_input_is_refused() -> None:
    with pytest.raises(DataError, match="108 texts"):
        failure_clusters(TEXTS, np.zeros(3))
    with pytest.raises(DataError, match="embeddings"):
        failure_clusters(TEXTS, np.zeros(108), np.zeros((3, 4)))
    with pytest.raises(DataError, match="finite"):
        failure_clusters(TEXTS, np.full(108, np.nan))
    with pytest.raises(ConfigurationError, match="above 0"):
        failure_clusters(TEXTS, np.zeros(108), least_loss=0.0)
