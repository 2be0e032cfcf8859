"""What docs/registry.md promises is what the code has."""

from __future__ import annotations

import json
import re
from pathlib import Path

import registry
from registry import lifecycle
from registry.settings import RetentionSettings

DOC = (Path(__file__).parents[2] / "docs" / "registry.md").read_text()


def test_every_bound_is_documented_with_its_default() -> None:
    numbers = {int(text.replace(",", "")) for text in re.findall(r"\b\d[\d,]*\b", DOC)}
    for name, field in RetentionSettings.model_fields.items():
        if name == "half_life_days":
            continue
        assert f"`{name}`" in DOC or f"retention.{name}`" in DOC, name
        assert field.default in numbers, (name, field.default)


def test_what_is_measured_is_what_the_results_say() -> None:
    found = json.loads((Path(__file__).parents[2] / "docs" / "results" / "registry.json").read_text("utf-8"))
    quiet, big = found["fanout"]["quiet"], found["snapshot"]["10000 domains"]
    one, eight = found["moves"]["1 movers"], found["moves"]["8 movers"]
    for words in (
        f"median {quiet['median_ms']:.1f} ms, p99 {quiet['p99_ms']:.0f} ms, longest {quiet['max_ms']:.0f} ms",
        f"/ {big['load_seconds']:.3f} s; CPU",
        f"/ {big['load_file_seconds']:.3f} s |",
        f"/ {big['memory_mb']} MB",
        f"{found['ingest']['samples_and_outcomes_per_second']:,} exchanges/s",
        f"{one['moves_per_second']:,}/s by one mover; {eight['moves_per_second']:,}/s by eight",
        f"all: {found['history']['all_ms']:.1f} ms",
        *(f"| {size:,} |" for size in found["memory"]["bytes_per"].values()),
    ):
        assert words in DOC, words
    backup = json.loads((Path(__file__).parents[2] / "docs" / "results" / "registry_backup.json").read_text("utf-8"))
    of = backup["backup"]
    assert f"| {of['backup_seconds']} s (restore {of['restore_seconds']} s), file {of['file_mb']:.0f} MB" in DOC
    # The targets themselves, as far as they were met when it was measured.
    assert all(weather["max_ms"] < 1000 for name, weather in found["fanout"].items() if name != "load_average")
    assert big["memory_mb"] < 50 and big["load_file_seconds"] < 1 and big["load_seconds"] < 1


def test_every_move_is_documented() -> None:
    for rule in (lifecycle.promote, lifecycle.canary, lifecycle.abort, lifecycle.rollback, lifecycle.set_holdback):
        assert f"| {rule.__name__.removeprefix('set_')}" in DOC


def test_files_named_in_the_docs_exist() -> None:
    root = Path(__file__).parents[2]
    for name in re.findall(r"`(registry/[a-z_]+\.py)`", DOC):
        assert (root / name).is_file(), name


def test_public_names_are_there_and_cheap() -> None:
    for name in registry.__all__:
        assert getattr(registry, name) is not None
    assert set(dir(registry)) == set(registry.__all__)
