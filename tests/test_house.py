"""The rules of the house, proved on the source: who may import whom, what stays cheap, what never stands in a file."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import LONG

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("gateway", "jobs", "optimizer", "registry")
ARROWS = {("gateway", "registry"), ("jobs", "registry"), ("jobs", "optimizer")}
LONGEST = 350
LONG_FOR_A_REASON = {
    "gateway/console/views.py": "one function a page, no two alike",
    "gateway/protocol.py": "one state machine: a connection from its first byte to its last",
    "gateway/sampling.py": "one queue, from the reply to the registry, with its counters",
    "gateway/scrub.py": "a table of patterns, each with its proof",
    "gateway/upstream.py": "one state machine: an upstream connection and its pool",
    "gateway/worker.py": "what one process holds, started and stopped in one place",
    "jobs/curate.py": "one story of six pure steps",
    "optimizer/proposals/prompts.py": "texts",
    "optimizer/records.py": "the nouns of a search: one vocabulary, one file",
    "optimizer/worlds/world.py": "simulated worlds beside each other, to be compared",
    "registry/connection.py": "the one edge where errors of the Redis client are translated",
    "registry/records.py": "the nouns that are stored: one vocabulary, one file",
    "registry/settings.py": "the whole config file with the meaning of every key",
}
"""Files over LONGEST lines that are one thing and would be worse in two: path -> why."""
LONGEST_WITH_A_REASON = 500


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@cache
def imports(path: Path) -> tuple[tuple[int, str, tuple[str, ...]], ...]:
    """Every import of a file, inside functions too: line, absolute module, names taken from it."""
    return tuple(read_imports(path))


def read_imports(path: Path) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, ()
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.lineno, node.module, tuple(alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value, ()


def foreign(path: Path) -> Iterator[tuple[int, str, str, tuple[str, ...]]]:
    """The imports of a package's file that reach another package of the house: line, package, module, names."""
    own = path.relative_to(ROOT).parts[0]
    for line, module, names in imports(path):
        package = module.partition(".")[0]
        if package in PACKAGES and package != own:
            yield line, package, module, names


def test_arrows() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sources(*PACKAGES)
        for line, package, module, _ in foreign(path)
        if (path.relative_to(ROOT).parts[0], package) not in ARROWS
    ]
    assert not wrong, "arrows that are not drawn:\n" + "\n".join(wrong)


def test_the_front_door_is_imported_by_nobody() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sources(*PACKAGES)
        for line, module, _ in imports(path)
        if module.partition(".")[0] in {"metaspo", "processes", "demo"}
    ]
    assert not wrong, wrong


def exported(package: str) -> set[str]:
    """The public names of a package: its ``__all__``, else whatever its ``__init__`` holds."""
    module = importlib.import_module(package)
    return set(getattr(module, "__all__", dir(module)))


@pytest.mark.parametrize("package", PACKAGES)
def test_only_public_names_cross(package: str) -> None:
    """Others use only names of a package's __init__; the front door mounts ``cli`` modules by name."""
    if not (ROOT / package / "__init__.py").exists():
        pytest.fail(f"{package} has no __init__.py")
    public = exported(package)
    files = [path for path in sources(*PACKAGES, "demo") if path.relative_to(ROOT).parts[0] != package]
    wrong = []
    for path in [*files, ROOT / "metaspo.py", *sources("processes")]:
        for line, module, names in imports(path):
            if module.partition(".")[0] != package:
                continue
            if module != package:
                wrong.append(f"{path.relative_to(ROOT)}:{line} reaches into {module}")
            wrong += [
                f"{path.relative_to(ROOT)}:{line} takes {name}, which {package} does not export"
                for name in names
                if name not in public
            ]
    assert not wrong, "\n".join(wrong)


def test_no_drawers_for_odds_and_ends() -> None:
    forbidden = {"utils", "util", "core", "common", "helpers", "helper", "manager", "managers", "misc"}
    wrong = [
        path.relative_to(ROOT)
        for path in sources(*PACKAGES, "demo")
        if path.stem in forbidden or path.parent.name in forbidden
    ]
    assert not wrong, wrong


def test_files_stay_short() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines())
        for path in [*sources(*PACKAGES, "demo", "processes"), *ROOT.glob("*.py")]
    }
    limits = {name: LONGEST_WITH_A_REASON if name in LONG_FOR_A_REASON else LONGEST for name in lengths}
    wrong = {name: length for name, length in lengths.items() if length > limits[name]}
    assert not wrong, f"over {LONGEST} lines without a reason, or over {LONGEST_WITH_A_REASON}: {wrong}"


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git working tree: nothing says which files are ours")
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def test_no_machine_path_and_no_index_address() -> None:
    machine = re.compile(r"(^|[^A-Za-z0-9_.])/(work|farm|root)/")
    index = re.compile(r"[p]ypi[.]o|[p]ythonh|[d]eb[.]d|(files|index)-?url *= *.?https?:")
    wrong = []
    for path in tracked():
        text = path.read_bytes()
        if b"\0" in text[:4096] or path == Path(__file__).resolve():
            continue
        for number, line in enumerate(text.decode("utf-8", "replace").splitlines(), 1):
            if machine.search(line) or index.search(line):
                wrong.append(f"{path.relative_to(ROOT)}:{number}")
    assert not wrong, wrong


def test_the_files_that_are_tested_first_are_there() -> None:
    assert not [name for name in LONG if not (ROOT / "tests" / name).exists()]


def test_requirements_are_pinned_by_hash() -> None:
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        text = path.read_text("utf-8")
        pins = re.findall(r"^[a-zA-Z0-9_.\[\]-]+==", text, re.MULTILINE)
        assert pins, path
        blocks = re.split(r"^(?=[a-zA-Z0-9_.\[\]-]+==)", text, flags=re.MULTILINE)[1:]
        assert all("--hash=sha256:" in block for block in blocks), path


HEAVY = (
    "litellm",
    "numpy",
    "scipy",
    "fastapi",
    "uvicorn",
    "redis",
    "openai",
    "taskiq",
    "pydantic",
    "rich",
    "aiohttp",
    "xllamacpp",
)


def loaded_after(statement: str) -> set[str]:
    """The modules that a fresh interpreter holds after `statement`."""
    code = f"{statement}\nimport sys; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_the_command_line_starts_light() -> None:
    loaded = loaded_after("import metaspo; metaspo.main(['--help'])")
    assert not loaded.intersection(HEAVY), loaded.intersection(HEAVY)
    assert not loaded.intersection(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_cheap_to_import(package: str) -> None:
    loaded = loaded_after(f"import {package}")
    heavy = loaded.intersection({"litellm", "numpy", "scipy", "openai", "taskiq", "fastapi"})
    assert not heavy, f"import {package} loads {heavy}"


def test_the_gateway_never_loads_what_only_the_search_needs() -> None:
    loaded = loaded_after("from gateway import create_app, serve")
    heavy = loaded.intersection({"litellm", "numpy", "scipy", "optimizer", "jobs"})
    assert not heavy, heavy
