"""``metaspo gate``: what CI asks before a merge, against a real endpoint: exit codes, sentences, nothing paid twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

import metaspo
from registry import EmbeddedRedis
from tests.deciding import BETTER, OLD, TASKS, WORSE, Provider, deciding, write_repository

Ask = Callable[..., Result]


@pytest.fixture
def provider() -> Iterator[Provider]:
    with deciding() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path, provider: Provider) -> Path:
    """A repository, with a prompt for each outcome."""
    write_repository(tmp_path, provider)
    for name, text in (("old", OLD), ("better", BETTER), ("worse", WORSE)):
        (tmp_path / f"{name}.txt").write_text(text + "\n")
    return tmp_path


@pytest.fixture
def ask(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """``metaspo gate gate.yaml WORDS``, in the repository's folder."""
    monkeypatch.chdir(folder)

    def asked(*words: str, file: str = "gate.yaml") -> Result:
        done = CliRunner(env={"COLUMNS": "80", "METASPO_CONFIG": None}).invoke(metaspo.cli, ["gate", file, *words])
        assert "Traceback" not in done.output
        return done

    return asked


def test_a_better_prompt_passes_and_the_same_pair_again_costs_nothing(ask: Ask, provider: Provider) -> None:
    done = ask("--prompt", "better.txt", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["outcome"] == "PASS", told["reason"]
    assert told["effect"] == pytest.approx(0.3, abs=0.02)
    rows = {row["name"]: row["passed"] for row in told["table"]}
    assert rows["unsafe"] is rows["injection"] is rows["over_refusal"] is True
    assert told["result"]["prompt"] == BETTER
    paid = provider.calls
    assert paid == told["result"]["calls"]["base"] == 2 * 3 * 160 + 2 * 3 * 10
    again = ask("--prompt", "better.txt", "--json")
    assert json.loads(again.stdout)["table"] == told["table"]
    assert provider.calls == paid


def test_a_worse_prompt_fails_with_the_table_in_80_columns(ask: Ask) -> None:
    done = ask("--prompt", "worse.txt", "--against", "old.txt")
    assert done.exit_code == 1
    assert done.stdout.startswith("Gate: FAIL\n")
    assert "floor:letters" in done.stdout
    assert "FAILED" in done.stdout
    assert "0.600" in done.stdout
    assert not [line for line in done.stdout.splitlines() if len(line) > 80]


def test_holdout_examples_confirm_one_prompt_only(ask: Ask, provider: Provider) -> None:
    assert ask("--prompt", "better.txt").exit_code == 0
    paid = provider.calls
    done = ask("--prompt", "worse.txt")
    assert done.exit_code == 1
    assert "add fresh rows" in done.stderr
    assert provider.calls == paid
    told = ask("--prompt", "worse.txt", "--reuse-holdout")
    assert told.exit_code == 1
    assert "had confirmed an earlier run" in " ".join(told.stdout.split())


def test_too_few_examples_are_no_verdict(ask: Ask, folder: Path) -> None:
    for task in TASKS:
        rows = (folder / task / "test.jsonl").read_text().splitlines(keepends=True)
        (folder / task / "test.jsonl").write_text("".join(rows[:40]))
    done = ask("--prompt", "better.txt", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["outcome"] == "INCONCLUSIVE"


def test_a_budget_bounds_the_examples(ask: Ask, provider: Provider) -> None:
    done = ask("--prompt", "better.txt", "--budget-calls", "100")
    assert done.exit_code == 1
    assert "takes at least 392" in done.stderr
    assert provider.calls == 0
    assert ask("--prompt", "better.txt", "--budget-calls", "600").exit_code == 0
    assert 392 <= provider.calls <= 600


def test_the_text_in_force_needs_no_verdict(ask: Ask, provider: Provider) -> None:
    done = ask("--prompt", "old.txt")
    assert done.exit_code == 0
    assert "nothing to measure" in done.stdout
    assert json.loads(ask("--prompt", "old.txt", "--json").stdout)["outcome"] is None
    assert provider.calls == 0


@pytest.fixture
def live(folder: Path) -> Iterator[Path]:
    """A registry whose domain ``support`` serves OLD, and its export with one version more."""
    with EmbeddedRedis.start(folder / "house") as redis:
        upstreams = [{"name": "local", "base_url": "http://127.0.0.1:9/v1", "api_key": "env:NOT_SET_HERE"}]
        told = {"home": str(folder / "house"), "redis_url": redis.url, "upstreams": upstreams}
        (folder / "metaspo.yaml").write_text(yaml.safe_dump(told))
        runner = CliRunner(env={"METASPO_CONFIG": None})
        for words in (
            ["domains", "set", "support"],
            ["domains", "set", "new"],
            ["prompts", "add", "support", "--file", "old.txt"],
            ["prompts", "promote", "support", "1", "--why", "first"],
            ["prompts", "export", "support", "--file", "support.yaml"],
        ):
            done = runner.invoke(metaspo.cli, words)
            assert done.exit_code == 0, done.output
        exported = yaml.safe_load((folder / "support.yaml").read_text())
        assert exported["versions"][0]["system_prompt"] == OLD
        exported["versions"].append({"system_prompt": BETTER})
        (folder / "support.yaml").write_text(yaml.safe_dump(exported))
        yield folder


def test_against_what_is_live(ask: Ask, live: Path) -> None:
    done = ask("--prompt", "support.yaml", "--live", "support", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["outcome"] == "PASS"
    assert told["result"]["incumbent"]["prompt"] == OLD
    for words, says in (
        (("--live", "gone"), "no domain"),
        (("--live", "new"), "serves no version of its own"),
        (("--live", "support", "--against", "old.txt"), "not both"),
    ):
        bad = ask("--prompt", "better.txt", *words)
        assert bad.exit_code == 2, bad.output
        assert says in bad.stderr.lower(), bad.stderr


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.txt", b"\n\n", "is empty"),
        ("latin.txt", b"Gr\xfc\xdfe", "cannot be read as text"),
        ("odd.yaml", b"versions: 7\n", "`versions` must be a list"),
        ("none.yaml", b"domain: support\nversions: []\n", "no version that may be served"),
        ("other.json", b'{"a": 1}', "no prompts that can be read"),
    ],
)
def test_a_prompt_file_that_cannot_be_used(ask: Ask, folder: Path, name: str, content: bytes, says: str) -> None:
    (folder / name).write_bytes(content)
    done = ask("--prompt", name)
    assert done.exit_code == 2, done.output
    assert says in done.stderr


def test_other_bad_input_is_a_usage_error_and_a_dead_model_is_not(ask: Ask, folder: Path) -> None:
    assert ask("--prompt", "nowhere.txt").exit_code == 2
    assert ask("--prompt", "better.txt", file="nowhere.yaml").exit_code == 2
    text = (folder / "gate.yaml").read_text()
    (folder / "broken.yaml").write_text(text.replace("seed:", "sead:"))
    done = ask("--prompt", "better.txt", file="broken.yaml")
    assert done.exit_code == 2
    assert "Did you mean 'seed'?" in done.stderr
    told = yaml.safe_load(text)
    told["models"]["base"] |= {"api_base": "http://127.0.0.1:9/v1", "retries": 0}
    (folder / "dead.yaml").write_text(yaml.safe_dump(told))
    done = ask("--prompt", "better.txt", file="dead.yaml")
    assert done.exit_code == 1
    assert done.stderr.count("Error: ") == 1
