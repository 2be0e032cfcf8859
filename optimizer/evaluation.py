"""The one path of every model call, whatever the method: cache, journal, budget, model, judge, ledger.

A method asks for rollouts or for a reply of the optimizer model and gets data. Each distinct request is paid for once
per run: a repeat is answered from the journal, also after the process was killed and the run resumed. A failure of one
example is a ``Rollout`` without a score; the endpoint's, the budget's and the journal's failures are exceptions.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from optimizer.errors import BudgetSpent, JournalError, ModelError, RunBlocked
from optimizer.journal import Journal
from optimizer.judges import judge_for
from optimizer.judges.judge import ModelJudge, addresses_grader
from optimizer.models import Backend, open_backend, price_of
from optimizer.records import (
    SLOT,
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
from optimizer.scoring import task_score
from optimizer.spending import Price, Spending

OnEvent = Callable[[Event], None]

_TEMPERATURE: Mapping[ModelRole, float] = {"base": 0.0, "optimizer": 1.0, "judge": 0.0, "audit_judge": 0.0}
_MAX_TOKENS: Mapping[ModelRole, int] = {"base": 512, "optimizer": 2048, "judge": 1024, "audit_judge": 1024}
_PROGRESS_SECONDS = 0.5

_encode = msgspec.json.Encoder(order="deterministic").encode


def ignore(event: Event) -> None:
    """Follow nothing."""


def fingerprint(spec: SearchSpec) -> str:
    """A hex name of everything that decides what a run does. Budget, addresses, keys and speed are left out, so a run
    may be resumed with more money or from another port."""
    models = [
        (role, model.identity, model.temperature, model.max_tokens, model.extra)
        for role in _TEMPERATURE
        if (model := spec.models.role(role)) is not None
    ]
    decisive = (spec.seed_prompt, spec.incumbent, spec.method, spec.faithful, spec.seed, spec.sizes, spec.options)
    return hashlib.sha256(_encode((decisive, spec.tasks, models))).hexdigest()


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
    ) -> None:
        self._models = models
        self._backends = backends
        self._journal = journal
        self._seed = seed
        self._clock = clock
        self._on_event = on_event
        self._prices = dict(prices or {})
        self._spending = Spending(budget, self._prices)
        self._seen: set[bytes] = set()
        self._flying: dict[bytes, asyncio.Future[Completion]] = {}
        self._landed = asyncio.Event()
        self._shown_at = 0.0
        self.notes: list[str] = []
        secret = journal.note("secret")
        if secret is None:
            secret = secrets.token_hex(32)
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
        journal = _journal_of(spec)
        specs = {role: model for role in _TEMPERATURE if (model := spec.models.role(role)) is not None}
        opened: dict[ModelRole, Backend] = dict(backends or {})
        notes: list[str] = []
        try:
            for role, model in specs.items():
                if role not in opened:
                    opened[role] = open_backend(model, journal=journal, note=notes.append)
            prices = {role: price_of(model) for role, model in specs.items()}
            evaluation = cls(
                specs,
                opened,
                journal,
                budget=spec.budget,
                seed=spec.seed,
                prices=prices,
                clock=clock,
                on_event=on_event,
            )
            evaluation.notes = notes
            evaluation._check_prices()
            yield evaluation
        finally:
            for role, backend in opened.items():
                if backends is None or role not in backends:
                    await backend.close()
            journal.close()

    # --- what a method may do ----------------------------------------------------------------------------------------

    async def rollouts(
        self,
        system: str,
        task: SearchTask,
        user_prompt: str,
        examples: Sequence[Example],
        *,
        sample: int = 0,
    ) -> list[Rollout]:
        """One rollout per example, in order: the base model's reply under (system prompt, user prompt), judged.

        The whole block is held against the budget before its first call: it is made wholly or, with ``BudgetSpent``,
        not at all (a limit in USD may also stop it midway). Raises ``EndpointRefused``, ``EndpointDown``,
        ``JournalError``.
        """
        requests = [
            self.request(
                "base", render(system, user_prompt, example), sample=sample, purpose=f"{task.name}/{example.id}"
            )
            for example in examples
        ]
        judge = judge_for(task.judge)
        replies = await self._replies(requests, judged=isinstance(judge, ModelJudge))
        verdicts = await self._verdicts(task, examples, replies, "judge")
        rollouts = [_rollout(*triple) for triple in zip(examples, replies, verdicts, strict=True)]
        if not isinstance(judge, ModelJudge):
            return rollouts
        return [
            msgspec.structs.replace(rollout, suspicious=True) if addresses_grader(rollout.text) else rollout
            for rollout in rollouts
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
        (reply,) = await self._replies([request])
        self._progress()
        return reply

    async def judge(
        self, task: SearchTask, examples: Sequence[Example], texts: Sequence[str], *, role: ModelRole = "judge"
    ) -> list[Verdict]:
        """Verdicts on given texts: known answers for a sanity check, or a second opinion with
        ``role="audit_judge"``."""
        return await self._verdicts(task, examples, [Completion(text=text) for text in texts], role)

    async def ask(self, request: Request) -> Completion:
        """Any one call of any role, on the same path."""
        (reply,) = await self._replies([request])
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

    def event(self, kind: str, message: str, **data: Any) -> None:
        """Tell followers and the journal what happened."""
        event = Event(kind=kind, message=message, at=self._clock(), data=data)
        self._journal.append_event(event)
        self._on_event(event)

    def finished(self) -> None:
        """Mark the run as done: it needs no resume any more."""
        self._journal.set_note("state", "done")

    def has(self, role: ModelRole) -> bool:
        """Whether a model plays ``role``."""
        return role in self._backends

    @property
    def clock(self) -> Callable[[], float]:
        """The clock that was handed in: seconds since the epoch."""
        return self._clock

    @property
    def ledger(self) -> Ledger:
        """What was requested, paid and refused so far."""
        return self._spending.ledger({role: backend.retries for role, backend in self._backends.items()})

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
        if max_tokens is None:
            max_tokens = model.max_tokens if model and model.max_tokens is not None else _MAX_TOKENS[role]
        return Request(
            role=role,
            messages=tuple(messages),
            temperature=temperature,
            max_tokens=max_tokens,
            schema=schema,
            sample=sample,
            seed=(self._seed + sample) % 2**31,
            purpose=purpose,
        )

    # --- the one path ------------------------------------------------------------------------------------------------

    async def _replies(self, requests: Sequence[Request], *, judged: bool = False) -> list[Completion]:
        """The replies to ``requests`` (all of one role), in order, each distinct request paid for once per run.

        ``judged``: each new reply will be judged by a model, so the budget must have room for that call too.
        """
        if not requests:
            return []
        backend = self._backend(requests[0].role)
        by_key = {_key(backend.identity, request): request for request in requests}
        keys = (
            [_key(backend.identity, request) for request in requests] if len(by_key) < len(requests) else list(by_key)
        )
        self._spending.asked(requests[0].role, len(requests))
        replies = await self._settle(backend, by_key, judged=judged)
        for _ in range(len(keys) - len(by_key)):
            self._spending.hit(requests[0].role)
        return [replies[key] for key in keys]

    async def _settle(
        self, backend: Backend, wanted: Mapping[bytes, Request], *, judged: bool = False
    ) -> dict[bytes, Completion]:
        """Replies from the journal, from calls that another block has in the air, and for the rest from the model.

        There is no await between looking and marking what is in the air, so no request can be paid for twice.
        """
        fresh = {key: request for key, request in wanted.items() if key not in self._seen and key not in self._flying}
        self._spending.hold(len(fresh) * (2 if judged else 1))
        self._spending.release(len(fresh) if judged else 0)  # only looked ahead: the judge's calls hold their own
        held = len(fresh)
        try:
            replies = self._journal.find(list(wanted))
            for key in replies:
                role = wanted[key].role
                if key in self._seen:
                    self._spending.hit(role)
                else:
                    self._seen.add(key)
                    self._spending.paid(role, replies[key], replayed=True)
            missing = [(key, request) for key, request in fresh.items() if key not in replies]
            self._spending.release(held - len(missing))
            held = len(missing)
            flying = {key: self._flying[key] for key in wanted if key in self._flying and key not in replies}
            replies.update(await self._pay(backend, missing))
        finally:
            self._spending.release(held)
        for key, future in flying.items():
            await asyncio.wait([future])
            if future.cancelled():  # the block that was paying for it was given up: pay here
                replies.update(await self._settle(backend, {key: wanted[key]}))
            else:
                replies[key] = future.result()
                self._spending.hit(wanted[key].role)
        return replies

    async def _pay(self, backend: Backend, missing: Sequence[tuple[bytes, Request]]) -> dict[bytes, Completion]:
        """Make the calls, at most ``backend.concurrency`` of this block at once. The first failure stops the block; a
        spent budget lets the calls in the air land first."""
        replies: dict[bytes, Completion] = {}
        loop = asyncio.get_running_loop()
        for key, _ in missing:
            self._flying[key] = loop.create_future()
        queue = iter(missing)
        spent: list[BudgetSpent] = []

        async def work() -> None:
            for key, request in queue:
                if spent:
                    return
                try:
                    replies[key] = await self._call(backend, key, request)
                except BudgetSpent as error:
                    spent.append(error)

        try:
            if len(missing) == 1:
                await work()
            elif missing:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(backend.concurrency, len(missing))):
                        group.create_task(work())
            if spent:
                raise spent[0]
        except BaseExceptionGroup as failures:
            raise _first(failures) from None
        finally:
            for key, _ in missing:
                future = self._flying.pop(key)
                if not future.done():
                    future.cancel()
        return replies

    async def _call(self, backend: Backend, key: bytes, request: Request) -> Completion:
        while (held := self._spending.hold_usd(request)) is None:
            self._landed.clear()
            await self._landed.wait()
        try:
            reply = await backend.complete(request)
        except ModelError as error:
            raise type(error)(
                f"{error} (the call: {request.role} model, {request.purpose or 'no purpose given'})"
            ) from error
        else:
            self._journal.keep(key, request.role, request.purpose, reply, self._clock())
            self._seen.add(key)
            self._spending.paid(request.role, reply, replayed=False)
        finally:
            self._spending.release_usd(held)
            self._landed.set()
        self._flying[key].set_result(reply)
        self._progress()
        return reply

    async def _verdicts(
        self, task: SearchTask, examples: Sequence[Example], replies: Sequence[Completion], role: ModelRole
    ) -> list[Verdict]:
        """One verdict per reply. A judge that needs a model is asked for all examples at once, then once more for those
        whose verdict could not be read."""
        judge = judge_for(task.judge)
        if not isinstance(judge, ModelJudge):
            return [judge.verdict(example, reply.text) for example, reply in zip(examples, replies, strict=True)]
        found: dict[int, Verdict] = {}
        open_items = list(range(len(replies)))
        last: dict[int, Completion] = {}
        for attempt in (0, 1):
            asked: list[tuple[int, Request]] = []
            for index in open_items:
                plan = judge.question(examples[index], replies[index].text, self.nonce, attempt)
                if isinstance(plan, Verdict):
                    found[index] = plan
                else:
                    asked.append((index, self._addressed(plan, role, f"judge {task.name}/{examples[index].id}")))
            answers = await self._replies([request for _, request in asked])
            open_items = []
            for (index, _), answer in zip(asked, answers, strict=True):
                verdict = judge.read(answer)
                last[index] = answer
                if verdict is None:
                    open_items.append(index)
                else:
                    found[index] = verdict
        for index in open_items:
            finish = last[index].finish
            reason = {"length": "judge truncated", "refusal": "judge refused", "filter": "judge filtered"}.get(finish)
            found[index] = Verdict(score=None, unscored=reason or "judge unreadable")
        return [found[index] for index in range(len(replies))]

    def _addressed(self, request: Request, role: ModelRole, purpose: str) -> Request:
        return self.request(role, request.messages, schema=request.schema, sample=request.sample, purpose=purpose)

    def _backend(self, role: ModelRole) -> Backend:
        backend = self._backends.get(role)
        if backend is None:
            need = {
                "judge": "A rubric needs a judge model: add `models: judge:` to the search file",
                "audit_judge": "A second opinion needs an audit judge: add `models: audit_judge:` to the search file",
                "optimizer": "This method rewrites prompts: add `models: optimizer:`, or take --method sprig",
            }.get(role, "Add `models: base:` to the search file")
            raise RunBlocked(f"No model plays the role {role}. {need}.")
        return backend

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


def render(system: str, user_prompt: str, example: Example) -> tuple[Message, ...]:
    """The messages of one base call: the system prompt (left out when empty), earlier turns, the filled user prompt."""
    head: tuple[Message, ...] = (("system", system),) if system else ()
    return (*head, *example.history, ("user", user_prompt.replace(SLOT, example.question)))


def _key(identity: str, request: Request) -> bytes:
    """What makes two calls the same: the model, everything sent to it, and the number of the draw. The role and the
    purpose do not count, and no text is ever cut short."""
    content = _encode(
        [identity, request.messages, request.temperature, request.max_tokens, request.schema, request.sample]
    )
    return hashlib.blake2b(content, digest_size=20).digest()


def _rollout(example: Example, reply: Completion, verdict: Verdict) -> Rollout:
    score, unscored, kind = verdict.score, verdict.unscored, ""
    if reply.finish == "filter":
        score, unscored = None, f"filtered: {reply.detail}" if reply.detail else "filtered"
    elif score is not None and score < 1.0:
        kind = (
            "refusal" if reply.finish == "refusal"
            else "truncated" if reply.finish == "length" and verdict.malformed
            else "format" if verdict.malformed
            else "wrong"
        )  # fmt: skip
    return Rollout(
        example_id=example.id,
        text=reply.text,
        score=score,
        unscored=unscored,
        error_kind=kind,
        answer=verdict.answer,
        malformed=verdict.malformed,
        critique=verdict.critique,
        suspicious=verdict.suspicious,
        finish=reply.finish,
        tokens_in=reply.tokens_in,
        tokens_out=reply.tokens_out,
    )


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure to report of several that happened at once: one of ours rather than a stranger's."""
    flat: list[BaseException] = []
    todo: list[BaseException] = [failures]
    while todo:
        error = todo.pop(0)
        todo.extend(error.exceptions) if isinstance(error, BaseExceptionGroup) else flat.append(error)
    return next((error for error in flat if isinstance(error, ModelError | JournalError)), flat[0])


def _journal_of(spec: SearchSpec) -> Journal:
    """The journal of exactly this run. A finished one is put aside, an unfinished one needs ``resume``."""
    name = f"{spec.method}{'-faithful' if spec.faithful else ''}-{fingerprint(spec)[:12]}"
    path = spec.home / f"{name}.journal"
    journal = Journal(path)
    state = journal.note("state")
    if state == "running" and not spec.resume and (paid := journal.count()):
        journal.close()
        raise JournalError(
            f"An unfinished run of this search lies in {path} ({paid} calls paid). Continue it with --resume, "
            "or remove the file to start anew."
        )
    if state == "done" and not spec.resume:
        journal.close()
        number = 1
        while (aside := spec.home / f"{name}.{number}.journal").exists():
            number += 1
        path.rename(aside)
        journal = Journal(path)
    journal.set_note("state", "running")
    return journal
