"""Right answers per label, for every row of docs/results/raw.jsonl: does a prompt read, or does it lean?

``python benchmarks/paper_recall.py benchmarks/paper_evidence.yaml --data DIR [DOMAIN ...]`` needs the data that the
rows were measured on, for raw rows keep which questions were right and not what their answers are.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
from msgspec.structs import replace

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from optimizer.paper.protocol import load_protocol  # noqa: E402
from optimizer.paper.raw import RawRow, read_raw  # noqa: E402
from optimizer.paper.run import Run  # noqa: E402
from optimizer.records import SearchTask  # noqa: E402


def recall(row: RawRow, task: SearchTask) -> dict[str, tuple[float, int]]:
    """Label -> share of right answers among the questions whose answer it is, and their number."""
    scored = list(zip(row.per_question, (example.answers[0] for example in task.holdout), strict=True))
    groups = {label: [score for score, answer in scored if answer == label] for label in task.judge.labels}
    return {label: (sum(filter(None, group)) / len(group), len(group)) for label, group in groups.items() if group}


@click.command(help=__doc__)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("domains", nargs=-1)
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
def main(file: Path, domains: tuple[str, ...], data: Path) -> None:
    run = Run(replace(load_protocol(file), data=data), clock=time.time, say=click.echo)
    run.load_tasks()
    for row in read_raw(ROOT / "docs" / "results" / "raw.jsonl"):
        task = run.tasks[row.task]
        if task.judge.labels and row.per_question and (not domains or row.domain in domains):
            shares = ", ".join(f"{label} {share:.2f} of {n}" for label, (share, n) in recall(row, task).items())
            click.echo(f"{row.domain} {row.task} {row.role} {row.method} seed {row.seed}: right where {shares}")


if __name__ == "__main__":
    main()
