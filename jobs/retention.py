"""Job ``retention``: what the registry does not let expire by itself, and what lies on this machine's disk.

Records in the registry carry their own lifetimes (``retention`` in the settings). Left over are the folders of
searches and judging rounds under ``home``: those of runs that have ended, or that nobody knows any more, go after a
week; and the records of gateway keys that were revoked a quarter of a year ago.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterable
from pathlib import Path

from jobs.work import Work
from registry import Run

KEEP_DAYS = 7.0
DAY = 86_400.0


async def run(work: Work) -> str:
    """Remove old folders of this machine, and keys that were revoked long ago."""
    home = Path(work.settings.home)
    runs = {r.id: r for r in await work.registry.list_runs(limit=2_000)}
    now = work.clock()
    old = [
        *stale(_folders(home / "runs"), runs, now),
        *(f for domain, _ in _folders(home / "judging") for f, at in _folders(domain) if now - at > DAY),
    ]
    for folder in old:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    keys = await work.registry.drop_old_keys()
    return f"{len(old)} folders of old runs removed" + (f", {keys} old keys" if keys else "")


def stale(folders: Iterable[tuple[Path, float]], runs: dict[str, Run], now: float) -> list[Path]:
    """Folders (with the time of their last change) whose run is over, and has been for a while."""
    gone = []
    for folder, changed in folders:
        run = runs.get(folder.name)
        under_way = run is not None and run.state in {"queued", "running"}
        if not under_way and now - changed > KEEP_DAYS * DAY:
            gone.append(folder)
    return gone


def _folders(parent: Path) -> list[tuple[Path, float]]:
    """Sub-folders with the newest change in each; none where there is no such folder."""
    if not parent.is_dir():
        return []
    return [
        (f, max((p.stat().st_mtime for p in [f, *f.iterdir()]), default=0.0)) for f in parent.iterdir() if f.is_dir()
    ]
