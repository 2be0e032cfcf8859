"""The command groups, run as a user runs them: results, JSON, exit codes, one sentence for each error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click import Group
from click.testing import CliRunner, Result

from registry import EmbeddedRedis, Registry, Signer
from registry import cli as commands
from tests.registry.conftest import NOW
from tests.registry.test_samples import sample

Run = Callable[..., Result]


@pytest.fixture
def run(embedded: EmbeddedRedis, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``run("prompts", "list", "support")`` on the embedded server that already runs; asserts the exit code."""
    house = Group("metaspo")
    for name in commands.__all__:
        house.add_command(getattr(commands, name), name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METASPO_HOME", str(embedded.home))
    monkeypatch.setenv("METASPO_REDIS_PREFIX", prefix)
    monkeypatch.setenv("METASPO_SIGNING_KEY", str(tmp_path / "signing.key"))
    monkeypatch.delenv("METASPO_CONFIG", raising=False)

    def call(*arguments: str, code: int = 0, text: str | None = None) -> Result:
        result = CliRunner().invoke(house, list(arguments), input=text, obj={"config": None}, catch_exceptions=False)
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        if code == 1:
            assert result.stderr.startswith(("Error: ", "Aborted")) and len(result.stderr.strip().splitlines()) == 1
        return result

    return call


def parsed(result: Result) -> Any:
    return json.loads(result.stdout)


def test_the_life_of_a_prompt(run: Run, tmp_path: Path) -> None:
    run("domains", "set", "support", "inject=append", "sample.share=0.2", "--why", "new")
    (tmp_path / "one.txt").write_text("Be brief.\nBe kind.\n")
    run("prompts", "add", "support", "--file", "one.txt", "--promote", "--why", "first")
    added = run("prompts", "add", "support", "--file", "-", "--json", text="Be brief.\nBe warm.")
    assert parsed(added)["version"] == 2
    assert run("prompts", "show", "support").stdout == "Be brief.\nBe kind.\n"
    assert parsed(run("prompts", "show", "support", "2", "--json"))["system_prompt"] == "Be brief.\nBe warm."
    assert "-Be kind.\n+Be warm.\n" in run("prompts", "diff", "support", "1", "2").stdout
    assert "canary 2 on 0.1" in run("prompts", "canary", "support", "2", "--share", "0.1", "--why", "try").stdout
    assert parsed(run("prompts", "promote", "support", "2", "--why", "won", "--json"))["stable"] == 2
    says = run("prompts", "promote", "support", "1", "--if-epoch", "1", code=1).stderr
    assert "epoch 3, you saw epoch 1" in says and "promote" in says
    run("prompts", "rollback", "support", "--why", "complaints")
    assert "no previous version" in run("prompts", "rollback", "support", code=1).stderr
    assert "no canary to abort" in run("prompts", "abort", "support", code=1).stderr
    run("prompts", "block", "support", "2", "--why", "leaks")
    assert "blocked: leaks" in run("prompts", "promote", "support", "2", code=1).stderr
    history = parsed(run("prompts", "history", "support", "--json"))
    assert [entry["kind"] for entry in history] == ["rollback", "promote", "canary", "promote"]
    assert history[0]["why"] == "complaints" and history[0]["before"]["stable"] == 2
    assert len(parsed(run("prompts", "history", "support", "--all", "--json"))) == 8
    assert parsed(run("prompts", "served-at", "support", "2100-01-01T00:00", "--json"))["stable"] == 1
    assert "is not a time" in run("prompts", "served-at", "support", "yesterday", code=1).stderr
    listed = run("prompts", "list", "support").stdout
    assert "stable" in listed and "blocked" in listed
    for command in (("prompts", "list"), ("prompts", "history"), ("domains", "show")):
        assert all(len(line) <= 80 for line in run(*command, "support").stdout.splitlines())


def test_export_and_import(run: Run, tmp_path: Path) -> None:
    run("domains", "set", "support")
    for text in ("Be brief.", "Be kind."):
        run("prompts", "add", "support", "--file", "-", "--promote", text=text)
    run("prompts", "export", "support", "--file", "support.yaml")
    assert run("prompts", "export", "support").stdout == (tmp_path / "support.yaml").read_text()
    done = parsed(run("prompts", "import", "support.yaml", "--domain", "copy", "--promote", "--json"))
    assert done == [
        {"domain": "copy", "version": 1, "new": True, "promoted": False},
        {"domain": "copy", "version": 2, "new": True, "promoted": True},
    ]
    assert run("prompts", "show", "copy").stdout == "Be kind.\n"
    assert "support: version 1" in run("prompts", "import", "support.yaml").stdout
    (tmp_path / "bare.yaml").write_text("system_prompt: Hi.")
    assert "--domain" in run("prompts", "import", "bare.yaml", code=1).stderr
    checked = run("prompts", "import", "bare.yaml", "--domain", "copy", "--check", "--promote")
    assert checked.stdout == "copy: a new version, stable\n"
    assert len(parsed(run("prompts", "list", "copy", "--json"))) == 2
    known = parsed(run("prompts", "import", "support.yaml", "--domain", "nowhere", "--check", "--json"))
    assert [one["version"] for one in known] == [None, None]
    assert (
        run("prompts", "import", "bare.yaml", "--domain", "copy", "--promote").stdout
        == "copy: version 3, new, stable\n"
    )
    run("prompts", "block", "support", "1", "--why", "leaks")
    run("prompts", "export", "support", "--file", "support.yaml")
    run("prompts", "import", "support.yaml", "--domain", "third")
    assert "blocked: leaks" in run("prompts", "promote", "third", "1", code=1).stderr
    (tmp_path / "unmarked.yaml").write_text("domain: copy\nversions: [{system_prompt: Hi.}]")
    assert "marks no version" in run("prompts", "import", "unmarked.yaml", "--promote").stderr
    (tmp_path / "odd.yaml").write_text("domain: 2026\nsystem_prompt: Hi.\ngate: passed")
    assert "expected `object" in run("prompts", "import", "odd.yaml", "--check", code=1).stderr
    (tmp_path / "odd.yaml").write_text("domain: 2026\nsystem_prompt: Hi.")
    assert run("prompts", "import", "odd.yaml").stdout == "2026: version 1, new\n"
    assert "no file" in run("prompts", "import", "nope.yaml", code=1).stderr
    assert "cannot be written" in run("prompts", "export", "support", "--file", "no/such/x", code=1).stderr


def test_domains(run: Run, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("tasks: {triage: {judge: {kind: exact}}}\nlocked: Never lie.\n")
    run("domains", "set", "support", "--file", "rules.yaml", "promotion=auto")
    run("domains", "set", "support", "tasks.extra.user_prompt=Ask {question}")
    shown = parsed(run("domains", "show", "support", "--json"))
    assert set(shown["domain"]["tasks"]) == {"triage", "extra"} and shown["domain"]["locked_signature"]
    assert shown["deployment"]["stable"] is None
    assert "locked: Never lie." in run("domains", "show", "support").stdout
    assert [row["domain"]["name"] for row in parsed(run("domains", "list", "--json"))] == ["support"]
    assert "did you mean 'sample'" in run("domains", "set", "support", "samples.share=1", code=1).stderr
    assert "prompts add" in run("domains", "set", "support", "system_prompt=x", code=1).stderr
    assert "NAME=VALUE" in run("domains", "set", "support", "inject", code=2).stderr
    assert "cannot name a domain" in run("domains", "set", "No Good", code=1).stderr
    assert "no domain" in run("domains", "show", "nope", code=1).stderr
    assert "value of its own" in run("domains", "set", "support", "inject=off", "inject.x=1", code=2).stderr
    run("domains", "delete", "support", code=1, text="n\n")
    run("domains", "delete", "support", "--yes", "--why", "done")
    assert run("prompts", "history", "support", "--all").stdout.count("\n") > 3  # its audit stays
    for command in (("history", "nope"), ("served-at", "nope", "2026-11-20")):
        assert "no domain" in run("prompts", *command, code=1).stderr
    assert parsed(run("domains", "list", "--json")) == []


def test_keys(run: Run) -> None:
    made = parsed(run("keys", "create", "--role", "caller", "--name", "app", "--parallel", "3", "--json"))
    assert made["key"].startswith("msp-")
    plain = run("keys", "create", "--role", "operator", "--name", "ops")
    assert plain.stdout.strip().startswith("msp-") and "not shown again" in plain.stderr
    listed = run("keys", "list")
    assert "app" in listed.stdout and made["key"] not in listed.stdout
    assert "hash" not in parsed(run("keys", "list", "--json"))[0]
    assert "is in use" in run("keys", "create", "--role", "caller", "--name", "app", code=1).stderr
    run("keys", "create", "--role", "king", "--name", "x", code=2)
    assert "needs a name" in run("keys", "create", "--role", "caller", "--name", " ", code=1).stderr
    says = run("keys", "create", "--role", "caller", "--name", "x", "--domain", "No Good", code=1).stderr
    assert "cannot name a domain" in says
    assert "revoked" in run("keys", "revoke", "app", "--why", "leaked").stdout
    assert "no key" in run("keys", "revoke", "nope", code=1).stderr
    acl = run("keys", "acl", "--gateway-password", "g")
    assert acl.stdout.count("\nuser ") == 2 and "metaspo-control: " in acl.stderr


def test_samples_and_erasure(run: Run, embedded: EmbeddedRedis, prefix: str, tmp_path: Path) -> None:
    run("domains", "set", "support")

    async def fill() -> None:
        registry = await Registry.connect(embedded.url, prefix=prefix, clock=lambda: NOW)
        await registry.record_samples([sample(i, unit="eve" if i else "bob") for i in range(3)])
        await registry.close()

    asyncio.run(fill())
    # The commands live in real time, the samples in the future of the tests: both are within the retention.
    rows = [json.loads(line) for line in run("samples", "export", "support").stdout.splitlines()]
    assert len(rows) == 3 and rows[0]["messages"] and rows[0]["score"] is None
    run("samples", "export", "support", "--file", "out.jsonl", "--limit", "2")
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2
    assert "Question" in run("samples", "list", "support").stdout
    assert len(parsed(run("samples", "list", "support", "--json", "--unscored"))) == 3
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        assert "pyarrow" in run("samples", "export", "support", "--format", "parquet", code=1).stderr
    run("samples", "erase", code=2)
    run("samples", "erase", "--unit", "eve", code=1, text="n\n")
    assert parsed(run("samples", "erase", "--unit", "eve", "--key", "k1", "--yes", "--json"))["samples"] == 2
    assert len(run("samples", "export", "support").stdout.splitlines()) == 1
    assert "no domain" in run("samples", "list", "nope", code=1).stderr


def test_backup_and_restore(run: Run, tmp_path: Path) -> None:
    run("domains", "set", "support")
    assert "keys are in" in run("backup", "b.bin").stdout
    assert "--overwrite" in run("restore", "b.bin", code=1).stderr
    run("domains", "delete", "support", "--yes")
    assert "restored" in run("restore", "b.bin", "--overwrite").stdout
    assert len(parsed(run("domains", "list", "--json"))) == 1
    (tmp_path / "b.bin").write_bytes(b"soup")
    assert "not a backup" in run("restore", "b.bin", "--overwrite", code=1).stderr
    assert len(parsed(run("domains", "list", "--json"))) == 1


def test_a_domain_of_the_file_is_changed_in_the_file(run: Run, embedded: EmbeddedRedis, prefix: str) -> None:
    from registry import Settings

    async def fill() -> None:
        registry = await Registry.connect(embedded.url, prefix=prefix, signer=Signer.create())
        await registry.sync_settings(Settings.model_validate({"domains": {"support": {}}}))
        await registry.close()

    asyncio.run(fill())
    assert "change it there" in run("domains", "set", "support", "inject=off", code=1).stderr


def test_a_server_is_started_for_the_duration_when_none_runs(
    run: Run, short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METASPO_HOME", str(short_tmp / "cli"))
    run("domains", "set", "support")
    assert parsed(run("domains", "list", "--json"))[0]["domain"]["name"] == "support"
    from registry import running_url

    assert running_url(short_tmp / "cli") is None


def test_the_first_command_on_a_new_home_knows_the_config_file(
    run: Run, short_tmp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any `metaspo up`: what the file says is there, its secrets are not needed."""
    monkeypatch.setenv("METASPO_HOME", str(short_tmp / "first"))
    monkeypatch.delenv("NOT_SET", raising=False)
    (tmp_path / "metaspo.yaml").write_text(
        "domains: {support: {system_prompt: Be brief., tasks: {triage: {}}}}\n"
        "keys: [{name: app, role: caller, key: 'env:NOT_SET'}]\n"
    )
    rows = parsed(run("domains", "list", "--json"))
    assert [(row["domain"]["name"], row["deployment"]["stable"]) for row in rows] == [("support", 1)]
    assert run("prompts", "show", "support").stdout == "Be brief.\n"
    assert len(parsed(run("prompts", "history", "support", "--all", "--json"))) == 3  # twice synced, once written
    (tmp_path / "metaspo.yaml").write_text("domains: {other: {system_prompt: Hi.}}\n")
    rows = parsed(run("domains", "list", "--json"))
    assert [(row["domain"]["name"], row["domain"]["read_only"]) for row in rows] == [
        ("other", True),
        ("support", False),
    ]


def test_a_backup_is_restored_into_a_new_home(
    run: Run, short_tmp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The config file must not fill the registry before the backup does."""
    (tmp_path / "metaspo.yaml").write_text("domains: {support: {system_prompt: Be brief.}}\n")
    monkeypatch.setenv("METASPO_HOME", str(short_tmp / "old"))
    run("prompts", "add", "support", "--file", "-", "--promote", text="Be kind.")
    run("backup", "b.bin")
    monkeypatch.setenv("METASPO_HOME", str(short_tmp / "new"))
    assert "restored" in run("restore", "b.bin").stdout
    assert run("prompts", "show", "support").stdout == "Be kind.\n"


def test_a_signing_key_is_made_and_rotated(run: Run, tmp_path: Path) -> None:
    run("domains", "set", "support", "locked=Never lie.")
    run("prompts", "add", "support", "--file", "-", "--promote", text="Be brief.")
    made = parsed(run("keys", "signing-key", "new.key", "--json"))
    assert (tmp_path / "new.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "new.pub").read_text().strip() == made["public"]
    assert "exists already" in run("keys", "signing-key", "new.key", code=1).stderr
    assert "cannot be written" in run("keys", "signing-key", "signing.key/x", code=1).stderr
    assert "cannot be read" in run("keys", "rotate", "nope.key", code=1).stderr
    assert "no private key" in run("keys", "rotate", "new.pub", code=1).stderr
    assert "is the old one" in run("keys", "rotate", "signing.key", code=1).stderr
    old = (tmp_path / "signing.pub").read_text().strip()
    assert parsed(run("keys", "rotate", "new.key", "--why", "leaked", "--json")) == {"signed": 3, "refused": []}
    assert "not with the one here" in run("prompts", "add", "support", "--file", "-", code=1, text="More.").stderr
    for end in ("key", "pub"):
        (tmp_path / f"new.{end}").replace(tmp_path / f"signing.{end}")
    run("prompts", "add", "support", "--file", "-", "--promote", text="More.")
    assert "0 values" in run("keys", "rotate", "signing.key", "--old", old).stdout


def test_a_broken_config_and_a_missing_server_are_sentences(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "metaspo.yaml").write_text("upstreem: []\n")
    assert "did you mean 'upstreams'" in run("domains", "list", code=1).stderr
    (tmp_path / "metaspo.yaml").write_text("redis_url: redis://127.0.0.1:1\n")
    assert "cannot be reached" in run("domains", "list", code=1).stderr
