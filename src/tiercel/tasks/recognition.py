"""Which task a workload is, told from a sample of its answers."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

from tiercel.tasks.labels import LabelSet, label_key, split_labels
from tiercel.types import Answer

__all__ = ["Recognised", "closed_set", "recognise"]

MOST_LABELS = 2_000
LONGEST_LABEL = 120
"""Characters."""


class Recognised(Struct, frozen=True, kw_only=True):
    """What the answers of a workload look like."""

    task: str
    labels: LabelSet | None = None
    """For classification."""
    shape: str = ""
    """The form of the answers in a few words, for people."""
    share: float = 1.0
    """Share of the answers that have this form; far below 1 means that two tasks are mixed."""


def recognise(answers: Sequence[Answer]) -> Recognised:
    """The task that `answers` belong to.

    In order: tool calls, a closed set of labels, JSON, SQL, free text. A form counts when most answers have it.
    """
    if not answers:
        return Recognised(task="generation", shape="no answers", share=0.0)
    n = len(answers)
    texts = [a.text for a in answers]
    calling = sum(bool(a.tool_calls) for a in answers) / n
    if calling >= 0.5:
        names = {call.function.name for a in answers for call in a.tool_calls}
        return Recognised(task="function_calling", shape=f"calls of {len(names)} functions", share=calling)
    found = closed_set(texts)
    if found is not None:
        share = sum(found.parse(t) is not None for t in texts) / n
        kind = "several labels of" if found.multi else "one label of"
        return Recognised(task="classification", labels=found, shape=f"{kind} {len(found.labels)}", share=share)
    shares = {
        "extraction": sum(map(_is_json, texts)) / n,
        "sql": sum(bool(re.match(r"\s*(```(sql)?\s*)?(select|with)\s", t, re.IGNORECASE)) for t in texts) / n,
    }
    task = max(shares, key=lambda name: shares[name])
    if shares[task] >= 0.5:
        return Recognised(task=task, shape="JSON" if task == "extraction" else "SQL", share=shares[task])
    words = sorted(len(t.split()) for t in texts)
    return Recognised(task="generation", shape=f"text of about {words[n // 2]} words", share=1 - max(shares.values()))


def _is_json(text: str) -> bool:
    text = re.sub(r"^\s*```(?:json)?\s*|\s*```\s*$", "", text)
    if text[:1] not in ("{", "["):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def closed_set(texts: Sequence[str], *, force: bool = False) -> LabelSet | None:
    """The labels that the answers are drawn from, or None when they are not drawn from a closed set.

    Args:
        texts: answers.
        force: take the answers for labels whatever they look like (the user said that the task is classification).
    """
    single = Counter(map(label_key, texts))
    several = _several(texts, single)
    if several is not None:
        return several
    frequent = {k: c for k, c in single.items() if c > 1 and len(k) <= LONGEST_LABEL}
    covered = sum(frequent.values()) / len(texts)
    closed = covered >= 0.8 and len(frequent) <= min(MOST_LABELS, max(2, len(texts) / 3))
    if not (closed or force):
        return None
    longest = max(map(len, frequent), default=LONGEST_LABEL)
    # A label seen once is a label if it looks like one; a sentence among labels is an answer that did not parse.
    keys = [k for k, c in single.most_common() if k and (c > 1 or len(k) <= longest * 1.5) and len(k) <= LONGEST_LABEL]
    return LabelSet(labels=_as_written(keys[:MOST_LABELS], texts))


def _several(texts: Sequence[str], single: Counter[str]) -> LabelSet | None:
    # The commas of a JSON object part fields, not labels.
    objects = sum(t.lstrip()[:1] == "{" for t in texts) > len(texts) / 2
    # Nor do those of a sentence, however often its parts recur.
    prose = sum(map(_is_sentence, texts)) > len(texts) / 2
    for separator in ("json",) if objects or prose else ("json", ", ", "; ", " | ", "\n"):
        parts = [[label_key(p) for p in split_labels(t, separator) if p.strip()] for t in texts]
        if sum(len(p) > 1 for p in parts) < 0.1 * len(texts):
            continue
        counts = Counter(label for p in parts for label in p)
        frequent = {k: c for k, c in counts.items() if c > 2 and 0 < len(k) <= LONGEST_LABEL}
        covered = sum(frequent.values()) / max(1, counts.total())
        if covered >= 0.9 and len(frequent) <= min(500, len(texts) / 5) and len(frequent) < len(single):
            keys = sorted(frequent, key=lambda k: -frequent[k])
            pieces = [p for t in texts for p in split_labels(t, separator)]
            return LabelSet(labels=_as_written(keys, pieces), multi=True, separator=separator)
    return None


def _is_sentence(text: str) -> bool:
    """Whether a text has five words or more and ends as a sentence does."""
    return len(text.split(maxsplit=4)) > 4 and text.rstrip().endswith((".", "!", "?"))


def _as_written(keys: Sequence[str], texts: Sequence[str]) -> tuple[str, ...]:
    """The most frequent way in which each key is written."""
    written: dict[str, Counter[str]] = {}
    for text in texts:
        written.setdefault(label_key(text), Counter())[text.strip()] += 1
    return tuple(written[k].most_common(1)[0][0] for k in keys)
