"""The protocol, cell by cell. A finished cell is a file and is never run again; an unfinished one resumes from its
journals, so the run may be killed at any moment. After every cell the raw results are written anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from optimizer.errors import RunBlocked
from optimizer.evaluation.evaluation import Evaluation, ignore
from optimizer.paper.catalogue import PaperTask
from optimizer.paper.estimate import CellEstimate, estimate_cell, estimate_user_prompts
from optimizer.paper.finding import Outcome, adaptation_spec, followed, found_prompt, saturated
from optimizer.paper.keeping import CellResult, cell_file, publish, read_cell, sha256_of
from optimizer.paper.measure import Backends, Measured, constant_answer, journal_spec, measure
from optimizer.paper.methods import PUBLISHED_LOOPS
from optimizer.paper.protocol import GLOBAL, Cell, Protocol, cells_of, sources_of, unseen_of
from optimizer.paper.raw import RawRow, Step, write_lines
from optimizer.paper.rows import Fetch, load
from optimizer.paper.sessions import begin, worked
from optimizer.paper.user_prompts import UserPrompts, guessed, own_wordings, read_user_prompts
from optimizer.records import Event, Models, SearchTask
from optimizer.steps.racing import CHARACTERS_PER_TOKEN

Say = Callable[[str], None]


@dataclass
class Run:
    """The state of one run; everything in it can be rebuilt from ``home``."""

    protocol: Protocol
    clock: Callable[[], float]
    say: Say
    backends: Backends = None
    fetch: Fetch | None = None
    on_event: Callable[[Event], None] = ignore
    at_cell: Callable[[int, int], None] = lambda done, total: None  # noqa: ARG005 -- calls of finished cells, of all
    tasks: dict[str, SearchTask] = field(default_factory=dict)
    user_prompts: dict[str, UserPrompts] = field(default_factory=dict)

    # --- the story ---------------------------------------------------------------------------------------------------

    async def all(self) -> list[RawRow]:
        """Every cell that is not finished, then the raw results. Raises ``OptimizerError``; what is paid for stays."""
        self.load_tasks()
        await self._make_user_prompts()
        cells = cells_of(self.protocol)
        estimates = {cell: self.estimate(cell) for cell in cells}
        self._publish(cells, estimates)
        spent_calls, spent_seconds, finished = 0, 0.0, 0
        ahead = sum(estimates[cell].calls for cell in cells if self.result(cell) is None)
        self.at_cell(0, ahead)
        for number, cell in enumerate(cells, start=1):
            if self.result(cell) is not None:
                continue
            self.say(f"[{number}/{len(cells)}] {cell.title}: up to {estimates[cell].calls:,} calls")
            began = self.clock()
            done = await self._run(cell)
            write_lines(self._file(cell), [done])
            now_spent = self.clock() - began  # of this session alone, as its fresh calls are
            spent_calls, spent_seconds = spent_calls + done.fresh_calls, spent_seconds + now_spent
            waiting = sum(estimates[c].calls for c in cells[number:] if self.result(c) is None)
            self.say(f"    {_told(done, now_spent)}; {_left(waiting, spent_calls, spent_seconds)}")
            finished += estimates[cell].calls
            self.at_cell(finished, ahead)
            self._publish(cells, estimates)
        return self.rows(cells)

    async def _run(self, cell: Cell, within: str = "") -> CellResult:
        home, name = self.protocol.home, self._file(cell).stem
        begin(home, name, self.clock(), within=within)
        try:
            outcome = await self._found(cell)
            found = await (self._adapted(cell, outcome) if cell.adapted else self._measured(cell, outcome))
        except RunBlocked as why:  # this cell cannot be run with these models or extras; the others can
            return CellResult(outcome=Outcome(prompt="", reason=str(why)), left_out=str(why))
        rows, fresh = found
        return CellResult(
            outcome=outcome,
            rows=tuple(rows),
            seconds=worked(home, name, self.clock()),
            fresh_calls=fresh + outcome.fresh_calls,
        )

    async def _found(self, cell: Cell) -> Outcome:
        """The prompt of the cell: found before by the cell that it builds on, or searched now."""
        if cell.method == "constant":
            return Outcome(prompt="", reason="The most frequent answer of the test rows, whatever is asked.")
        origin = cell.found_by
        if cell != origin:
            before = self.result(origin)
            if before is None:
                before = await self._run(origin, within=self._file(cell).stem)
                write_lines(self._file(origin), [before])
            if before.left_out:
                raise RunBlocked(before.left_out)
            return replace(before.outcome, fresh_calls=0)
        tasks = [self.tasks[task.name] for task in sources_of(self.protocol, cell.domain)]
        ours = self.result(replace(cell, method="metaspo"))
        return await found_prompt(
            self.protocol,
            cell,
            tasks[: cell.sources or None],
            gepa_calls=ours.outcome.requested_calls if ours else 0,
            clock=self.clock,
            on_event=self.on_event,
            backends=self.backends,
        )

    async def _measured(self, cell: Cell, outcome: Outcome) -> tuple[list[RawRow], int]:
        """Unseen tasks under their un-optimized user prompts, source tasks under their own."""
        rows, fresh = [], 0
        sources = sources_of(self.protocol, cell.domain) if self.protocol.measure_sources else ()
        for entry in (*unseen_of(self.protocol, cell.domain), *sources):
            task = self.tasks[entry.name]
            prompts = self.user_prompts[entry.name].prompts if entry.role == "unseen" else (task.user_prompt,)
            if cell.method == "constant":
                if task.by_model:
                    continue
                measured, answer = constant_answer(task, entry.published)
                outcome, prompts = replace(outcome, reason=f"Always {answer!r}."), ("",)
            else:
                measured = await self._measure(cell, entry, outcome.prompt, prompts)
            fresh += measured.fresh_calls
            rows.append(self._row(cell, entry, outcome, measured, user_prompts=prompts))
        return rows, fresh

    async def _adapted(self, cell: Cell, outcome: Outcome) -> tuple[list[RawRow], int]:
        """Each unseen task with its user prompt tuned on its own training rows under the frozen system prompt."""
        rows, fresh = [], 0
        for entry in unseen_of(self.protocol, cell.domain):
            task = self.tasks[entry.name]
            full = await saturated(self.protocol, [task], outcome.prompt, clock=self.clock, backends=self.backends)
            if full:
                tuned = Outcome(prompt=outcome.prompt, reason="At the ceiling: nothing was tuned.", saturated=full)
            else:
                spec = adaptation_spec(self.protocol, cell, outcome.prompt, task)
                tuned = await followed(spec, clock=self.clock, on_event=self.on_event, backends=self.backends)
            steps = [Step(calls=0), *tuned.curve]
            curve = []
            for step, prompt in zip(steps, (task.user_prompt, *tuned.user_prompts), strict=True):
                measured = await self._measure(cell, entry, outcome.prompt, (prompt,))
                fresh += measured.fresh_calls
                curve.append(replace(step, test=measured.score.interval.score))
            tuned = replace(tuned, curve=tuple(curve))
            fresh += tuned.fresh_calls
            rows.append(self._row(cell, entry, tuned, measured, user_prompts=(prompt,)))
        return rows, fresh

    # --- its parts ---------------------------------------------------------------------------------------------------

    def load_tasks(self) -> None:
        """Load every task that a cell needs. Raises ``DataError``."""
        for entries in self.protocol.domains.values():
            for entry in entries:
                if entry.name not in self.tasks:
                    self.tasks[entry.name] = load(
                        entry,
                        data=self.protocol.data,
                        cache=self.protocol.home / "rows",
                        train=self.protocol.train_rows,
                        test=self.protocol.test_rows,
                        fewer=self.protocol.fewer,
                        fetch=self.fetch,
                    )

    async def _make_user_prompts(self) -> None:
        """The un-optimized user prompts of every unseen task: stored ones, else made now and stored."""
        path = self.protocol.home / "user_prompts.jsonl"
        self.user_prompts = read_user_prompts(path)
        for entry in unseen_of(self.protocol, GLOBAL):
            stored = self.user_prompts.get(entry.name)
            if stored is not None and len(stored.prompts) == self.protocol.user_prompts:
                continue
            self.user_prompts[entry.name] = await self._new_user_prompts(entry)
            write_lines(path, self.user_prompts.values())

    async def _new_user_prompts(self, entry: PaperTask) -> UserPrompts:
        task, number, optimizer = self.tasks[entry.name], self.protocol.user_prompts, self.protocol.models.optimizer
        if self.protocol.user_prompts_by == "own" or optimizer is None:
            return own_wordings(task, number)
        self.say(f"user prompts of {task.name}, by {optimizer.identity}")
        spec = journal_spec(self.protocol.models, task, self.protocol.home / "user_prompts")
        spec = replace(spec, models=replace(spec.models, optimizer=optimizer))
        async with Evaluation.open(spec, clock=self.clock, backends=self.backends) as evaluation:
            made = await guessed(
                task, entry.suffix, evaluation, number, seed=self.protocol.seeds[0], author=optimizer.identity
            )
            evaluation.finished()
        return made

    async def _measure(self, cell: Cell, entry: PaperTask, system: str, prompts: tuple[str, ...]) -> Measured:
        return await measure(
            self._models(cell),
            self.tasks[entry.name],
            system,
            prompts,
            ask=self.protocol.ask,
            quirk=entry.published,
            home=self.protocol.home / "measure",
            clock=self.clock,
            backends=self.backends,
        )

    def _models(self, cell: Cell) -> Models:
        models = self.protocol.models
        return replace(models, base=self.protocol.other_bases[cell.base - 1]) if cell.base else models

    def _row(
        self, cell: Cell, entry: PaperTask, outcome: Outcome, measured: Measured, *, user_prompts: tuple[str, ...]
    ) -> RawRow:
        protocol, interval = self.protocol, measured.score.interval
        optimizer = protocol.models.optimizer
        return RawRow(
            method=cell.method,
            domain=self._domain_of(entry),
            task=entry.name,
            role=entry.role,
            seed=cell.seed,
            n=measured.questions,
            score=interval.score,
            low=interval.low,
            high=interval.high,
            base_model=self._models(cell).base.identity,
            optimizer_model=optimizer.identity if optimizer else "",
            base_calls=outcome.base_calls,
            optimizer_calls=outcome.optimizer_calls,
            prompt_tokens=-(-len(outcome.prompt) // int(CHARACTERS_PER_TOKEN)),
            scope="global" if cell.domain == GLOBAL else "domain",
            sources=cell.sources,
            adapted=cell.adapted,
            found_on=protocol.models.base.identity if cell.base else "",
            answers=measured.answers,
            user_prompts=len(user_prompts),
            user_prompt_scores=measured.by_prompt if len(user_prompts) > 1 else (),
            per_question=measured.per_question,
            clusters=measured.clusters,
            metric=self.tasks[entry.name].judge.kind,
            published_score=measured.published,
            malformed=measured.score.malformed,
            untagged=measured.untagged,
            unscored=measured.score.unscored,
            judge_calls=measured.judge_calls,
            requested_calls=outcome.requested_calls,
            wall_seconds=round(outcome.wall_seconds, 1),
            saturated=entry.name in outcome.saturated,
            curve=outcome.curve,
            prompt_sha256=sha256_of(outcome.prompt) if cell.method != "constant" else "",
            user_prompts_sha256=sha256_of("\0".join(user_prompts)),
            reason=outcome.reason,
            sizes=_sizes(protocol) if cell.method in PUBLISHED_LOOPS or cell.adapted else "",
            protocol=protocol.label,
        )

    def _domain_of(self, entry: PaperTask) -> str:
        """The domain that the run puts a task in: a file may group tasks in its own way."""
        return next(name for name, tasks in self.protocol.domains.items() if entry in tasks)

    def estimate(self, cell: Cell) -> CellEstimate:
        """What the cell will ask for, at most."""
        return estimate_cell(self.protocol, cell, self.tasks)

    def estimates(self) -> list[tuple[Cell | None, CellEstimate]]:
        """What every cell will ask for; first (None) what the user prompts take, where a model writes them."""
        written = estimate_user_prompts(self.protocol)
        rows: list[tuple[Cell | None, CellEstimate]] = [(None, written)] if written.calls else []
        return rows + [(cell, self.estimate(cell)) for cell in cells_of(self.protocol)]

    # --- what is kept ------------------------------------------------------------------------------------------------

    def result(self, cell: Cell) -> CellResult | None:
        """A finished cell, or None. Raises ``DataError`` for a damaged file."""
        return read_cell(self._file(cell))

    def rows(self, cells: list[Cell]) -> list[RawRow]:
        """The raw rows of all finished cells."""
        return [row for cell in cells if (done := self.result(cell)) is not None for row in done.rows]

    def _file(self, cell: Cell) -> Path:
        return cell_file(self.protocol, cell, self.tasks, self.user_prompts)

    def _publish(self, cells: list[Cell], estimates: dict[Cell, CellEstimate]) -> None:
        """Raw results, prompts and ledger as they are now: partial tables can be made at any time."""
        done = {cell: found for cell in cells if (found := self.result(cell)) is not None}
        estimated = estimate_user_prompts(self.protocol).calls + sum(estimates[cell].calls for cell in done)
        publish(self.protocol, done, cells=len(cells), estimated=estimated)


def _sizes(protocol: Protocol) -> str:
    """The published letters of the loop: a row of reduced sizes is named as that."""
    s = protocol.sizes
    return f"N={s.iterations} m={s.user_candidates} k={s.user_keep} C={s.system_candidates} n={s.train_size}"


def _told(done: CellResult, seconds: float) -> str:
    if done.left_out:
        return f"left out: {done.left_out}"
    unseen = [row.score for row in done.rows if row.role == "unseen"]
    shown = f"mean of unseen tasks {100 * sum(unseen) / len(unseen):.1f}" if unseen else f"{len(done.rows)} rows"
    return f"{shown}, {done.fresh_calls:,} calls in {seconds:,.0f} s"


def _left(calls: int, spent_calls: int, spent_seconds: float) -> str:
    """How long the rest takes at the pace so far, at most."""
    if not calls:
        return "nothing is left"
    if not spent_calls:
        return f"at most {calls:,} calls are left"
    minutes = calls * spent_seconds / spent_calls / 60
    shown = f"{minutes / 60:.1f} hours" if minutes >= 90 else f"{minutes:.0f} minutes"
    return f"at most {calls:,} calls or about {shown} are left"
