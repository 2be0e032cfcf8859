"""What docs/registry.md promises is what the code has."""

from __future__ import annotations

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
