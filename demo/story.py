"""The story of the demo, step by step, each one visible. Read :func:`tell` from top to bottom.

Interrupted at any moment, it goes on where it stopped: exchanges stand in a notebook, everything else in the registry.
A demo that was told to its end is told anew, on an empty registry.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from demo import stage, summary
from demo.app import USER_PROMPT, Exchange, Row, first_label, in_turn, read_rows
from demo.show import Show
from demo.stage import DATA, FIRST_PROMPT, SIZES, SOURCES, UNSEEN, Sizes
from demo.telling import Telling, clear_the_stage, stay_open, told_on
from processes import House, interrupts
from registry import load_settings

Json = dict[str, Any]
OpenHouse = Callable[..., AbstractContextManager[House]]
"""``metaspo.house``: handed in, since the front door imports the demo and not the other way round."""

REHEARSAL_PROMPT = "You are a helpful assistant. Answer with only the name of the best label."
"""What the operator rehearses with when the search found nothing that differs from version 1."""


def tell(
    home: Path, open_house: OpenHouse, *, model: Path | None, models: Path | None, size: str, stay: bool, as_json: bool
) -> None:
    """Tell the whole story. Raises ProcessError (or a package's own error) with one sentence when it cannot go on."""
    started = time.monotonic()
    folder = home.expanduser().absolute() / "demo"
    chosen = stage.choose_models(model, models)
    show = Show(to_stderr=as_json)
    for name in [name for name in os.environ if name.startswith("METASPO_")]:
        del os.environ[name]  # the demo's own config file is all that its processes read
    with interrupts:
        facts = clear_the_stage(folder)
        listen = stage.listen_address()
        keys = stage.keys_of(folder)
        config = stage.write_config(folder, stage.config_of(chosen, SIZES[size], listen))
        show.step("A private Redis, a real language model and a gateway with two workers")
        if facts:
            show.fact("an interrupted demo lies here: going on where it stopped")
        settings = load_settings(config)
        with open_house(settings, say=show.fact, before=[each.program() for each in chosen], config=config) as house:
            with told_on(folder, SIZES[size], chosen, keys, show, house, facts, started) as telling:
                introduce(telling)
                traffic(telling)
                references(telling)
                run = search(telling)
                bring_to_traffic(telling, run)
                roll_back(telling)
                final = conclude(telling, run)
            if stay:
                show.fact(f"The house stays open: {house.url}/console. Ctrl-C closes it.")
                stay_open(house)
    print(json.dumps(final, indent=1, ensure_ascii=False) if as_json else "\n" + summary.page(final))


# --- 1. the stage ----------------------------------------------------------------------------------------------------


def introduce(telling: Telling) -> None:
    """Say what runs, and see that version 1 is served by every worker."""
    show = telling.show
    for model in telling.models:
        show.fact(
            f"{model.role} model {model.name} ({model.path.stat().st_size / 1e6:.0f} MB), one thread, at {model.url}"
        )
    workers = telling.fleet.meet()
    deployment = telling.operator.deployment()
    show.fact(f"gateway at {telling.house.url} with {workers} workers; version {deployment['stable']} is stable:")
    show.fact(f"  {telling.operator.version(deployment['stable'])['system_prompt']}")
    served = telling.fleet.versions()
    show.fact("workers serve " + ", ".join(f"version {version} (process {pid})" for pid, version in served.items()))


# --- 2. traffic ------------------------------------------------------------------------------------------------------


def rows_of(sizes: Sizes) -> list[Row]:
    """The rows that become traffic: all tasks in turn."""
    tasks = [(name, sizes.traffic) for name in SOURCES] + [(UNSEEN, sizes.unseen)]
    return list(
        in_turn([(read_rows(DATA / n, "train", most) + read_rows(DATA / n, "test", most))[:most] for n, most in tasks])
    )


def traffic(telling: Telling) -> None:
    """The app asks; the gateway adds the domain's prompt, answers, and keeps scrubbed samples."""
    rows = rows_of(telling.sizes)
    done = {exchange.row: exchange for exchange in telling.notebook.read()}
    telling.show.step(f"Traffic: an app on the OpenAI SDK asks {len(rows)} questions")
    telling.show.fact(f"user prompt of the app: {USER_PROMPT!r}; it sends no system prompt")
    missing = [(row, f"customer-{place // 4}") for place, row in enumerate(rows) if row.id not in done]
    with telling.show.progress("exchanges", len(rows)) as advance:

        def each(exchange: Exchange) -> None:
            telling.notebook.add(exchange)
            done[exchange.row] = exchange
            advance(len(done), repr(exchange.reply[:60]))

        telling.app.ask_all(missing, each)
    last = done[rows[-1].id]
    telling.show.fact(f"{rows[-1].question}")
    telling.show.fact(f"  -> {last.reply!r}  [x-metaspo-version: {last.version}, x-metaspo-arm: {last.arm}]")


def references(telling: Telling) -> None:
    """What the answers should have been, told later; then what was kept, scrubbed of personal data."""
    if telling.facts.get("referenced"):
        return
    rows = rows_of(telling.sizes)
    exchanges = {exchange.row: exchange for exchange in telling.notebook.read()}
    telling.show.step("References arrive through /v1/feedback; the samples are kept scrubbed")
    with telling.show.progress("references", len(rows)) as advance:
        for count, row in enumerate(rows, 1):
            telling.app.tell(exchanges[row.id].id, row.answer)
            advance(count, "")
    show_scrubbing(telling)
    settle(telling, {exchanges[row.id].id for row in rows})
    telling.keep(referenced=True)


def settle(telling: Telling, signed_ids: set[str], *, within: float = 30.0) -> None:
    """Wait until every exchange stands in the registry with its reference: after an outage of the store the gateway's
    workers bring what they queued a little later, and the search would start without it."""
    asked = {signed.partition("~")[0] for signed in signed_ids}
    until = telling.clock() + within
    while True:
        told = {sample["id"] for sample in telling.operator.samples() if sample.get("reference")}
        if asked <= told or telling.clock() > until:
            break
        time.sleep(0.25)
    telling.show.fact(f"{len(asked & told)} of {len(asked)} exchanges are kept with their reference")


def show_scrubbing(telling: Telling) -> None:
    """One exchange with personal data in it, and the sample that the registry kept of it."""
    secret = Row(
        "scrubbing", SOURCES[0], "Call me at 555-0134 or mail jane.roe@example.com, the charger broke.", "negative"
    )
    exchange = telling.app.ask(secret, "customer-jane")
    telling.traffic_calls += 1
    until = telling.clock() + 10
    while telling.clock() < until:
        kept = [sample for sample in telling.operator.samples(50) if "charger broke" in json.dumps(sample)]
        if kept:
            telling.show.fact(f"asked: {secret.question}")
            telling.show.fact(f"kept:  {kept[0]['messages'][-1]['content'].splitlines()[-1]}")
            break
        time.sleep(0.2)
    telling.app.tell(exchange.id, secret.answer)


# --- 3. the search ---------------------------------------------------------------------------------------------------


def search(telling: Telling) -> Json:
    """Ask for a re-optimization and follow it to its end."""
    show, operator = telling.show, telling.operator
    show.step("A re-optimization is asked for; the search runs in the jobs worker")
    run_id = telling.facts.get("run")
    if run_id is None:
        options = {"safety_per_suite": telling.sizes.safety, "headroom_cells": 0}
        run_id = operator.optimize(unseen=[UNSEEN], options=options, why="the demo's references have arrived")
        telling.keep(run=run_id)
    show.fact(
        f"run {run_id}, at most {telling.sizes.calls} calls; held-out examples: half of each task; unseen: {UNSEEN}"
    )
    budget = telling.sizes.calls
    with show.progress("calls", budget) as advance:
        doing = told = ""
        for event in operator.follow(run_id):
            if event["kind"] == "progress":
                advance(min(event["data"]["calls"], budget), doing)
            elif event.get("message") and event["message"] != told:
                doing, told = event["kind"], event["message"]
                show.fact(f"{doing}: {told}")
    return operator.run(run_id)


# --- 4. to traffic and back ------------------------------------------------------------------------------------------


def bring_to_traffic(telling: Telling, run: Json) -> None:
    """A passed gate leads to canary and promotion; any other outcome to a rehearsal that is marked as one."""
    gate = run.get("gate") or {}
    if gate.get("outcome") == "PASS" and run.get("version"):
        telling.keep(version=run["version"], finalist=run["version"], promoted_by="operator")
        why = f"passed the gate of run {run['id']}; canary shown, cut short for the demo"
        if telling.operator.deployment()["stable"] != run["version"]:
            canary(telling, run["version"])
    else:
        asked = "did not pass" if gate else "was not asked"
        telling.show.step(f"The gate {asked}: the operator rehearses promotion and rollback")
        found = (run.get("result") or {}).get("winner")
        text = found if found and found != FIRST_PROMPT else REHEARSAL_PROMPT
        number = telling.operator.add_version(text, "to rehearse with")
        telling.keep(version=number, finalist=number if text == found else None, promoted_by="operator_rehearsal")
        outcome = f"the gate said {gate['outcome']}" if gate else "there was nothing to put before the gate"
        why = f"REHEARSAL by the operator; {outcome}"
    promote(telling, telling.facts["version"], why)


def canary(telling: Telling, version: int) -> None:
    """A person approves; half of the units meet the new version, the other half is its control."""
    show, operator = telling.show, telling.operator
    show.step(f"Version {version} goes to canary")
    pending = [approval for approval in operator.waiting() if approval["version"] == version]
    if pending:
        show.fact(f"the policy asks a person: {pending[0]['reason']}")
        operator.approve(pending[0]["id"], "the demo's operator agrees")
        until = telling.clock() + 20
        while operator.deployment()["canary"] != version and telling.clock() < until:
            time.sleep(0.1)
    if operator.deployment()["canary"] != version:
        operator.move("canary", version=version, share=0.5, why="passed the gate; started by hand")
    rows = read_rows(DATA / UNSEEN, "test", 80)[-telling.sizes.canary :]
    done = telling.app.ask_all([(row, f"visitor-{row.id}") for row in rows], lambda _: None)
    telling.traffic_calls += len(done)
    for row, exchange in zip(rows, done, strict=True):
        telling.app.tell(exchange.id, row.answer)
    arms = sorted({(exchange.arm, exchange.version) for exchange in done}, key=str)
    for arm, number in arms:
        own = [(row, e) for row, e in zip(rows, done, strict=True) if (e.arm, e.version) == (arm, number)]
        right = sum(first_label(exchange.reply) == row.answer for row, exchange in own)
        show.fact(f"arm {arm}, version {number}: {right} of {len(own)} replies name the right label first")


def promote(telling: Telling, version: int, why: str) -> None:
    """Move the pointer and see how long it takes until every worker serves it."""
    telling.show.step(f"Version {version} is promoted")
    telling.fleet.meet()
    before = telling.operator.deployment()["stable"]
    if before != version:  # an interrupted demo may have got as far as this
        telling.operator.move("promote", version=version, why=why)
    took = telling.fleet.until(version, since=telling.clock(), clock=telling.clock)
    telling.keep(promoted_seen_after_ms=round(took, 1))
    workers = len(telling.fleet.connections)
    telling.show.fact(
        f"version {before} -> {version}: all {workers} workers answered with it {took:.0f} ms after the promotion"
    )
    row = rows_of(telling.sizes)[0]
    exchange = telling.app.ask(row, "customer-0")
    telling.traffic_calls += 1
    telling.show.fact(f"the app's next request: {exchange.reply!r}  [x-metaspo-version: {exchange.version}]")


def roll_back(telling: Telling) -> None:
    """One move takes it back; then the app is served version 1 again."""
    telling.show.step("Rollback")
    pointers = telling.operator.move("rollback", why="the demo shows that it can be taken back")
    took = telling.fleet.until(pointers["stable"], since=telling.clock(), clock=telling.clock)
    telling.keep(rolled_back_seen_after_ms=round(took, 1))
    telling.show.fact(
        f"version {pointers['stable']} is stable again, on every worker after {took:.0f} ms; no process was restarted"
    )


# --- 5. the summary --------------------------------------------------------------------------------------------------


def conclude(telling: Telling, run: Json) -> Json:
    """Put together what was measured, write it, and return it."""
    result, facts = run.get("result") or {}, telling.facts
    first = run.get("incumbent") or 1
    first_text = telling.operator.version(first)["system_prompt"]
    gate = run.get("gate") or {"outcome": "NOT RUN", "reason": run.get("reason") or "the search did not end"}
    by_role = {model.role: model for model in telling.models}
    names = {role: by_role[role].name if role in by_role else None for role in ("base", "optimizer", "judge")}
    final: Json = {
        "incumbent": summary.scores_of(result, "incumbent", first, first_text),
        "winner": summary.scores_of(result, "winner", facts["finalist"], result.get("winner")),
        "constant_baseline": summary.constant_baseline(result, SOURCES, UNSEEN),
        "gate": gate,
        "calls": {**(run.get("calls") or {}), "traffic": telling.traffic_calls + len(telling.notebook.read())},
        "cost_usd": run.get("usd", 0.0),
        "wall_seconds": round(telling.seconds(), 1),
        "search_seconds": result.get("wall_seconds"),
        "proposer": result.get("proposer", "none"),
        "models": names,
        "model_files": {model.path.name: sha256(model.path) for model in by_role.values()},
        "promoted_by": facts["promoted_by"],
        "promoted_version": facts["version"],
        "promoted_seen_after_ms": facts["promoted_seen_after_ms"],
        "rolled_back_seen_after_ms": facts["rolled_back_seen_after_ms"],
        "deployment": telling.operator.deployment(),
        "audit": [
            {key: entry.get(key) for key in ("seq", "at", "kind", "actor", "why")} for entry in telling.operator.audit()
        ],
        "run": {key: run.get(key) for key in ("id", "method", "state", "reason", "version")},
        "notes": result.get("notes", []),
        "cuts": summary.cuts(telling.sizes, telling.models, gate),
        "console": f"{telling.house.url}/console",
        "reopen": f"{summary.command()} --config {telling.folder / 'metaspo.yaml'} up",
        "file": str(telling.folder / "summary.json"),
    }
    summary.write(final, telling.folder)
    return final


def sha256(path: Path) -> str:
    """The hash of a model file, so that the figures name what they were measured on."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
