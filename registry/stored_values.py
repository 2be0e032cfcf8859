"""What kinds of values there are, by the names of their keys (``redis_keys.py``), and how a foreign one is told."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from registry.datasets import dataset_hash
from registry.errors import Corrupt
from registry.records import Approval, Dataset, Feedback, Run, Sample, TaskGroups, Trigger
from registry.store import decode, text_of
from registry.tallies import read_tally

KINDS: Final = {
    ("c", "live"): "hash",
    ("c", "versions"): "hash",
    ("c", "hashes"): "hash",
    ("c", "blocked"): "hash",
    ("c", "audit"): "stream",
    ("c", "moves"): "zset",
    ("c", "request"): "string",
    ("c", "schema"): "string",
    ("c", "epoch"): "string",
    ("c", "changes"): "zset",
    ("c", "dirty"): "hash",
    ("c", "domains"): "set",
    ("c", "keys"): "hash",
    ("c", "signer"): "string",
    ("t", "secret"): "string",
    ("t", "tasks"): "zset",
    ("t", "sample"): "string",
    ("t", "times"): "zset",
    ("t", "representative"): "zset",
    ("t", "failures"): "zset",
    ("t", "threshold"): "hash",
    ("t", "where"): "string",
    ("t", "vote"): "string",
    ("t", "outcomes"): "stream",
    ("t", "totals"): "hash",
    ("t", "units"): "hash",
    ("t", "unit-groups"): "zset",
    ("t", "batch"): "string",
    ("t", "usage"): "hash",
    ("j", "dataset"): "string",
    ("j", "datasets"): "zset",
    ("j", "groups"): "string",
    ("j", "run"): "string",
    ("j", "fence"): "string",
    ("j", "events"): "stream",
    ("j", "journal"): "hash",
    ("j", "runs"): "zset",
    ("j", "live-run"): "string",
    ("j", "lease"): "string",
    ("j", "lease-fence"): "string",
    ("j", "seen"): "string",
    ("j", "triggers"): "zset",
    ("j", "trigger-bodies"): "hash",
    ("j", "approvals"): "hash",
    ("j", "places"): "hash",
}
"""Plane and first word behind the tag -> the kind of value that must lie there."""


class Place:
    """One key of ours, taken apart."""

    __slots__ = ("key", "kind", "more", "plane", "tag", "word")

    def __init__(self, key: bytes, prefix: str) -> None:
        self.key = key
        found = re.fullmatch(
            r"([ctj]):\{(.*?)\}(?::([^:]*):?(.*))?", text_of(key).removeprefix(prefix + ":"), re.DOTALL
        )
        self.plane, self.tag, self.word, self.more = found.groups("") if found else ("", "", "", "")
        self.kind = KINDS.get((self.plane, self.word), "")

    @property
    def of_the_queue(self) -> bool:
        """The jobs' queue library keeps its own under ``j:{queue-<lane>}``."""
        return self.plane == "j" and self.tag.startswith("queue-") and not self.kind

    @property
    def shown(self) -> str:
        """The key as a person may read it."""
        return text_of(self.key)[:120]


def _same(found: tuple[str, ...], place: Place, what: str) -> None:
    if found != (place.more, place.tag):
        raise Corrupt(f"{what} stands in another's place.")


def _sample(place: Place, text: bytes) -> None:
    sample = decode(Sample, text, f"The sample {place.more} of {place.tag}")
    _same((sample.id, sample.domain), place, f"The sample {place.more} of {place.tag}")


def _vote(place: Place, text: bytes) -> None:
    vote = decode(Feedback, text, f"The vote on {place.more} of {place.tag}")
    _same((vote.exchange, vote.domain), place, f"The vote on {place.more} of {place.tag}")


def _run(place: Place, text: bytes) -> None:
    run = decode(Run, text, f"The run {place.more}")
    _same((run.id, run.domain), place, f"The run {place.more}")


def _dataset(place: Place, text: bytes) -> None:
    dataset = decode(Dataset, text, f"The dataset {place.more} of {place.tag}")
    if dataset.domain != place.tag or dataset_hash(dataset) != place.more:
        raise Corrupt(f"The dataset {place.more} of {place.tag} does not match its hash.")


def _groups_of(place: Place, text: bytes) -> None:
    decode(TaskGroups, text, f"The groups of {place.tag}")


def _number(place: Place, text: bytes) -> None:
    if not text.isdigit():
        raise Corrupt(f"Under {place.shown} lies no number.")


STRINGS: Final[Mapping[str, Callable[[Place, bytes], None]]] = {
    "sample": _sample,
    "vote": _vote,
    "run": _run,
    "dataset": _dataset,
    "groups": _groups_of,
    "epoch": _number,
    "schema": _number,
    "fence": _number,
    "lease-fence": _number,
}
"""First word of a string's key -> its check. Raises Corrupt."""


def _approval(_place: Place, field: str, text: bytes) -> None:
    if decode(Approval, text, f"The approval {field}").id != field:
        raise Corrupt(f"The approval {field} stands in another's place.")


def _trigger(_place: Place, field: str, text: bytes) -> None:
    if decode(Trigger, text, f"The trigger {field}").id != field:
        raise Corrupt(f"The trigger {field} stands in another's place.")


def _total(_place: Place, field: str, text: bytes) -> None:
    read_tally(field, text)


def _unit(place: Place, field: str, text: bytes) -> None:
    read_tally(place.more, text, field)


FIELDS: Final[Mapping[str, Callable[[Place, str, bytes], None]]] = {
    "approvals": _approval,
    "trigger-bodies": _trigger,
    "totals": _total,
    "units": _unit,
}
"""First word of a hash's key -> the check of one of its fields. Raises Corrupt."""
