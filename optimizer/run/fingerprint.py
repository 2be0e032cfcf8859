"""Which journal belongs to which run: a run is known by everything that decides what it does."""

from __future__ import annotations

import hashlib

import msgspec

from optimizer.errors import JournalError
from optimizer.records import SearchSpec
from optimizer.run.journal import Journal

_encode = msgspec.json.Encoder(order="deterministic").encode


def fingerprint(spec: SearchSpec) -> str:
    """A hex name of everything that decides what a run does. Budget, addresses, keys and speed are left out, so a run
    may be resumed with more money or from another port."""
    models = [
        (model.identity, model.temperature, model.max_tokens, model.extra) if model is not None else None
        for model in (spec.models.base, spec.models.optimizer, spec.models.judge, spec.models.audit_judge)
    ]
    decisive = (spec.seed_prompt, spec.incumbent, spec.method, spec.faithful, spec.seed, spec.sizes, spec.options)
    return hashlib.sha256(_encode((decisive, spec.tasks, models))).hexdigest()


def journal_of(spec: SearchSpec) -> Journal:
    """The journal of exactly this run, marked as running. A finished one is put aside unless ``spec.resume`` is set; an
    unfinished one without it raises ``JournalError``: what was paid for is never lost by accident."""
    name = f"{spec.method}{'-faithful' if spec.faithful else ''}-{fingerprint(spec)[:12]}"
    path = spec.home / f"{name}.journal"
    journal = Journal(path)
    state = journal.note("state")
    if state == "running" and not spec.resume and (paid := journal.count()):
        journal.close()
        raise JournalError(
            f"An unfinished run of this search lies in {path} ({paid} calls paid). Continue it with --resume, "
            "or remove the file to start anew."
        )
    if state == "done" and not spec.resume:
        journal.close()
        number = 1
        while (aside := spec.home / f"{name}.{number}.journal").exists():
            number += 1
        path.rename(aside)
        journal = Journal(path)
    journal.set_note("state", "running")
    return journal


def finish(journal: Journal) -> None:
    """Mark the run of ``journal`` as done: it needs no resume any more."""
    journal.set_note("state", "done")
