"""The raw results: one JSON line per method, task and seed. Every table and every figure is made from these lines."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

from optimizer.errors import DataError
from optimizer.records import Record

R = TypeVar("R")


class Step(Record, frozen=True, kw_only=True):
    """A point of a curve: the base calls spent until then and the score reached (``train`` on the rows that were
    searched on, ``test`` on rows that were not; None where it was not measured)."""

    calls: int
    train: float | None = None
    test: float | None = None


class RawRow(Record, frozen=True, kw_only=True):
    """One method on one task with one seed.

    ``n`` counts distinct test questions, ``answers`` the replies behind the score (questions x user prompts asked).
    ``base_calls`` and ``optimizer_calls`` are what it cost to find the prompt, not to measure it (``test_calls``).
    ``score`` is right by default (fixed labels, malformed answers wrong); ``published_score`` is the same replies
    under the published metric with its quirks, None where that has none. ``scope``: ``domain`` when the prompt was
    learned on the task's own domain, ``global`` when on all domains of the run. ``found_on`` names the base model that
    the prompt was found on. ``prompt_tokens`` is an estimate: characters divided by four. Times are seconds.
    """

    method: str
    domain: str
    task: str
    role: str
    seed: int
    n: int
    score: float
    low: float
    high: float
    base_model: str
    optimizer_model: str
    base_calls: int
    optimizer_calls: int
    prompt_tokens: int
    scope: str = "domain"
    sources: int = 0
    adapted: bool = False
    found_on: str = ""
    answers: int = 0
    user_prompts: int = 1
    user_prompt_scores: tuple[float, ...] = ()
    per_question: tuple[float | None, ...] = ()
    """The score of each test question in the order of the rows, a mean over its user prompts; None: unscored."""
    clusters: tuple[int, ...] = ()
    """Each question's group of near-duplicates as a number, in the same order; empty in rows of before it was kept."""
    metric: str = ""
    """The kind of the judge behind ``score`` (``macro_f1``, ``choice``, ...); empty in rows of before it was kept."""
    published_score: float | None = None
    malformed: float = 0.0
    untagged: float | None = None
    """The share of replies without answer tags; None: not counted, or the task asks for none."""
    unscored: float = 0.0
    judge_calls: int = 0
    requested_calls: int = 0
    test_calls: int = 0
    wall_seconds: float = 0.0
    saturated: bool = False
    curve: tuple[Step, ...] = ()
    prompt_sha256: str = ""
    user_prompts_sha256: str = ""
    reason: str = ""
    sizes: str = ""
    """The published loop's letters, where the method is one."""
    protocol: str = ""

    @property
    def plain(self) -> bool:
        """A system prompt as it was found: on all source tasks, for this base model, with no user prompt adapted."""
        return not (self.adapted or self.sources or self.found_on)

    @property
    def key(self) -> tuple[str, ...]:
        """What may appear once in a file of raw results."""
        return (
            self.protocol,
            self.scope,
            str(self.sources),
            str(self.adapted),
            self.base_model,
            self.optimizer_model,
            self.domain,
            self.method,
            self.task,
            str(self.seed),
        )


class FoundPrompt(Record, frozen=True, kw_only=True):
    """A system prompt as a method found it; lines of ``prompts.jsonl`` beside the raw results."""

    sha256: str
    method: str
    domain: str
    scope: str
    seed: int
    prompt: str
    reason: str = ""


def read_raw(path: Path) -> list[RawRow]:
    """All rows of a file; a later line replaces an earlier one of the same key. Raises ``DataError``."""
    rows = {row.key: row for row in _read_lines(path, RawRow)}
    if not rows:
        raise DataError(f"{path} holds no result yet: run `metaspo paper run` first.")
    return list(rows.values())


def earlier_rows(path: Path) -> list[RawRow]:
    """The rows of a file that need not be there. Raises ``DataError``."""
    return _read_lines(path, RawRow) if path.exists() else []


def read_prompts(path: Path) -> list[FoundPrompt]:
    """The prompts beside raw results, none when there is no such file. Raises ``DataError``."""
    return _read_lines(path, FoundPrompt) if path.exists() else []


def write_lines(path: Path, rows: Iterable[msgspec.Struct]) -> None:
    """Write ``rows`` as JSON lines, whole or not at all: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        file.write(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    Path(file.name).chmod(0o644)
    os.replace(file.name, path)  # noqa: PTH105 -- atomic on the same file system


def _read_lines(path: Path, kind: type[R]) -> list[R]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror or error}). Give the raw results that `metaspo paper run` wrote."
        ) from error
    decoder = msgspec.json.Decoder(kind)
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(decoder.decode(line))
        except msgspec.DecodeError as error:
            raise DataError(f"{path}:{number}: no raw result ({error}).") from error
    return rows
