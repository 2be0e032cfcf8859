"""Conversations as arrays of turns (chat ``messages``, responses ``input``): merging a prompt into the leading
system turn."""

from __future__ import annotations

import msgspec

from gateway.body import LONG, Body, Edit, parse, splice
from gateway.dialects.base import ROLE_FIRST, string_end
from gateway.errors import BadRequest
from gateway.prompt import Prompt

SYSTEM_ROLES = ("system", "developer")


class _Turn(msgspec.Struct):
    role: msgspec.Raw = msgspec.Raw(b"")
    content: msgspec.Raw = msgspec.Raw(b"")


class _Part(msgspec.Struct):
    text: msgspec.Raw = msgspec.Raw(b"")


_turn = msgspec.json.Decoder(_Turn).decode
_parts = msgspec.json.Decoder(list[_Part]).decode
_text = msgspec.json.Decoder(str).decode


def leads_with_other(body: Body, field: str) -> bool:
    """Whether the first turn plainly is no system turn: seen without decoding the array."""
    match = body.first_turn = body.first_turn or ROLE_FIRST.match(body.raw, body.at[field])
    return match is not None and match[1] not in (b"system", b"developer")


def leading_run(turns: list[msgspec.Raw]) -> list[msgspec.Raw]:
    """The system and developer turns that the conversation begins with."""
    run = []
    for turn in turns:
        if role_of(turn) not in SYSTEM_ROLES:
            break
        run.append(turn)
    return run


def role_of(turn: msgspec.Raw) -> str:
    """The role of an undecoded turn; empty when it has none."""
    if bytes(memoryview(turn)[:1]) != b"{":
        return ""
    role = bytes(_turn(turn).role)
    return _text(role) if role[:1] == b'"' else ""


def content_of(turn: msgspec.Raw) -> bytes:
    """The undecoded content of a turn; empty when it has none."""
    return bytes(_turn(turn).content)


def plain_text(content: bytes) -> str:
    """A content as plain text: a string, or the texts of its parts."""
    if content[:1] == b'"':
        return _text(content)
    if content[:1] != b"[":
        return ""
    try:
        texts = [bytes(part.text) for part in _parts(content)]
    except msgspec.ValidationError:
        return ""
    return "\n\n".join(_text(text) for text in texts if text[:1] == b'"')


def merge_into_run(body: Body, field: str, run: list[msgspec.Raw], prompt: Prompt, kind: bytes) -> list[Edit]:
    """Edits that leave one leading turn: the first of the run, with all its keys, whose content is merged with ours.

    Further turns of the run are folded into it; array contents stay arrays, so that ``cache_control`` keeps its place.
    Raises BadRequest when a content is neither string, array nor null.
    """
    raw = body.raw
    start = end = body.at[field] + 1
    for number, turn in enumerate(run):
        begin = raw.index(b"{", end)
        end = begin + len(turn)
        if number == 0:
            start = begin
    first = parse(bytes(run[0]), 10_000)
    contents = [_known(content_of(turn), field) for turn in run]
    if all(content[:1] != b"[" for content in contents):
        merged = b'"%b"' % prompt.around_text(b"\\n\\n".join(c[1:-1] for c in contents if len(c) > 2))
    else:
        arrays = [
            c[1:-1].strip() if c[:1] == b"[" else b'{"type":"%b","text":%b}' % (kind, c) for c in contents if len(c) > 2
        ]
        merged = prompt.around_parts(b"[" + b",".join(filter(None, arrays)) + b"]", kind)
    if "content" in first:
        turn_bytes = splice(first.raw, [(*first.span("content"), merged)])
    else:
        turn_bytes = splice(first.raw, [first.insert_first("content", merged)])
    return [(start, end, turn_bytes)]


def _known(content: bytes, field: str) -> bytes:
    if content in (b"", b"null"):
        return b'""'
    if content[:1] not in (b'"', b"["):
        raise BadRequest("The content of a system message must be a string or an array of parts.", param=field)
    return content


def first_user_text(body: Body, field: str) -> bytes | memoryview:
    """The content of the first user turn, as sent."""
    raw = body.raw
    match = body.first_turn = body.first_turn or ROLE_FIRST.match(raw, body.at[field])
    if match is not None and match[1] == b"user":
        start = match.end(2)
        if start > 0:
            end = string_end(raw, start)
            return raw[start:end] if end - start <= LONG else memoryview(raw)[start:end]
    for turn in body.array(field):
        if role_of(turn) == "user":
            return content_of(turn).strip(b'"')
    return b""
