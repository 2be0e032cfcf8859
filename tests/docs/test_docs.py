"""The documentation agrees with the code: reference pages are fresh, links lead somewhere, commands run."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest

import metaspo

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from provider import provider

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#\s]+)(?:#([^)\s]+))?\)")
PAGES = sorted(DOCS.rglob("*.md"))
ROOT = DOCS.parent
BESIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "deploy/README.md", "examples/README.md")
EVERYWHERE = [*PAGES, *(ROOT / name for name in BESIDE)]


def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_reference", DOCS / "build_reference.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_reference_pages_are_what_the_code_says() -> None:
    for name, text in reference().build().items():
        written = (DOCS / "reference" / f"{name}.md").read_text(encoding="utf-8")
        assert written == text, f"run: python docs/build_reference.py ({name} is out of date)"


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", EVERYWHERE, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        found = (page.parent / target).resolve()
        assert found.exists(), f"{page.name}: {target}"
        if anchor and found.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {slug(h) for h in headings}, f"{page.name}: {target}#{anchor}"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=DOCS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_page_has_an_address_of_its_own() -> None:
    """``results.md`` and ``results/README.md`` would be one page of the site, and one of them lost without a word."""
    names = [page.relative_to(DOCS).with_suffix("") for page in PAGES]
    places = [str(name.parent if name.name in {"index", "README"} else name) for name in names]
    assert len(places) == len(set(places)), sorted(place for place in places if places.count(place) > 1)


def with_commands() -> list[Path]:
    return [page for page in PAGES if BLOCK.search(page.read_text(encoding="utf-8"))]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("page", with_commands(), ids=lambda p: str(p.relative_to(DOCS)))
def test_commands_run_as_they_stand(page: Path, tmp_path: Path) -> None:
    """Blocks marked ``sh`` run one after the other in an empty folder; ``bash`` blocks need what a test machine has not
    (a cluster, a finished search) and are only read."""
    text = page.read_text(encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with provider() as (upstream, _):
        script = "set -eu\n" + "\n".join(BLOCK.findall(text))
        script = script.replace("127.0.0.1:8080", f"127.0.0.1:{port}").replace("https://api.openai.com", upstream)
        bin = tmp_path / "bin"
        bin.mkdir()
        command = bin / "metaspo"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{DOCS.parent / "metaspo.py"}" "$@"\n')
        command.chmod(0o755)
        work = tmp_path / "work"
        work.mkdir()
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("METASPO_") and not k.endswith("_KEY")},
            "PATH": f"{bin}:{os.environ['PATH']}",
            "OPENAI_API_KEY": "sk-for-tests",
            "METASPO_LISTEN": f"127.0.0.1:{port}",
            "METASPO_REPOSITORY": str(DOCS.parent),
        }
        # the trap ends a background `metaspo up` whatever happens, and waits until it is gone
        script = "trap 'code=$?; set +e; kill $(jobs -p) 2>/dev/null; wait; exit $code' EXIT\n" + script
        done = subprocess.run(
            ["bash", "-c", script], cwd=work, env=environment, capture_output=True, text=True, timeout=110, check=False
        )
        log = (work / "metaspo.log").read_text() if (work / "metaspo.log").exists() else ""
        assert done.returncode == 0, done.stdout + done.stderr + log


# --- commands that are only read -------------------------------------------------------------------------------------

CODE = re.compile(r"^```\w*\n(.*?)^```$|`([^`\n]+)`", re.MULTILINE | re.DOTALL)


def named(text: str) -> list[list[str]]:
    """Every ``metaspo ...`` in the code of a page, as words."""
    found = []
    for block, inline in CODE.findall(text):
        for line in (block or inline).replace("\\\n", " ").splitlines():
            for command in re.split(r"&&|\|\|?|;|\$\(", line):
                words = re.sub(r"(^|\s)#.*|[>&].*", "", command).strip().split()
                while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                    words.pop(0)
                if words and words[0].removeprefix(".venv/bin/") == "metaspo" and len(words) > 1:
                    found.append(words[1:])
    return found


@pytest.mark.parametrize("page", EVERYWHERE, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_that_is_named_is_there(page: Path) -> None:
    """Also of blocks that need a cluster or a finished search: each command exists, and has the options it is given."""
    for words in named(page.read_text(encoding="utf-8")):
        if words == ["--faithful"]:
            continue  # the method metaspo, as published
        said = f"{page.name}: metaspo {' '.join(words)}"
        command: click.Command = metaspo.cli
        seen = options_of(command)
        for word in words:
            if word.startswith("-"):
                assert word.split("=")[0].strip("[]()'\",.") in seen, said
            elif isinstance(command, click.Group) and re.fullmatch(r"[a-z][a-z-]*", word):
                found = command.get_command(click.Context(command), word)
                assert found is not None, said
                command = found
                seen |= options_of(command)


def options_of(command: click.Command) -> set[str]:
    """Its options; of a group that runs one of its commands by default, that one's too."""
    options = {"--help", "-h", "--version"}
    options |= {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
    run = command.commands.get("run") if isinstance(command, click.Group) and command.name == "paper" else None
    return options | options_of(run) if run is not None else options
