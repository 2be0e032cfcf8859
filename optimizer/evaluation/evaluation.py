"""What a search method may do to the outside world, the same for all methods: rollouts, optimizer calls, verdicts,
events.

A method asks and gets data. Every call goes through ``calls.py``, so each distinct request is paid for once
per run, also when the process is killed and the run resumed. A failure of one example is a ``Rollout`` without a
score; the endpoint's, the budget's and the journal's failures are exceptions.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from optimizer.errors import RunBlocked
from optimizer.evaluation.calls import Calls
from optimizer.evaluation.rollouts import render, rollout_of, verdicts
from optimizer.evaluation.scoring import task_score
from optimizer.judges import ModelJudge, judge_for
from optimizer.models import Backend, endpoint_of, open_backend, price_of
from optimizer.records import (
    Budget,
    Completion,
    Event,
    Example,
    Ledger,
    Message,
    ModelRole,
    ModelSpec,
    Request,
    Rollout,
    SearchSpec,
    SearchTask,
    TaskScore,
    Verdict,
)
from optimizer.run.fingerprint import finish, journal_of
from optimizer.run.journal import Journal
from optimizer.run.spending import Price, Spending

OnEvent = Callable[[Event], None]

_TEMPERATURE: Mapping[ModelRole, float] = {"base": 0.0, "optimizer": 1.0, "judge": 0.0, "audit_judge": 0.0}
_MAX_TOKENS: Mapping[ModelRole, int] = {"base": 512, "optimizer": 2048, "judge": 1024, "audit_judge": 1024}
_PROGRESS_SECONDS = 0.5


def ignore(event: Event) -> None:
    """Follow nothing."""


class Evaluation:
    """Everything a method may do to the outside world. Open it with ``Evaluation.open``."""

    def __init__(
        self,
        models: Mapping[ModelRole, ModelSpec],
        backends: Mapping[ModelRole, Backend],
        journal: Journal,
        *,
        budget: Budget = Budget(),  # noqa: B008 -- a frozen value
        seed: int = 0,
        prices: Mapping[ModelRole, Price] | None = None,
        clock: Callable[[], float],
        on_event: OnEvent = ignore,
        new_secret: Callable[[], str] = secrets.token_hex,
    ) -> None:
        self._models = models
        self._backends = backends
        self._journal = journal
        self._seed = seed
        self._clock = clock
        self._on_event = on_event
        self._prices = dict(prices or {})
        self._spending = Spending(budget, self._prices)
        self._calls = Calls(backends, journal, self._spending, clock=clock, on_paid=self._progress)
        self._shown_at = 0.0
        self.notes: list[str] = []
        secret = journal.note("secret")
        if secret is None:
            secret = new_secret()
            journal.set_note("secret", secret)
        self._secret = bytes.fromhex(secret)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        spec: SearchSpec,
        *,
        clock: Callable[[], float],
        on_event: OnEvent = ignore,
        backends: Mapping[ModelRole, Backend] | None = None,
    ) -> AsyncIterator[Evaluation]:
        """The evaluation of one run, its journal in ``spec.home``.

        ``backends`` stand in for the models of their roles. Raises ``JournalError`` when an unfinished run of the same
        spec lies there and ``spec.resume`` is not set.
        """
        specs = {role: model for role in _TEMPERATURE if (model := spec.models.role(role)) is not None}
        opened: dict[ModelRole, Backend] = dict(backends or {})
        shared: dict[bytes, Backend] = {}
        notes: list[str] = []
        async with AsyncExitStack() as stack:
            journal = journal_of(spec)
            stack.callback(journal.close)
            journal.opened(clock())
            for role, model in specs.items():
                if role not in opened:
                    endpoint = endpoint_of(model)
                    if endpoint not in shared:
                        shared[endpoint] = open_backend(model, journal=journal, note=notes.append)
                        stack.push_async_callback(shared[endpoint].close)
                    opened[role] = shared[endpoint]
            evaluation = cls(
                specs,
                opened,
                journal,
                budget=spec.budget,
                seed=spec.seed,
                prices={role: price_of(model) for role, model in specs.items()},
                clock=clock,
                on_event=on_event,
            )
            evaluation.notes = notes
            evaluation._check_prices()
            yield evaluation

    # --- what a method may do ----------------------------------------------------------------------------------------

    async def rollouts(
        self,
        system: str,
        task: SearchTask,
        user_prompt: str,
        examples: Sequence[Example],
        *,
        sample: int = 0,
        room: int = 0,
    ) -> list[Rollout]:
        """One rollout per example, in order: the base model's reply under (system prompt, user prompt), judged.

        ``room``: tokens that a reply may have at least, where the base model is held to shorter ones.
        The whole block is held against the budget before its first call: it is made wholly or, with ``BudgetSpent``,
        not at all (a limit in USD may also stop it midway). Raises ``EndpointRefused``, ``EndpointDown``,
        ``JournalError``.
        """
        longest = max(self._longest("base"), room)
        requests = [
            self.request(
                "base",
                render(system, user_prompt, example),
                sample=sample,
                purpose=f"{task.name}/{example.id}",
                max_tokens=longest,
            )
            for example in examples
        ]
        by_model = isinstance(judge_for(task.judge), ModelJudge)
        replies = await self._calls.replies(requests, judged=by_model)
        found = await self._verdicts(task, examples, replies, "judge")
        return [
            rollout_of(example, reply, verdict, by_model=by_model)
            for example, reply, verdict in zip(examples, replies, found, strict=True)
        ]

    async def optimize_call(
        self,
        messages: Sequence[Message],
        *,
        purpose: str,
        n: int = 0,
        temperature: float | None = None,
        max_tokens: int | None = None,
        schema: dict[str, Any] | None = None,
    ) -> Completion:
        """A reply of the optimizer model. ``n`` numbers repeats of the same question: another ``n`` is another draw."""
        request = self.request(
            "optimizer",
            tuple(messages),
            sample=n,
            purpose=purpose,
            temperature=temperature,
            max_tokens=max_tokens,
            schema=schema,
        )
        (reply,) = await self._calls.replies([request])
        return reply

    async def judge(
        self, task: SearchTask, examples: Sequence[Example], texts: Sequence[str], *, role: ModelRole = "judge"
    ) -> list[Verdict]:
        """Verdicts on given texts: known answers for a sanity check, or a second opinion with
        ``role="audit_judge"``."""
        return await self._verdicts(task, examples, [Completion(text=text) for text in texts], role)

    async def ask(self, request: Request) -> Completion:
        """Any one call of any role, on the same path."""
        (reply,) = await self._calls.replies([request])
        return reply

    def score(self, task: SearchTask, examples: Sequence[Example], rollouts: Sequence[Rollout]) -> TaskScore:
        """The task's score on these rollouts (one per example), with its interval clustered by near-duplicates."""
        return task_score(task.judge, examples, rollouts)

    def nonce(self, text: str) -> str:
        """A 64-bit tag for wrapping untrusted text: stable within a run, unguessable for who wrote the text."""
        return hmac.new(self._secret, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:16]

    def set_aside(self, calls: int) -> None:
        """Keep ``calls`` of the budget for a later phase. Raises ``BudgetSpent`` when so many are not left."""
        self._spending.hold(calls)

    def give_back(self, calls: int) -> None:
        """Free calls that were set aside: their phase has come."""
        self._spending.release(calls)

    def reject(self, why: str) -> None:
        """Count a candidate that was refused before any base call, by reason."""
        self._spending.reject(why)

    def asked_for_headroom(self, calls: int) -> None:
        """Book ``calls`` of those paid as the headroom check's."""
        self._spending.headroom += calls

    def event(self, kind: str, message: str, **data: Any) -> None:
        """Tell followers and the journal what happened."""
        event = Event(kind=kind, message=message, at=self._clock(), data=data)
        self._journal.append_event(event)
        self._on_event(event)

    def finished(self) -> None:
        """Mark the run as done: it needs no resume any more."""
        finish(self._journal)

    def has(self, role: ModelRole) -> bool:
        """Whether a model plays ``role``."""
        return role in self._backends

    @property
    def clock(self) -> Callable[[], float]:
        """The clock that was handed in: seconds since the epoch."""
        return self._clock

    @property
    def seconds(self) -> float:
        """Seconds that this run has worked, those of earlier sessions among them and the time between them not."""
        return self._journal.worked(self._clock())

    @property
    def ledger(self) -> Ledger:
        """What was requested, paid and refused so far."""
        retries: dict[ModelRole, int] = {}
        counted: set[int] = set()
        for role, backend in self._backends.items():  # two roles may share one model: count its retries once
            if id(backend) not in counted:
                counted.add(id(backend))
                retries[role] = backend.retries
        return self._spending.ledger(retries)

    @property
    def calls_left(self) -> int | None:
        """How many more calls the budget admits; None without a limit on calls."""
        return self._spending.calls_left

    def request(
        self,
        role: ModelRole,
        messages: Iterable[Message],
        *,
        sample: int = 0,
        purpose: str = "",
        temperature: float | None = None,
        max_tokens: int | None = None,
        schema: dict[str, Any] | None = None,
    ) -> Request:
        """A request of ``role`` with the defaults of its model filled in."""
        model = self._models.get(role)
        if temperature is None:
            temperature = model.temperature if model and model.temperature is not None else _TEMPERATURE[role]
        return Request(
            role=role,
            messages=tuple(messages),
            temperature=temperature,
            max_tokens=self._longest(role) if max_tokens is None else max_tokens,
            schema=schema,
            sample=sample,
            seed=(self._seed + sample) % 2**31,
            purpose=purpose,
        )

    def _longest(self, role: ModelRole) -> int:
        """Tokens that a reply of ``role`` may have."""
        model = self._models.get(role)
        return model.max_tokens if model and model.max_tokens is not None else _MAX_TOKENS[role]

    async def _verdicts(
        self, task: SearchTask, examples: Sequence[Example], replies: Sequence[Completion], role: ModelRole
    ) -> list[Verdict]:
        async def ask(asked: Sequence[tuple[str, Request]]) -> list[Completion]:
            return await self._calls.replies(
                [
                    self.request(
                        role,
                        request.messages,
                        schema=request.schema,
                        sample=request.sample,
                        purpose=f"judge {task.name}/{example_id}",
                    )
                    for example_id, request in asked
                ]
            )

        return await verdicts(task, examples, replies, nonce=self.nonce, ask=ask)

    def _check_prices(self) -> None:
        if self._spending.budget.usd is None:
            return
        for role, price in self._prices.items():
            if not price.known:
                raise RunBlocked(
                    f"A budget in USD needs the price of the {role} model {self._models[role].model!r}: "
                    "give price_in and price_out (USD per million tokens; 0 for a local model), or use budget calls."
                )

    def _progress(self) -> None:
        now = self._clock()
        if now - self._shown_at < _PROGRESS_SECONDS:
            return
        self._shown_at = now
        data = {
            "calls": self._spending.calls,
            "usd": round(self._spending.usd, 6),
            "budget": self._spending.budget.calls,
        }
        self._on_event(Event(kind="progress", message="", at=now, data=data))
