"""The package's front door: every public name resolves, importing it is cheap, its doctor answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import optimizer
from optimizer.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", optimizer.__all__)
def test_public_names_resolve(name: str) -> None:
    assert getattr(optimizer, name) is not None


def test_a_function_wins_over_the_module_of_its_name() -> None:
    code = (
        "import optimizer.admission.lint, optimizer.estimate, optimizer.search, optimizer\n"
        "from optimizer import estimate, lint, search\n"
        "assert all(callable(f) for f in (lint, estimate, search, optimizer.lint)), (lint, estimate, search)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_unknown_names_are_no_attributes() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        optimizer.nonsense  # noqa: B018


def test_importing_the_package_and_its_commands_loads_nothing_heavy() -> None:
    code = (
        "import sys, optimizer, optimizer.cli\n"
        "heavy = {'litellm', 'numpy', 'scipy', 'sympy', 'aiohttp', 'openai', 'anthropic', 'rensa', 'rich', 'yaml'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


async def test_the_doctor_looks_at_home_disk_and_libraries(tmp_path: Path) -> None:
    findings = await optimizer.check(Settings(home=tmp_path / "home"))
    assert all(finding.ok for finding in findings)
    assert list(tmp_path.iterdir()) == []  # looking changes nothing
    of_the_house = await optimizer.check(SimpleNamespace(home=tmp_path))
    assert str(tmp_path / "search") in of_the_house[0].message
    (tmp_path / "file").write_text("x")
    findings = await optimizer.check(Settings(home=tmp_path / "file" / "home"))
    assert not findings[0].ok
    assert "METASPO_SEARCH_HOME" in findings[0].mend
