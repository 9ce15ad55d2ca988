"""Small workloads of which a decoder of 0.1 million parameters learns something within seconds."""

from __future__ import annotations

import json
import random

NAMES = [a + b for a in ("al", "ber", "cor", "dan", "el", "fin") for b in ("ba", "do", "gus", "la", "mir", "ton")]


def orders(n: int, seed: int = 0) -> list[tuple[str, str]]:
    """Requests with a name and a thing to copy, and an urgency to tell."""
    rng = random.Random(seed)
    found = list[tuple[str, str]]()
    for _ in range(n):
        who, what, soon = rng.choice(NAMES), rng.choice(("tea", "soup", "rice")), rng.random() < 0.5
        request = f"{what} for {who}" + (", and quickly" if soon else "")
        fields = {"item": what, "urgency": "very_high" if soon else "low", "name": who}
        found.append((request, json.dumps(fields)))
    return found


def labelled(n: int, seed: int = 0) -> list[tuple[str, str]]:
    """Requests with one of three labels."""
    rng = random.Random(seed)
    asked = {"card_lost": "my card is gone", "rate_asked": "what is the rate", "greeting": "hello there"}
    return [(f"{asked[x]} {rng.choice(NAMES)}", x) for x in rng.choices(sorted(asked), k=n)]
