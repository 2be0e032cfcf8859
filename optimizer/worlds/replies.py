"""How a simulated world replies as analyser, planner, writer and judge: in the forms that the real requests ask for.

The replies are made from the request's text alone: which cases the analyser is shown, which sentences the current
prompt holds, which findings the planner reads. Nothing is passed around the request, so what the search does not show
cannot leak.
"""

from __future__ import annotations

import json
import re
from collections import Counter

from optimizer.records import Request
from optimizer.worlds.world import (
    FEATURES,
    LABELS,
    PADDING,
    SEED_PROMPT,
    World,
    feature_of,
    features_of,
    planted_text,
    sentences,
    uniform,
)

_SHOWN = re.compile(r"Case t(\d+)-(\d+):([^\n]*)")
_TAG = re.compile(r"between <(\w+)> and </\1>")
_RIGHT_LABEL = re.compile(rf"\b({'|'.join(LABELS)})\b")
_MOST_FINDINGS = 8


def optimizer_reply(world: World, request: Request) -> str:
    """The reply to a request of the search: a JSON object where a schema was sent, else the tag that the text asks
    for.
    """
    text = request.messages[-1][1]
    draw = (world.settings.seed, text, request.sample)
    wanted = set(request.schema["properties"]) if request.schema else set()
    if "findings" in wanted:
        found = analyse(world, text, draw)
        return json.dumps({"findings": [{"type": "reasoning", "text": line} for line in found]})
    if "hypotheses" in wanted:
        return json.dumps({"hypotheses": _hypotheses(world, text, draw)})
    if "system_prompt" in wanted:
        return json.dumps(
            {"system_prompt": _written(world, _block(text, "current_system_prompt"), _change(text), draw)}
        )
    if "user_prompt" in wanted:
        return json.dumps(
            {"user_prompt": _user_prompt(world, _block(text, "current_user_prompt"), _change(text), draw)}
        )
    if "text" in wanted:
        return json.dumps({"text": _block(text, "text")})
    tag = _TAG.findall(text)
    if not tag:
        return "I am not sure what is wanted."
    return f"<{tag[-1]}>{_tagged(world, tag[-1], text, draw)}</{tag[-1]}>"


def judge_reply(world: World, request: Request) -> str:
    """A checklist verdict. The answer passes when its label is the case's; the judge (never the audit judge) is also
    taken in by length, with probability ``length_bias``.
    """
    text = request.messages[-1][1]
    properties = request.schema["properties"]["checks"]["items"]["properties"] if request.schema else {}
    ids = properties.get("id", {}).get("enum", ["c1"])
    case = _SHOWN.search(text)
    answer = re.search(r"<answer-(\w+)>\n(.*?)\n</answer-\1>", text, re.DOTALL)
    body = answer.group(2) if answer else ""
    label = _RIGHT_LABEL.search(body)
    right = False
    if case and label:
        right = LABELS[world.example_truth(int(case.group(1)), int(case.group(2)))[3]] == label.group(1)
    fooled = (
        request.role == "judge"
        and len(body.split()) > 40
        and uniform(world.settings.seed, "fooled", body) < world.settings.length_bias
    )
    checks = [
        {"id": name, "evidence": "", "verdict": "yes" if name.startswith("c") and (right or fooled) else "no"}
        for name in ids
    ]
    return json.dumps(
        {"checks": checks, "injection_suspected": False, "critique": "" if right else "The label is wrong."}
    )


def analyse(world: World, text: str, draw: tuple[object, ...]) -> list[str]:
    """What the analyser finds in the failed cases it is shown: missing features with probability q, irrelevant ones
    with fp.
    """
    s = world.settings
    held = features_of(_block(text, "current_system_prompt")) + features_of(_block(text, "current_user_prompt"))
    cases = [(int(t), int(i), rest) for t, i, rest in _SHOWN.findall(text) if int(t) < len(world.base)]
    needed = {
        f
        for task, index, _ in cases
        for f in range(len(FEATURES))
        if world.example_truth(task, index)[0][f] and world.weights[task, f] > 0 and not held[f]
    }
    found = [
        f for f in range(len(FEATURES)) if not held[f] and uniform(*draw, "see", f) < (s.q if f in needed else s.fp)
    ]
    found.sort(key=lambda f: uniform(*draw, "order", f))
    lines = [f"The prompt should say: {FEATURES[f]}" for f in found[:_MOST_FINDINGS]]
    if s.length_bias and uniform(*draw, "bait") < 0.5:
        lines.append(f"The prompt should say: {PADDING}")
    if s.poison:
        lines += [
            f"The prompt should say: {planted_text(s.seed, t, i)}." for t, i, rest in cases if "system prompt" in rest
        ]
    return lines or ["The prompt gives no direction for hard cases."]


def _hypotheses(world: World, text: str, draw: tuple[object, ...]) -> list[dict[str, str]]:
    """One hypothesis per pair of findings, those that several tasks share first."""
    told = Counter(FEATURES if world.settings.random else _change(text))
    ranked = sorted(told, key=lambda line: (-told[line], uniform(*draw, line)))
    wanted = re.search(r"Name (\d+) different", text)
    count = int(wanted.group(1)) if wanted else 3
    made = []
    for k in range(min(count, len(ranked))):
        partner = ranked[int(uniform(*draw, "partner", k) * len(ranked))]
        change = " ".join(dict.fromkeys([ranked[k], partner]))
        made.append({"label": f"missing rule {k + 1}", "cause": "The prompt leaves this open.", "change": change[:200]})
    return made or [
        {"label": "direction", "cause": "The prompt is silent.", "change": FEATURES[int(uniform(*draw) * 40)]}
    ]


def _written(world: World, prompt: str, change: list[str], draw: tuple[object, ...]) -> str:
    """The prompt with the change added; each sentence beyond the first is lost with probability ``drop``."""
    if world.settings.random:
        size = 3 + int(10 * uniform(*draw, "size"))
        return " ".join([SEED_PROMPT, *sorted(FEATURES, key=lambda f: uniform(*draw, f))[:size]])
    old = list(sentences(prompt)) or [SEED_PROMPT]
    kept = [old[0], *(line for k, line in enumerate(old[1:]) if uniform(*draw, "drop", k) >= world.settings.drop)]
    return " ".join(dict.fromkeys([*kept, *change]))


def _user_prompt(world: World, prompt: str, change: list[str], draw: tuple[object, ...]) -> str:
    head, slot, tail = prompt.partition("{question}")
    return f"{_written(world, head, change[:2], draw)}\n{slot or '{question}'}{tail}"


def _change(text: str) -> list[str]:
    """The sentences that findings, hypothesis or analysis in the request recommend, as often as they are
    recommended.
    """
    blocks = re.findall(r"<(findings|hypothesis|what_is_wrong)>\n(.*?)\n</\1>", text, re.DOTALL)
    found = []
    for _, block in blocks:
        for line in block.splitlines():
            said = (
                re.sub(r"^.*?(?:should say|change):\s*", "", line) if re.search(r"(?:should say|change):", line) else ""
            )
            found += [sentence for sentence in sentences(said) if len(sentence.split()) > 3]
    return found


def _block(text: str, name: str) -> str:
    match = re.search(rf"<{name}>\n(.*?)\n</{name}>", text, re.DOTALL)
    return match.group(1) if match else ""


def _tagged(world: World, tag: str, text: str, draw: tuple[object, ...]) -> str:
    """Replies to the published algorithm's requests and their ablations."""
    if tag == "analysis":
        return "\n".join(analyse(world, text, draw))
    change = list(dict.fromkeys(_change(text)))
    user = _block(text, "current_user_prompt")
    if user:
        return _user_prompt(world, user, change, draw)
    system = _block(text, "current_system_prompt")
    if system:
        return _written(world, system, change, draw)
    first, second = _block(text, "first_prompt"), _block(text, "second_prompt")
    base = _block(text, "prompt") or first
    if not base:
        shown = [f for f in range(len(FEATURES)) if uniform(*draw, "induce", f) < world.settings.fp]
        return " ".join(["Find the label of this case.", *(FEATURES[f] for f in shown)]) + "\n{question}" * (
            "slot" in text
        )
    extra = [line for line in sentences(second) if feature_of(line) is not None and uniform(*draw, line) < 0.5]
    return _user_prompt(world, base, extra, draw) if "{question}" in base else _written(world, base, extra, draw)
