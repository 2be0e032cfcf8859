"""The un-optimized user prompts that a frozen system prompt is measured under: ten per task in the paper.

With an optimizer model they are guessed from input and output pairs (the APE proposer), once, and stored with their
hash beside the results. Without one they are ten plain wordings of the task's own prompt, the same for everybody.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from optimizer.draws import stream
from optimizer.errors import DataError
from optimizer.evaluation.evaluation import Evaluation
from optimizer.methods.published import DEMONSTRATIONS_USER
from optimizer.proposals import prompts, replies
from optimizer.proposals.analysis import put
from optimizer.proposals.prompts import USER_TAG
from optimizer.records import SLOT, Record, SearchTask

DRAWS_PER_PROMPT = 3
"""How many guesses are asked for each prompt that is wanted, at most: small models often lose the tags."""
_WORDINGS = (
    "{base}\n\n{slot}\n\n{form}",
    "{slot}\n\n{base} {form}",
    "Task: {base}\n\nInput:\n{slot}\n\nOutput: {form}",
    "{base} {form}\n\n{slot}",
    "Read what follows, then do this: {base}\n\n---\n{slot}\n---\n\n{form}",
    "I need your help. {base}\n\n{slot}\n\n{form} Thank you.",
    "Here is something to look at:\n\n{slot}\n\nNow: {base}\n{form}",
    "{base}\n<input>\n{slot}\n</input>\n{form}",
    "Instructions\n1. {base}\n2. {form}\n\nInput\n{slot}",
    "Question for you. {base}\n\n{slot}\n\nMind the form of the reply: {form}",
)
OWN = len(_WORDINGS)


class UserPrompts(Record, frozen=True, kw_only=True):
    """The user prompts of one task: lines of ``user_prompts.jsonl``. ``by`` is ``own wordings`` or the model."""

    task: str
    prompts: tuple[str, ...]
    by: str

    @property
    def sha256(self) -> str:
        """Names exactly these prompts."""
        return hashlib.sha256(msgspec.json.encode(self.prompts)).hexdigest()


def own_wordings(task: SearchTask, number: int) -> UserPrompts:
    """The first ``number`` plain wordings of the task's own prompt. Raises ``DataError`` for more than there are."""
    if number > OWN:
        raise DataError(
            f"{number} user prompts were asked and there are {OWN} own wordings: set `user_prompts: {OWN}`, or name an "
            "optimizer model and set `user_prompts_by: optimizer`."
        )
    before, _, after = task.user_prompt.partition(SLOT)
    base, form = before.strip(), after.strip()
    made = [
        wording.replace("{base}", base).replace("{form}", form).replace("{slot}", SLOT).strip()
        for wording in _WORDINGS[:number]
    ]
    return UserPrompts(task=task.name, prompts=tuple(made), by="own wordings")


async def guessed(
    task: SearchTask, suffix: str, evaluation: Evaluation, number: int, *, seed: int, author: str
) -> UserPrompts:
    """``number`` user prompts by the optimizer model, each from ten train pairs, with the task's ``suffix``. What it
    cannot write readably is filled up with own wordings."""
    pairs = [(example.question, example.answers[0]) for example in task.train if example.answers]
    found: dict[str, None] = {}
    for draw in range(number * DRAWS_PER_PROMPT):
        if len(found) == number:
            break
        rng = stream(seed, "user prompts", task.name, draw)
        shown = rng.sample(pairs, min(DEMONSTRATIONS_USER, len(pairs)))
        ask = prompts.induce(purpose="paper user prompt", tag=USER_TAG, demonstrations=shown)
        text = await put(evaluation, ask, lambda reply: replies.tagged(reply, USER_TAG), n=draw)
        if text:
            found[f"{text.replace(SLOT, '').strip()}\n\n{suffix.strip()}"] = None
    missing = number - len(found)
    filled = [*found, *own_wordings(task, OWN).prompts][:number]
    by = author + (f", {missing} own wordings" if missing else "")
    return UserPrompts(task=task.name, prompts=tuple(filled), by=by)


def read_user_prompts(path: Path) -> dict[str, UserPrompts]:
    """Stored user prompts by task; none when there is no such file. Raises ``DataError``."""
    if not path.exists():
        return {}
    try:
        rows = [msgspec.json.decode(line, type=UserPrompts) for line in path.read_bytes().splitlines() if line.strip()]
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(f"{path}: no stored user prompts ({error}). Move the file away to make them anew.") from error
    return {row.task: row for row in rows}
