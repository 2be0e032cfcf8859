"""The same thing said twice is one item, whatever its dress and the order of arrival."""

from __future__ import annotations

import random

from jobs.duplicates import clusters, normal_form, text_hash

LONG = (
    "I ordered a kettle three weeks ago and it still has not arrived although the tracking page says that it was"
    " delivered to my neighbour who tells me that nobody came"
)


def test_dress_does_not_matter() -> None:
    assert len(set(clusters(["Where is my parcel?", "where is my PARCEL", "  Where is my parcel!! "]))) == 1


def test_small_edits_of_a_long_text_are_one_cluster() -> None:
    assert len(set(clusters([LONG, LONG + " today", LONG.replace("three weeks", "three  weeks")]))) == 1


def test_other_texts_are_not() -> None:
    assert len(set(clusters([LONG, "Where is my parcel?", "Where was my parcel?"]))) == 3


def test_names_do_not_depend_on_order() -> None:
    texts = [
        LONG,
        LONG + " today",
        "short one",
        "Short one.",
        "another short one",
        *(f"unique text number {i}" for i in range(50)),
    ]
    expected = dict(zip(texts, clusters(texts), strict=True))
    shuffled = texts[:]
    random.Random(3).shuffle(shuffled)
    assert dict(zip(shuffled, clusters(shuffled), strict=True)) == expected


def test_signs_alone_are_texts_too() -> None:
    assert len(set(clusters(["???", "!!!", "???"]))) == 2
    assert normal_form("???") == "???"
    assert len(text_hash("???")) == 32


def test_nothing_is_nothing() -> None:
    assert clusters([]) == []
