"""An hour of mixed traffic: memory flat, not one reply wrong. Part of `make evidence`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(4200)
def test_an_hour_at_half_load(tmp_path: Path, repository: Path, request: pytest.FixtureRequest) -> None:
    if "slow" not in str(request.config.getoption("-m")):
        pytest.skip("takes an hour: asked for by `-m slow`")
    result = tmp_path / "soak.json"
    command = [sys.executable, "benchmarks/gateway_soak.py", "--seconds", "3600", "--json", str(result)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    found = json.loads(result.read_text())
    assert done.returncode == 0, found
    assert found["wrong"] == {}
    assert found["memory_flat"]
    assert found["versions_served"] > 2
    assert found["error_lines_in_the_log"] == []
