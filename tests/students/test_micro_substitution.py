from __future__ import annotations

from tiercel.students.micro_substitution import Substitution, learn_substitutions

LARGEST = "SELECT name FROM {} WHERE size = (SELECT MAX(size) FROM {})"
SMALLEST = LARGEST.replace("MAX", "MIN")


def pairs(*places: str) -> list[tuple[str, str]]:
    found = list[tuple[str, str]]()
    for place in places:
        found.append((f"what is the largest {place}", LARGEST.format(place, place)))
        found.append((f"what is the smallest {place}", SMALLEST.format(place, place)))
        found.append((f"what is the biggest {place}", LARGEST.format(place, place)))
    return found


def test_words_and_the_names_that_go_with_them_are_learnt_together() -> None:
    found = learn_substitutions(pairs("town", "lake"))
    assert Substitution("largest", "smallest", (("MAX", "MIN"),)) in found
    assert Substitution("smallest", "biggest", (("MIN", "MAX"),)) in found
    assert Substitution("largest", "biggest", ()) in found
    assert Substitution("town", "lake", (("town", "lake"),)) in found


def test_one_pair_of_rows_says_nothing() -> None:
    assert not any(s.words == "largest" for s in learn_substitutions(pairs("town")))


def test_what_a_row_contradicts_is_not_learnt() -> None:
    # A big state is one with much land, the biggest one that with most people: here the words are not the same.
    rows = [*pairs("town", "lake"), ("what is the biggest state", "SELECT name FROM state ORDER BY people LIMIT 1")]
    rows.append(("what is the largest state", LARGEST.format("state", "state")))
    found = learn_substitutions(rows)
    assert not any({s.words, s.by} == {"largest", "biggest"} for s in found)
    assert Substitution("largest", "smallest", (("MAX", "MIN"),)) in found


def test_a_substitution_changes_request_and_query_alike() -> None:
    swap = Substitution("largest", "smallest", (("MAX", "MIN"),))
    row = ("name the largest town", "SELECT name FROM town ORDER BY MAX(size), 'MAX'")
    assert swap.apply(row) == ("name the smallest town", "SELECT name FROM town ORDER BY MIN(size), 'MAX'")
    assert swap.apply(("largest and largest", row[1])) is None
    assert swap.apply(("the enlargest town", row[1])) is None
    assert swap.apply(("the largest town", "SELECT 1")) is None


def test_names_are_exchanged_at_once() -> None:
    swap = Substitution("towns", "lakes", (("lake", "town"), ("town", "lake")))
    assert swap.apply(("towns", "SELECT town FROM lake")) == ("lakes", "SELECT lake FROM town")
