"""A search on real tasks with real small models, in the setting of the published code's anchor run.

    python benchmarks/optimizer_real.py --models DIR --data DIR [--method metaspo-faithful] [--out FILE]

Base model: the second largest GGUF of ``--models``, optimizer: the largest; each in a llama.cpp server of its own
(``demo/model_server.py``). Tasks: hatecheck, tweet_eval, ag_news and logical_fallacy to learn from; ethos, epistemic
and navigate unseen. T=4, n=12, N=1, m=2, k=2, C=5, 30 test rows; base capped at 64 tokens, optimizer at 512.

The reference spent 624 training and 240 test base calls here; 37 % and 15 % of the training calls (two task sets)
carried an unreadable prompt, a quarter repeated an earlier request. What ours spends is one JSON line: requested and
paid calls, cache hits, what was refused before any base call, wall time, and the winner's holdout score beside the
incumbent's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from optimizer import Budget, LoopSizes, Models, ModelSpec, SearchSpec, load_task, search  # noqa: E402
from optimizer.paper import as_method  # noqa: E402
from optimizer.report import result_to_dict  # noqa: E402
from optimizer.tasks.folders import TaskSettings  # noqa: E402

SOURCES = ("safety/hatecheck", "safety/tweet_eval", "support/ag_news", "reasoning/logical_fallacy")
UNSEEN = ("safety/ethos", "reasoning/epistemic", "reasoning/navigate")
SIZES = LoopSizes(iterations=1, user_candidates=2, user_keep=2, system_candidates=5, train_size=12, test_size=30)


@contextmanager
def model_server(weights: Path, name: str, slots: int, context: int) -> Iterator[str]:
    """A llama.cpp server on a free port; yields its address once it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(ROOT / "demo" / "model_server.py"), "--model", str(weights), "--port", str(port)]
    command += ["--name", name, "--slots", str(slots), "--context", str(context)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            until = time.monotonic() + 120
            while time.monotonic() < until:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as reply:
                        if reply.status == 200:
                            break
                except OSError:
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()


def spec_of(arguments: argparse.Namespace, base: str, optimizer: str, home: Path) -> SearchSpec:
    """The anchor run's setting under the method asked for."""
    settings = TaskSettings(path="", train=arguments.train_rows, test=arguments.test_rows)
    tasks = [load_task(arguments.data / path, "source", settings=settings) for path in SOURCES[: arguments.tasks]]
    tasks += [load_task(arguments.data / path, "unseen", settings=settings) for path in UNSEEN[: arguments.unseen]]
    models = Models(
        base=ModelSpec(model="base", api_base=base, concurrency=2, max_tokens=64, timeout=600),
        optimizer=ModelSpec(model="optimizer", api_base=optimizer, concurrency=1, max_tokens=512, timeout=600),
    )
    spec = SearchSpec(
        seed_prompt="You are a helpful assistant.",
        tasks=tuple(tasks),
        models=models,
        budget=Budget(calls=arguments.budget_calls),
        sizes=msgspec.structs.replace(SIZES, train_size=arguments.n, test_size=arguments.n_test),
        home=home,
        seed=arguments.seed,
    )
    chosen = as_method(spec, arguments.method)
    return chosen if arguments.confirm else msgspec.structs.replace(chosen, options={})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="folder with two GGUF files or more")
    parser.add_argument("--data", type=Path, required=True, help="folder of task folders")
    parser.add_argument("--method", default="metaspo-faithful")
    parser.add_argument("--budget-calls", type=int)
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--unseen", type=int, default=3)
    parser.add_argument("--n", type=int, default=12)
    parser.add_argument("--n-test", type=int, default=30)
    parser.add_argument("--train-rows", type=int, default=200)
    parser.add_argument("--test-rows", type=int, default=60)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--confirm", action="store_true", help="put the holdout gate on top of a published loop")
    parser.add_argument("--out", type=Path, help="append the JSON line to this file")
    arguments = parser.parse_args()
    weights = sorted(arguments.models.glob("*.gguf"), key=lambda file: file.stat().st_size)[-2:]
    if len(weights) < 2:
        sys.exit(
            f"{arguments.models} holds fewer than two GGUF files: name a folder with a base and an optimizer model."
        )
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        base = stack.enter_context(model_server(weights[0], "base", 2, 2048))
        optimizer = stack.enter_context(model_server(weights[1], "optimizer", 1, 4096))
        spec = spec_of(arguments, base, optimizer, home)
        result = asyncio.run(
            search(spec, clock=time.time, on_event=lambda event: print(event.message, file=sys.stderr))
        )
    told = result_to_dict(result)
    line = json.dumps(
        {
            "benchmark": "real models",
            "models": [file.stem for file in weights],
            "method": arguments.method,
            "sizes": msgspec.to_builtins(spec.sizes),
            **{
                name: told[name] for name in ("prompt", "ledger", "wall_seconds", "reason", "gate", "constant_baseline")
            },
            "incumbent": told["incumbent"],
            "winner": told["winner"],
            "generations": told["generations"],
        }
    )
    print(line)
    if arguments.out:
        with arguments.out.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
