"""Strict reading and exact splicing of bodies; decompression."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import brotli
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.body import decompress, parse, splice
from gateway.errors import BadRequest, RequestRefused

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
objects = st.dictionaries(st.text(max_size=10), values, max_size=8)


def text_of(value: Any, **how: Any) -> bytes:
    return json.dumps(value, **how).encode("utf-8", "surrogatepass")


@given(objects, st.booleans(), st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:  ")]))
@example({"": {"": []}}, True, (",", ":"))
def test_every_value_is_found_where_it_stands(
    value: dict[str, Any], ascii_only: bool, separators: tuple[str, str]
) -> None:
    try:
        raw = json.dumps(value, ensure_ascii=ascii_only, separators=separators).encode()
    except UnicodeEncodeError:
        return  # a lone surrogate
    try:
        body = parse(raw)
    except BadRequest:
        assert "\\ud" in raw.decode().lower()  # a lone surrogate, escaped
        return
    assert list(body.values) == list(value)
    for key, expected in value.items():
        start, end = body.span(key)
        assert json.loads(raw[start:end]) == expected


@given(objects, st.data())
def test_a_splice_changes_only_what_it_names(value: dict[str, Any], data: st.DataObject) -> None:
    raw = json.dumps(value, separators=(",", ":")).encode()
    try:
        body = parse(raw)
    except BadRequest:
        return
    if not value:
        return
    key = data.draw(st.sampled_from(list(value)))
    start, end = body.span(key)
    changed = splice(raw, [(start, end, b'"new"')])
    assert changed[:start] == raw[:start]
    assert changed[start + 5 :] == raw[end:]
    assert json.loads(changed) == {**json.loads(raw), key: "new"}


@given(objects, st.data())
def test_a_repeated_top_level_key_is_always_seen(value: dict[str, Any], data: st.DataObject) -> None:
    if not value:
        return
    key = data.draw(st.sampled_from(list(value)))
    again = data.draw(values)
    separators = data.draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    first, second = (
        json.dumps(value, separators=separators)[1:-1],
        json.dumps({key: again}, separators=separators)[1:-1],
    )
    for raw in (f"{{{first},{second}}}", f"{{{second},{first}}}", f"{{{second} , {first} }}"):
        with pytest.raises(BadRequest):
            parse(raw.encode())


@given(st.binary(max_size=200))
def test_no_bytes_cause_anything_but_a_refusal(raw: bytes) -> None:
    try:
        body = parse(raw)
    except BadRequest:
        return
    assert isinstance(json.loads(raw), dict)
    assert set(body.values) == set(json.loads(raw))


@given(objects, st.integers(min_value=0), st.binary(min_size=1, max_size=3))
def test_damaged_json_is_refused_exactly_when_python_refuses_it(value: dict[str, Any], where: int, put: bytes) -> None:
    raw = json.dumps(value).encode()
    place = where % (len(raw) + 1)
    raw = raw[:place] + put + raw[place:]
    pairs: list[list[str]] = []

    def seen(found: list[tuple[str, Any]]) -> dict[str, Any]:
        pairs.append([key for key, _ in found])
        return dict(found)

    def constant(name: str) -> None:
        raise ValueError(name)

    try:
        loaded = json.loads(raw.decode(), object_pairs_hook=seen, parse_constant=constant)
        json.dumps(loaded, ensure_ascii=False).encode()  # lone surrogates
        good = isinstance(loaded, dict) and len(set(pairs[-1])) == len(pairs[-1])
    except (ValueError, RecursionError):
        good = False
    try:
        parse(raw)
    except BadRequest:
        assert not good, raw
    else:
        assert good, raw


@pytest.mark.parametrize("opener", ["[", '{"a":', '[{"b":'])
def test_depth_is_exact(opener: str) -> None:
    closer = {"[": "]", '{"a":': "}", '[{"b":': "}]"}[opener]
    step = len(closer)
    for limit in (8, 256):
        fits = (limit - 1) // step
        for levels, good in ((fits, True), (fits + 1, (fits + 1) * step + 1 <= limit), (fits + 5, False)):
            raw = f'{{"x":{opener * levels}1{closer * levels}}}'.encode()
            if good:
                parse(raw, limit)
            else:
                with pytest.raises(BadRequest, match="nested deeper"):
                    parse(raw, limit)


@given(st.lists(values, min_size=1, max_size=5))
def test_long_is_not_deep(items: list[Any]) -> None:
    raw = json.dumps({"messages": [{"a": item, "b": '[[[[{{{{\\"\\\\'} for item in items * 40]}).encode()
    try:
        parse(raw, 64)
    except BadRequest as refused:
        assert "\\ud" in raw.decode().lower(), refused


def test_brackets_inside_strings_do_not_count() -> None:
    parse(json.dumps({"m": ["[{" * 1000, '\\"[[' * 400, "\\" * 999]}).encode())
    with pytest.raises(BadRequest, match="nested deeper"):
        parse(b'{"m":["[[[[", "\\\\", ' + b"[" * 300 + b"]" * 300 + b"]}")


ENCODERS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "identity": bytes,
}


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_each_encoding_is_opened(name: str, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    assert decompress(ENCODERS[name](data), name.encode(), 200_000) == data


def test_raw_deflate_and_chains() -> None:
    packer = zlib.compressobj(wbits=-15)
    assert decompress(packer.compress(b"abc" * 99) + packer.flush(), b"deflate", 1000) == b"abc" * 99
    assert decompress(brotli.compress(gzip.compress(b"abc")), b"gzip, br", 1000) == b"abc"


@pytest.mark.parametrize("name", ["gzip", "deflate", "br", "zstd"])
def test_bombs_stop_at_the_limit(name: str) -> None:
    bomb = ENCODERS[name](b"\0" * 30_000_000)
    with pytest.raises(RequestRefused) as refused:
        decompress(bomb, name.encode(), 100_000)
    assert refused.value.refusal.status == 413


@pytest.mark.parametrize("name", ["gzip", "deflate", "br", "zstd"])
@pytest.mark.parametrize("spoil", ["cut", "garbage", "after"])
def test_broken_compression_is_a_bad_request(name: str, spoil: str) -> None:
    whole = ENCODERS[name](json.dumps({"a": list(range(500))}).encode())
    data = {"cut": whole[: len(whole) // 2], "garbage": b"\xfe" * 50, "after": whole + b"more of it"}[spoil]
    if (name, spoil) in {("zstd", "after"), ("br", "after")}:
        data = whole[:-1]
    with pytest.raises(RequestRefused) as refused:
        decompress(data, name.encode(), 100_000)
    assert refused.value.refusal.status == 400


def test_unknown_encodings_are_415() -> None:
    with pytest.raises(RequestRefused) as refused:
        decompress(b"x", b"compress", 100)
    assert refused.value.refusal.status == 415
