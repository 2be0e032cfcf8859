"""What the command line prints fits 80 columns and is JSON where that is asked for; bars say what is left."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest
import yaml
from click.testing import CliRunner, Result
from rich.console import Console

import metaspo
from registry import (
    Approval,
    Domain,
    EmbeddedRedis,
    JudgeSpec,
    Lineage,
    Message,
    Outcome,
    Registry,
    Sample,
    Signer,
    Task,
    load_settings,
)
from tests.deciding import BETTER, deciding, write_repository

COLUMNS = 80
DOMAIN = "customers-who-write-long-letters-about-parcels-in-the-far-north"
"""As long as a domain's name may be."""
LONG = "Answer in one short sentence and name the next step that the customer has to take. " * 6
GATE = {
    "outcome": "PASS",
    "reason": "Better by +0.062 (interval +0.021 to +0.103) and every rule holds.",
    "table": [
        {"name": f"floor:{name}", "value": 0.0213, "bound": "no significant loss, P(< -0.05) <= 0.2", "passed": True}
        for name in ("a-task-with-quite-a-long-name-that-somebody-gave-it", "reply")
    ],
}


def commands() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command of the front door, groups too, with its words."""

    def visit(command: click.Command, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
        yield words, command
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None
                yield from visit(found, (*words, name))

    return visit(metaspo.cli, ())


def invoke(*words: str) -> Result:
    return CliRunner(env={"COLUMNS": str(COLUMNS), "METASPO_CONFIG": None}).invoke(
        metaspo.cli, words, terminal_width=COLUMNS
    )


def test_every_help_fits() -> None:
    wide = [
        (words, line)
        for words, _ in commands()
        for line in invoke(*words, "--help").output.splitlines()
        if len(line) > COLUMNS
    ]
    assert not wide


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A registry with a past, everything in it as long as it may be: the config file, and a run's id."""
    folder = tmp_path_factory.mktemp("terminal")
    config = folder / "metaspo.yaml"
    upstreams = [{"name": "local", "base_url": "http://127.0.0.1:9/v1"}]
    told = {"home": str(folder / "home"), "upstreams": upstreams, "domains": {"global": {"system_prompt": LONG}}}
    config.write_text(yaml.safe_dump(told))
    with EmbeddedRedis.start(folder / "home") as redis:
        config.write_text(yaml.safe_dump({**told, "redis_url": redis.url}))
        yield config, asyncio.run(_seeded(config, redis.url))


async def _seeded(config: Path, url: str) -> str:
    settings = load_settings(config)
    registry = await Registry.from_settings(settings, url, signer=Signer.load_or_create(settings.signing_key_path))
    await registry.sync_settings(settings)
    now = time.time()
    task = Task(user_prompt=f"{LONG}\n{{question}}", judge=JudgeSpec(kind="rubric", rubric=(LONG,)))
    tasks = {"a-task-with-quite-a-long-name-that-somebody-gave-it": task, "reply": task}
    await registry.put_domain(Domain(name=DOMAIN, tasks=tasks, base_model="gpt-4o-mini"), actor="somebody")
    run = await registry.create_run(DOMAIN, "metaspo", asked_by="somebody with a long name", why=LONG)
    for number in (1, 2, 3):
        lineage = Lineage(author="somebody with a long name", why=LONG, parent=number - 1 or None, gate=GATE)
        await registry.add_version(DOMAIN, f"{LONG}{number}", lineage=lineage)
    await registry.promote(DOMAIN, 1, actor="somebody with a long name", why=LONG)
    await registry.promote(DOMAIN, 2, actor="somebody with a long name", why=LONG)
    await registry.canary(DOMAIN, 3, 0.1, actor="jobs", why=LONG)
    samples = [
        Sample(
            id=f"sample-{i}", domain=DOMAIN, task="reply", at=now, key="app", unit=f"u{i}", arm="stable", version=2,
            messages=(Message(role="user", content=LONG),), answer=LONG, score=0.5, score_by="reference",
        )
        for i in range(3)
    ]  # fmt: skip
    outcomes = [Outcome(domain=DOMAIN, arm="stable", version=2, unit=f"u{i}", at=now, score=0.5) for i in range(3)]
    await registry.record(samples, outcomes)
    await registry.put_approval(Approval(id="a1", domain=DOMAIN, version=3, kind="canary", asked_at=now, reason=LONG))
    await registry.create_key("an-application-with-a-long-name-that-somebody-gave-it", "caller", DOMAIN)
    generations = [{"number": 1, "score": 0.61, "best": LONG}]
    await registry.update_run(
        msgspec.structs.replace(
            run, state="done", started_at=now - 60, ended_at=now, incumbent=1, version=2, gate=GATE, usd=1.84,
            reason=GATE["reason"], calls={"base": 4500, "optimizer": 60}, result={"generations": generations},
        )
    )  # fmt: skip
    await registry.close()
    return run.id


READING = (
    ("domains", "list"),
    ("domains", "show", DOMAIN),
    ("prompts", "list", DOMAIN),
    ("prompts", "show", DOMAIN),
    ("prompts", "diff", DOMAIN, "1", "2"),
    ("prompts", "history", DOMAIN),
    ("samples", "list", DOMAIN),
    ("keys", "list"),
    ("jobs", "list"),
    ("runs", "list"),
    ("runs", "show", "RUN"),
    ("paper", "tasks"),
    ("doctor",),
)
TEXTS = {("prompts", "show"), ("prompts", "diff"), ("domains", "show")}
"""They print a text as it is, so that it can be copied and compared."""


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_what_is_read_fits_and_is_json_too(house: tuple[Path, str], words: tuple[str, ...]) -> None:
    config, run = house
    asked = [run if word == "RUN" else word for word in words]
    shown = invoke("--config", str(config), *asked)
    assert "Traceback" not in shown.output
    if words[:2] not in TEXTS:
        assert not [line for line in shown.stdout.splitlines() if len(line) > COLUMNS]
    answer = invoke("--config", str(config), *asked, "--json")
    assert json.loads(answer.stdout), answer.output


NO_JSON = {
    "up", "gateway serve", "jobs worker", "jobs scheduler",  # they serve until they are stopped
    "prompts export", "samples export", "keys acl", "paper init",  # they write a file of a form of its own
}  # fmt: skip


def test_every_other_command_speaks_json(house: tuple[Path, str], tmp_path: Path) -> None:
    without = {
        " ".join(words)
        for words, command in commands()
        if not isinstance(command, click.Group) and not any("--json" in p.opts for p in command.params)
    }
    assert without == NO_JSON
    config = str(house[0])
    for words in (
        ("domains", "set", "short-lived"),
        ("prompts", "block", DOMAIN, "1", "--why", "a test"),
        ("domains", "delete", "short-lived", "--yes"),
        ("keys", "create", "--role", "caller", "--name", "short-lived"),
        ("keys", "revoke", "short-lived"),
        ("jobs", "run", "curate", "--domain", DOMAIN),
        ("backup", str(tmp_path / "b")),
        ("restore", str(tmp_path / "b"), "--overwrite"),
    ):
        done = invoke("--config", config, *words, "--json")
        assert done.exit_code == 0, done.output
        assert isinstance(json.loads(done.stdout), dict), done.output


# --- bars ------------------------------------------------------------------------------------------------------------

LEFT = re.compile(r"\d+:\d\d:\d\d")


def on_a_terminal(*words: str, folder: Path) -> tuple[int, str]:
    """``metaspo WORDS`` on a pseudo-terminal of 80 columns: exit code, and all that it drew."""
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (24, COLUMNS))
    keep = {k: v for k, v in os.environ.items() if not k.startswith("METASPO_") and k not in ("COLUMNS", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, str(Path(metaspo.__file__)), *words],
        cwd=folder, stdin=slave, stdout=slave, stderr=slave, env={**keep, "TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(slave)
    drawn = b""
    while True:
        try:
            part = os.read(master, 65_536)
        except OSError:  # the last process has closed the terminal
            break
        if not part:
            break
        drawn += part
    os.close(master)
    return process.wait(timeout=60), drawn.decode("utf-8", "replace")


def shown_lines(drawn: str) -> list[str]:
    """What stood on the terminal's lines at any time, without colours and cursor moves."""
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn))


def test_a_measurement_says_how_long_it_takes_and_a_search_too(tmp_path: Path) -> None:
    with deciding() as model:
        write_repository(tmp_path, model)
        (tmp_path / "better.txt").write_text(BETTER)
        code, drawn = on_a_terminal("gate", "gate.yaml", "--prompt", "better.txt", folder=tmp_path)
        assert code == 0, drawn
        bars = [line for line in shown_lines(drawn) if "measuring" in line]
        assert any(LEFT.search(line) and "of 1,020 calls" in line for line in bars), drawn[-2000:]
        options = ("--budget-calls", "300", "--home", "other")
        code, drawn = on_a_terminal("search", "gate.yaml", *options, folder=tmp_path)
        assert code == 0, drawn
        assert any(LEFT.search(line) and "of 300 calls" in line for line in shown_lines(drawn)), drawn[-2000:]
        assert "constant answer" in drawn
    assert not [line for line in shown_lines(drawn) if len(line.rstrip()) > COLUMNS]


def test_a_backup_says_how_long_it_takes(house: tuple[Path, str], tmp_path: Path) -> None:
    asyncio.run(_many_samples(house[0]))
    for words in (("backup", "house.backup"), ("restore", "house.backup", "--overwrite")):
        code, drawn = on_a_terminal("--config", str(house[0]), *words, folder=tmp_path)
        assert code == 0, drawn
        bars = [line for line in shown_lines(drawn) if line.startswith("values")]
        assert any(re.search(r"\d+/\d+", line) for line in bars), drawn
        assert any(LEFT.search(line) for line in bars), drawn
        assert not [line for line in bars if len(line) > COLUMNS]
        plain = invoke("--config", str(house[0]), *words[:1], str(tmp_path / words[1]), *words[2:])
        assert "values  " not in plain.output  # a bar is for terminals


async def _many_samples(config: Path) -> None:
    settings = load_settings(config)
    registry = await Registry.from_settings(settings, str(settings.redis_url))
    message = (Message(role="user", content=LONG),)
    for start in range(0, 6000, 500):
        await registry.record(
            [
                Sample(id=f"more-{i}", domain="global", task="", at=time.time(), key="app", unit=f"u{i}", arm="stable",
                       version=1, messages=message, answer="yes")
                for i in range(start, start + 500)
            ],
            [],
        )  # fmt: skip
    await registry.close()


def test_the_demo_says_how_long_its_steps_take() -> None:
    from demo.show import Show

    show = Show()
    show.console = Console(file=io.StringIO(), force_terminal=True, width=COLUMNS, legacy_windows=False)
    with show.progress("exchanges", 10) as advance:
        for done in range(1, 10):
            advance(done, repr("an answer that is much too long for what is left of the line " * 3))
            time.sleep(0.12)
    lines = shown_lines(show.console.file.getvalue())  # type: ignore[attr-defined]
    assert any(LEFT.search(line) and "/10" in line and "left" in line for line in lines), lines
    assert not [line for line in lines if len(line.rstrip()) > COLUMNS]


# --- shells ----------------------------------------------------------------------------------------------------------


def completed(shell: str, step: str, words: str, at: int) -> str:
    """What the shell's script is told: ``source`` is the script itself, ``complete`` the words that fit."""
    environment = {**os.environ, "_METASPO_COMPLETE": f"{shell}_{step}", "COMP_WORDS": words, "COMP_CWORD": str(at)}
    if shell == "fish":
        environment["COMP_CWORD"] = words.split()[at] if at < len(words.split()) else ""
    done = subprocess.run(
        [sys.executable, str(Path(metaspo.__file__))], env=environment, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert not done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("shell", "script", "answer"),
    [
        ("bash", "complete -o nosort -F _metaspo_completion metaspo", "plain,promote"),
        ("zsh", "#compdef metaspo", "plain\npromote"),
        ("fish", "complete --no-files --command metaspo", "plain,promote"),
    ],
)
def test_every_shell_completes(shell: str, script: str, answer: str) -> None:
    assert script in completed(shell, "source", "", 0)
    assert answer in completed(shell, "complete", "metaspo prompts pro", 2)
    assert "gate" in completed(shell, "complete", "metaspo ga", 1)


HEAVY = ("litellm", "numpy", "scipy", "redis", "pydantic", "fastapi", "uvicorn", "aiohttp", "cryptography", "rich")


def test_help_of_every_command_imports_nothing_heavy() -> None:
    """Start-up is imports: what a command needs is imported when it runs, so that help and completion come at once.

    Simulations are made of numpy.
    """
    asked = [[*words, "--help"] for words, _ in commands() if words[:1] != ("simulate",)]
    code = (
        "import json, sys, io, contextlib, metaspo\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    with contextlib.redirect_stdout(io.StringIO()):\n"
        "        metaspo.main(words)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(asked)], cwd=Path(metaspo.__file__).parent, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
