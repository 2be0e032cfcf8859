"""Which holdout examples have confirmed a run: an example confirms one run only, else the holdout becomes a training
set for whoever tries until the gate says PASS.

The account is one append-only file beside the journals of a home. A run enters its examples just before its challenger
is measured on them, and a resumed run finds its own again. Searches on traffic keep this account in the registry.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BufferedRandom

import msgspec

from optimizer.draws import stream
from optimizer.errors import JournalError, RunBlocked
from optimizer.records import Example, SearchSpec
from optimizer.tasks.clusters import content_hash

ACCOUNT = "holdout.jsonl"
ENOUGH = 50
"""Fresh examples that a task needs (all of them, where it has fewer): what the gate asks of a task that counts."""

Chosen = Mapping[str, tuple[Example, ...]]
"""The confirmation examples of each task."""


class _Line(msgspec.Struct):
    run: str
    items: list[str]


class Holdout:
    """The holdout of one run. ``run`` names the run, the same when it is resumed. Methods raise ``JournalError``."""

    def __init__(self, spec: SearchSpec, run: str) -> None:
        self._spec = spec
        self._run = run
        self._path = spec.home / ACCOUNT

    def check(self) -> None:
        """Raise ``RunBlocked``, before anything is spent, when a source task has too few fresh examples left."""
        if self._spec.holdout != "once":
            return
        with self._locked() as file:
            own, others = self._read(file)
        for task in self._spec.sources:
            spent = sum(item_of(example) in others - own for example in task.holdout)
            if spent and len(task.holdout) - spent < min(ENOUGH, len(task.holdout)):
                raise RunBlocked(
                    f"{spent} of the {len(task.holdout)} holdout examples of task {task.name} have confirmed an "
                    f"earlier run (noted in {self._path}), and an example confirms one run only: add fresh rows to its "
                    "test.jsonl. For development alone, --reuse-holdout takes them again, and the report says so."
                )

    def choose(self, per_task: int, per_unseen: int, *, takes: bool) -> tuple[Chosen, tuple[str, ...]]:
        """Which examples confirm, and what the report must say about it: a seeded draw per task, the same for every
        prompt of the run and when the run is resumed. ``takes``: a challenger will be measured on them, so they are
        entered in the account.
        """
        if self._spec.holdout == "untracked":
            return confirmation_examples(self._spec, per_task, per_unseen), ()
        sources = {task.name for task in self._spec.sources}
        with self._locked() as file:
            own, others = self._read(file)
            others -= own
            once = self._spec.holdout == "once"

            def rank(example: Example) -> int | None:
                item = item_of(example)
                return 0 if item in own else None if once and item in others else 1

            chosen = confirmation_examples(self._spec, per_task, per_unseen, rank=rank)
            taken = [item_of(example) for name in sorted(sources) for example in chosen[name]]
            fresh = [item for item in dict.fromkeys(taken) if item not in own]
            if takes and fresh:
                self._append(file, fresh)
        reused = sum(item in others for item in taken)
        if reused:
            return chosen, (
                f"{reused} of the {len(taken)} holdout examples had confirmed an earlier run (--reuse-holdout): the "
                "gate's error rates do not hold for this verdict.",
            )
        left_out = sum(once and item_of(example) in others for task in self._spec.sources for example in task.holdout)
        if left_out:
            return chosen, (f"{left_out} holdout examples confirmed an earlier run and were left out of this one.",)
        return chosen, ()

    def _read(self, file: BufferedRandom) -> tuple[set[str], set[str]]:
        """Items of this run and of all others."""
        own: set[str] = set()
        others: set[str] = set()
        with self._translated("read"):
            file.seek(0)
            raw = file.read()
        for number, text in enumerate(raw.splitlines(), start=1):
            try:
                line = msgspec.json.decode(text, type=_Line)
            except msgspec.DecodeError as error:
                if number == raw.count(b"\n") + 1:  # cut short by a kill or a full disk: never counted
                    break
                raise JournalError(
                    f"{self._path}:{number}: this is no line of the holdout's account ({error}). Restore the file, or "
                    "move it away if no earlier verdict matters any more."
                ) from error
            (own if line.run == self._run else others).update(line.items)
        return own, others

    def _append(self, file: BufferedRandom, items: Sequence[str]) -> None:
        """One whole line more; a torn one from before is cut off first."""
        with self._translated("written"):
            file.seek(0)
            raw = file.read()
            file.truncate(raw.rfind(b"\n") + 1)
            file.seek(0, 2)
            file.write(json.dumps({"run": self._run, "items": list(items)}).encode() + b"\n")
            file.flush()

    @contextmanager
    def _locked(self) -> Iterator[BufferedRandom]:
        """The open account, held against other processes of the same home."""
        with self._translated("opened"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch()
            file = self._path.open("r+b")
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file

    @contextmanager
    def _translated(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise JournalError(
                f"The holdout's account {self._path} cannot be {verb} ({error.strerror or error}). Mend that, then "
                "start again with --resume: nothing paid for is lost."
            ) from error


def item_of(example: Example) -> str:
    """What makes two holdout examples the same: question, earlier turns and references."""
    return content_hash(json.dumps([example.question, example.history, example.answers]))


def confirmation_examples(
    spec: SearchSpec, per_task: int, per_unseen: int, *, rank: Callable[[Example], int | None] = lambda _: 0
) -> dict[str, tuple[Example, ...]]:
    """A seeded draw of holdout examples per task. Of source tasks those of low ``rank`` come first, None is left
    out."""
    chosen: dict[str, tuple[Example, ...]] = {}
    for task in spec.tasks:
        rows = sorted(task.holdout, key=lambda example: example.id)
        stream(spec.seed, "holdout", task.name).shuffle(rows)
        if task.role == "source":
            ranked = [(place, i) for i, row in enumerate(rows) if (place := rank(row)) is not None]
            chosen[task.name] = tuple(rows[i] for _, i in sorted(ranked)[:per_task])
        else:
            chosen[task.name] = tuple(rows[:per_unseen])
    return chosen
