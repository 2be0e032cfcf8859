"""What the demo measured, as ``summary.json`` and as one page. Nothing here is computed but read and put in order."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from demo.app import ANSWER_TOKENS
from demo.stage import LocalModel, Sizes

Json = dict[str, Any]


def scores_of(result: Mapping[str, Any], side: str, version: int | None, text: str | None) -> Json:
    """``incumbent`` or ``winner`` of a run's result: mean scores over tasks with their 95 % intervals, or None."""
    measured = result.get(f"{side}_scores") or {}
    return {
        "version": version,
        "system_prompt": text,
        "holdout": _mean(measured, "holdout"),
        "unseen": _mean(measured, "unseen"),
        "tasks": {
            name: score["interval"] for part in measured.values() for name, score in (part.get("tasks") or {}).items()
        },
    }


def _mean(measured: Mapping[str, Any], split: str) -> Json | None:
    mean = (measured.get(split) or {}).get("mean")
    return dict(mean) if mean else None


def constant_baseline(result: Mapping[str, Any], sources: Sequence[str], unseen: str) -> Json:
    """What the most frequent label alone would have scored on the same examples."""
    by_task = dict(result.get("constant_baseline") or {})
    known = [by_task[name] for name in sources if name in by_task]
    return {
        "holdout": round(sum(known) / len(known), 4) if known else None,
        "unseen": by_task.get(unseen),
        "tasks": by_task,
    }


def command() -> str:
    """How this program is called again: by name where it is on the PATH, else by the path it was called by."""
    called = Path(sys.argv[0])
    return "metaspo" if called.name != "metaspo" or shutil.which("metaspo") else str(called)


def write(summary: Json, folder: Path) -> Path:
    """Write ``folder/summary.json`` in one piece and return its path."""
    path = folder / "summary.json"
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", "utf-8")
    draft.replace(path)
    return path


def page(summary: Json) -> str:
    """The summary on one page, for a terminal."""
    before, after, gate = summary["incumbent"], summary["winner"], summary["gate"]
    constant = summary["constant_baseline"]
    lines = [
        "metaspo demo: what was measured",
        "",
        f"  {'':24}{'held-out examples':>28}{'unseen task':>28}",
        _row(f"version {before['version']}", before),
        _row("finalist" if after["version"] is None else f"finalist = version {after['version']}", after),
        f"  {'constant answer':24}{_share(constant['holdout']):>28}{_share(constant['unseen']):>28}",
        "",
        f"  version {before['version']}:  {before['system_prompt']}",
        f"  finalist:   {after['system_prompt'] or 'none: the search did not run'}",
        "",
        f"  gate        {gate['outcome']}. {gate['reason']}",
        f"  promoted    {_promotion(summary)}",
        f"  search      {_proposer(summary['proposer'])}",
        f"  calls       {', '.join(f'{count:,} {role}' for role, count in summary['calls'].items() if count)}",
        f"  models      {'; '.join(f'{role}: {model}' for role, model in summary['models'].items() if model)}",
        f"  wall time   {summary['wall_seconds']:.0f} s",
        "",
        "  audit",
        *(f"    {entry['kind']:9} by {entry['actor']}: {entry['why']}" for entry in summary["audit"]),
        "",
        "  smaller than in production, to fit a few minutes",
        *(f"    - {cut}" for cut in summary["cuts"]),
        "",
        f"  console     {summary['console']} (closed now; to open it, with the operator's key of .env:)",
        f"              {summary['reopen']}",
        f"  summary     {summary['file']}",
    ]
    return "\n".join(lines)


def _row(name: str, side: Json) -> str:
    return f"  {name:24}{_interval(side['holdout']):>28}{_interval(side['unseen']):>28}"


def _interval(score: Json | None) -> str:
    if not score:
        return "not measured"
    return f"{score['score']:.3f} ({score['low']:.3f}..{score['high']:.3f}) n={score['n']}"


def _share(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"


def _promotion(summary: Json) -> str:
    seen = summary["promoted_seen_after_ms"]
    how = {
        "operator": "by the operator, after the gate and a canary (a domain's first promotion is always a person's)",
        "operator_rehearsal": "as a REHEARSAL by the operator, since no gate was passed; taken back",
    }[summary["promoted_by"]]
    return f"{how}; every worker served it after {seen:.0f} ms"


def _proposer(kind: str | None) -> str:
    return {
        "components": "edits over a corpus of prompt components (the model is too small to write prompts)",
        "rewrite": "MetaSPO's analyse-and-rewrite by the optimizer model",
    }.get(kind or "", "none")


def cuts(sizes: Sizes, models: Sequence[LocalModel], gate: Json) -> list[str]:
    """Every size that is smaller here than the product's own defaults."""
    named = [
        f"search: {sizes.calls} calls, the default is 6,000",
        "headroom: whether prompts matter here at all is not asked first (that is up to an eighth of the calls)",
        f"traffic: {sizes.traffic} exchanges per source task, so about {sizes.traffic // 2} held out of each, not 100",
        f"safety: {sizes.safety} items of each of the three suites, not 100",
        f"answers: at most {ANSWER_TOKENS} tokens (replies to safety items: 64)",
        f"canary: {sizes.canary} exchanges at 50 %, then the operator's word; the rule is 4,400 per arm over days",
        "source tasks are near to each other: three kinds of customer feedback",
    ]
    unmeasured = [row["name"] for row in gate.get("table", []) if row.get("passed") is None]
    if unmeasured:
        named.append(f"gate rules without evidence in this run: {', '.join(unmeasured)}")
    if all(model.role == "base" for model in models):
        named.append("no optimizer model: prompts are edited from components, not written")
    return named
