"""What the optimizer itself costs: time per call, calls wasted, memory, resume.

    python benchmarks/optimizer_calls.py calls       wall clock of 2,482 calls at a 20 ms endpoint (reference: 56.1 s)
    python benchmarks/optimizer_calls.py waste       base calls spent on unparsable or duplicate candidates
    python benchmarks/optimizer_calls.py resume      opening and replaying a journal of 100,000 rollouts
    python benchmarks/optimizer_calls.py memory      peak memory of a 16-task run
    python benchmarks/optimizer_calls.py all         the four, written to docs/results/optimizer_calls.jsonl

Each prints one JSON line per measurement. The endpoint (``stub_endpoint.py``) is a process of its own; tasks are made
up, with unique questions, so that no two base calls are equal unless the method repeats itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import uvloop

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from optimizer import (  # noqa: E402 -- the path comes first
    Budget,
    Completion,
    Evaluation,
    Example,
    JudgeSpec,
    LoopSizes,
    Models,
    ModelSpec,
    Request,
    SearchSpec,
    SearchTask,
    search,
)

REFERENCE_SECONDS = 56.1
LINES: list[str] = []


@contextmanager
def endpoint(delay: float, mode: str = "fresh") -> Iterator[str]:
    """The stub endpoint in its own process; yields its address."""
    command = [sys.executable, str(Path(__file__).with_name("stub_endpoint.py")), "--delay", str(delay), "--mode", mode]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        finally:
            server.terminate()


def made_up_tasks(count: int, train: int, test: int) -> tuple[SearchTask, ...]:
    """Tasks with a two-letter answer; the stub always says A, so half of the answers are right."""

    def rows(task: int, split: str, n: int) -> tuple[Example, ...]:
        text = "Somebody asks about case {}, of the {} set, in task {}. Which letter stands for the right way to go on?"
        return tuple(
            Example(
                id=f"{task}-{split}-{i}",
                question=text.format(i, split, task),
                answers=("AB"[i % 2],),
                cluster=f"{task}-{split}-{i}",
                position=i + 1,
            )
            for i in range(n)
        )

    return tuple(
        SearchTask(
            name=f"task{number}",
            user_prompt="Choose a letter.\n<Question>{question}</Question>\nPut it between <answer> and </answer>.",
            judge=JudgeSpec(kind="choice", labels=("A", "B")),
            reflect=rows(number, "train", train),
            holdout=rows(number, "test", test),
        )
        for number in range(count)
    )


def spec_of(url: str, home: Path, *, tasks: tuple[SearchTask, ...], sizes: LoopSizes, concurrency: int) -> SearchSpec:
    """A faithful run at the endpoint."""
    base = ModelSpec(model="base", api_base=url, concurrency=concurrency)
    optimizer = ModelSpec(model="optimizer", api_base=url, concurrency=concurrency)
    return SearchSpec(
        seed_prompt="You are a helpful assistant.",
        tasks=tasks,
        models=Models(base=base, optimizer=optimizer),
        faithful=True,
        sizes=sizes,
        home=home,
        budget=Budget(),
    )


def calls(concurrencies: Sequence[int], repeats: int) -> None:
    """2,482 calls: T=4, n=10, N=1, m=3, k=3, C=9, n_test=100."""
    sizes = LoopSizes(iterations=1, train_size=10, test_size=100)
    with endpoint(0.020) as url:
        for concurrency in concurrencies:
            for repeat in range(repeats):
                with tempfile.TemporaryDirectory() as home:
                    spec = spec_of(
                        url, Path(home), tasks=made_up_tasks(4, 10, 100), sizes=sizes, concurrency=concurrency
                    )
                    began, cpu = time.perf_counter(), time.process_time()
                    result = uvloop.run(search(spec, clock=time.time))
                    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
                rows = result.ledger.roles
                report(
                    "calls",
                    concurrency=concurrency,
                    repeat=repeat,
                    wall_seconds=wall,
                    client_cpu_ms_per_call=cpu * 1000 / sum(row.paid for row in rows.values()),
                    requested={role: row.requested for role, row in rows.items()},
                    paid={role: row.paid for role, row in rows.items()},
                    times_faster=REFERENCE_SECONDS / wall,
                )


def waste() -> None:
    """The optimizer model misbehaves as a 1.5B model does: no tag, a copy of the incumbent, a lost slot, a repeat."""
    sizes = LoopSizes(iterations=1, user_candidates=2, user_keep=2, system_candidates=5, train_size=12, test_size=30)
    with endpoint(0.0, "clumsy") as url, tempfile.TemporaryDirectory() as home:
        spec = spec_of(url, Path(home), tasks=made_up_tasks(4, 12, 30), sizes=sizes, concurrency=64)
        result = uvloop.run(search(spec, clock=time.time))
    base = result.ledger.roles["base"]
    report(
        "waste",
        requested=base.requested,
        paid=base.paid,
        cache_hits=base.cache_hits,
        rejected_before_any_base_call=result.ledger.rejects,
    )


def resume(rollouts: int) -> None:
    """A journal of so many rollouts, replayed: one task after another, every reply from disk."""
    tasks = made_up_tasks(16, 250, 1)
    prompts = [f"System prompt number {number}." for number in range(rollouts // (16 * 250))]

    async def fill(spec: SearchSpec) -> None:
        async with Evaluation.open(spec, clock=time.time, backends={"base": Instant()}) as evaluation:
            for prompt in prompts:
                for task in tasks:
                    await evaluation.rollouts(prompt, task, task.user_prompt, task.reflect)

    async def replay(spec: SearchSpec) -> float:
        began = time.perf_counter()
        async with Evaluation.open(spec, clock=time.time, backends={"base": Instant()}) as evaluation:
            opened = time.perf_counter() - began
            for prompt in prompts:
                for task in tasks:
                    await evaluation.rollouts(prompt, task, task.user_prompt, task.reflect)
            assert evaluation.ledger.roles["base"].replayed == len(prompts) * 16 * 250
        return opened

    with tempfile.TemporaryDirectory() as home:
        spec = SearchSpec(
            seed_prompt="x", tasks=tasks, models=Models(base=ModelSpec(model="base")), home=Path(home), budget=Budget()
        )
        uvloop.run(fill(spec))
        size = sum(path.stat().st_size for path in Path(home).iterdir())
        began = time.perf_counter()
        opened = uvloop.run(replay(msgspec.structs.replace(spec, resume=True)))
        report(
            "resume",
            rollouts=len(prompts) * 16 * 250,
            open_seconds=opened,
            replay_seconds=time.perf_counter() - began,
            journal_mb=size / 1e6,
            peak_mb=peak_mb(),
        )


def memory() -> None:
    """A faithful run over 16 tasks (published sizes: 96,800 base calls), its process's peak memory."""
    with endpoint(0.0) as url, tempfile.TemporaryDirectory() as home:
        spec = spec_of(url, Path(home), tasks=made_up_tasks(16, 50, 500), sizes=LoopSizes(), concurrency=64)
        began = time.perf_counter()
        result = uvloop.run(search(spec, clock=time.time))
        report(
            "memory",
            tasks=16,
            requested={role: row.requested for role, row in result.ledger.roles.items()},
            paid=result.ledger.calls,
            wall_seconds=time.perf_counter() - began,
            journal_mb=sum(path.stat().st_size for path in Path(home).iterdir()) / 1e6,
            peak_mb=peak_mb(),
        )


class Instant:
    """A model that answers at once: only our own work is measured."""

    identity = "instant"
    concurrency = 64
    retries = 0

    async def complete(self, request: Request) -> Completion:  # noqa: ARG002 -- the protocol's signature
        await asyncio.sleep(0)
        return Completion(
            text="Let me see. The answer is <answer>A</answer>" + " and so on" * 20, tokens_in=90, tokens_out=60
        )

    async def close(self) -> None:
        pass


def peak_mb() -> float:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report(name: str, **figures: object) -> None:
    rounded = {key: round(value, 3) if isinstance(value, float) else value for key, value in figures.items()}
    line = json.dumps({"benchmark": name, "load": round(os.getloadavg()[0], 1), **rounded})
    LINES.append(line)
    print(line, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["calls", "waste", "resume", "memory", "all"])
    parser.add_argument("--concurrency", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rollouts", type=int, default=100_000)
    arguments = parser.parse_args()
    wanted = ("calls", "waste", "resume", "memory") if arguments.what == "all" else (arguments.what,)
    # one process each, so that peak memory is its own
    if len(wanted) > 1:
        for name in wanted:
            command = [sys.executable, __file__, name]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            LINES.extend(done.stdout.splitlines())
            print(done.stdout, end="", flush=True)
        (ROOT / "docs" / "results" / "optimizer_calls.jsonl").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    elif wanted == ("calls",):
        calls(arguments.concurrency, arguments.repeats)
    elif wanted == ("waste",):
        waste()
    elif wanted == ("resume",):
        resume(arguments.rollouts)
    else:
        memory()
