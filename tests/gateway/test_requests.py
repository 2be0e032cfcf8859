"""The compatibility list, part one: requests (numbers are those of the list in the gateway's specification)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rig import AUTH, DONE, HELLO, Request, Wires, completion, door, prompts, settings_for, upstream

from gateway import json_word

CARE = prompts("Be careful.", name="global", parent=None)


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/chat/completions", "/v1/chat/completions/", "/chat/completions/"]
)
async def test_d01_paths_with_and_without_v1_and_trailing_slash(tmp_path: Path, path: str) -> None:
    async with upstream() as up, door(settings_for(tmp_path, up)) as gate:
        status, _, reply = await gate.ask(path=path)
        assert (status, reply["object"]) == (200, "chat.completion")
        assert up.last.target == "/v1/chat/completions"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "sk-caller"}, 401),
        ({"authorization": "Basic abc"}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "Bearer sk-ops"}, 401),
        ({"x-api-key": "wrong"}, 401),
        ({"x-api-key": "sk-caller"}, 200),
        ({"authorization": "bearer sk-caller"}, 200),
    ],
)
async def test_d02_keys(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    async with (
        upstream() as up,
        door(settings_for(tmp_path, up)) as gate,
        gate.session.post(gate.url + "/v1/chat/completions", json=HELLO, headers=headers) as reply,
    ):
        body = await reply.json()
        assert reply.status == status
        if status == 401:
            assert set(body["error"]) == {"message", "type", "param", "code"}
            assert body["error"]["code"] == "invalid_api_key"
            assert body["error"]["param"] is None
            assert "wrong" not in json.dumps(body)
            assert up.requests == []


async def test_d02_missing_key_in_the_anthropic_shape(tmp_path: Path) -> None:
    async with upstream() as up, door(settings_for(tmp_path, up)) as gate:
        async with gate.session.post(gate.url + "/v1/messages", json=HELLO) as reply:
            body = await reply.json()
        assert reply.status == 401
        assert body == {"type": "error", "error": {"type": "authentication_error", "message": body["error"]["message"]}}


async def test_d03_messages_missing_empty_or_of_a_wrong_type(tmp_path: Path) -> None:
    async with upstream() as up, door(settings_for(tmp_path, up), CARE) as gate:
        status, _, reply = await gate.ask({"model": "m"})
        assert (status, reply["error"]["param"]) == (400, "messages")
        status, _, reply = await gate.ask({"model": "m", "messages": "hi"})
        assert (status, reply["error"]["param"]) == (400, "messages")
        assert up.requests == []
        status, headers, _ = await gate.ask({"model": "m", "messages": []})
        assert status == 200
        assert up.last.json["messages"] == []  # injection does not make an empty conversation a valid one
        assert headers["x-metaspo-arm"] == "none"
        status, _, reply = await gate.ask({"messages": []})
        assert (status, reply["error"]["param"]) == (400, "model")


CONTENTS = [
    '"plain"',
    '""',
    "null",
    '[{"type":"text","text":"a","cache_control":{"type":"ephemeral"}}]',
    '[{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA","detail":"high"}}]',
    '[{"type":"input_audio","input_audio":{"data":"AA==","format":"wav"}},{"type":"file","file":{"file_id":"f"}}]',
    '[{"type":"refusal","refusal":"no"},{"type":"unheard_of","x":{"y":[1,2]}}]',
]


@pytest.mark.parametrize("content", CONTENTS)
async def test_d04_contents_are_kept_byte_for_byte(tmp_path: Path, content: str) -> None:
    turn = '{"role": "user",  "content":' + content + ',"unknown":1.50}'
    body = ('{"model":"m","messages":[' + turn + ',{"role":"assistant","content":null,"tool_calls":[]}]}').encode()
    async with upstream() as up, door(settings_for(tmp_path, up), CARE) as gate:
        assert (await gate.ask(body))[0] == 200
        assert up.last.body == body.replace(b'"messages":[', b'"messages":[{"role":"system","content":"Be careful."},')
        assert (await gate.ask(body, x_metaspo_inject="off"))[0] == 200
        assert up.last.body == body


@pytest.mark.parametrize("role", ["system", "developer"])
async def test_d05_one_leading_message_in_the_role_that_the_caller_uses(tmp_path: Path, role: str) -> None:
    async with upstream() as up, door(settings_for(tmp_path, up), CARE) as gate:
        await gate.ask(
            {"model": "m", "messages": [{"role": role, "content": "Mine."}, {"role": "user", "content": "q"}]}
        )
        assert up.last.json["messages"] == [
            {"role": role, "content": "Be careful.\n\nMine."},
            {"role": "user", "content": "q"},
        ]


async def test_d05_all_roles_pass_and_developer_is_never_mixed_with_system(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "a"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "t", "content": "b"},
        {"role": "function", "name": "f", "content": "c"},
        {"role": "developer", "content": "d"},
    ]
    async with upstream() as up, door(settings_for(tmp_path, up), CARE) as gate:
        await gate.ask({"model": "o3", "messages": turns})
        assert up.last.json["messages"] == [{"role": "developer", "content": "Be careful."}, *turns]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("prepend", "LOCK\n\nOURS\n\nMine."),
        ("append", "LOCK\n\nMine.\n\nOURS"),
        ("replace", "LOCK\n\nOURS"),
        ("fill", "Mine."),
        ("off", "Mine."),
    ],
)
async def test_d06_modes(tmp_path: Path, mode: str, expected: str) -> None:
    view = prompts("OURS", name="global", parent=None, inject=mode, locked="LOCK")
    body = {"model": "m", "messages": [{"role": "system", "content": "Mine."}, {"role": "user", "content": "q"}]}
    async with upstream() as up, door(settings_for(tmp_path, up), view) as gate:
        _, headers, _ = await gate.ask(body)
        assert up.last.json["messages"][0] == {"role": "system", "content": expected}
        assert len(up.last.json["messages"]) == 2
        if mode in ("fill", "off"):
            assert (headers["x-metaspo-arm"], headers.get("x-metaspo-version")) == ("none", None)
            assert up.last.body == json.dumps(body, separators=(",", ":")).encode()
        else:
            assert (headers["x-metaspo-arm"], headers["x-metaspo-version"]) == ("stable", "1")


async def test_d06_fill_injects_where_there_is_none(tmp_path: Path) -> None:
    view = prompts("OURS", name="global", parent=None, inject="fill", locked="LOCK")
    async with upstream() as up, door(settings_for(tmp_path, up), view) as gate:
        _, headers, _ = await gate.ask()
        assert up.last.json["messages"][0] == {"role": "system", "content": "LOCK\n\nOURS"}
        assert headers["x-metaspo-arm"] == "stable"


@pytest.mark.parametrize("mode", ["prepend", "append", "replace"])
async def test_d06_content_lists_stay_lists_and_cache_control_stays_on_the_callers_part(
    tmp_path: Path, mode: str
) -> None:
    mine = {"type": "text", "text": "Mine.", "cache_control": {"type": "ephemeral"}}
    ours = {"type": "text", "text": "OURS"}
    view = prompts("OURS", name="global", parent=None, inject=mode)
    async with upstream() as up, door(settings_for(tmp_path, up), view) as gate:
        await gate.ask(
            {"model": "m", "messages": [{"role": "system", "name": "n", "content": [mine]}, *HELLO["messages"]]}
        )
        expected = {"prepend": [ours, mine], "append": [mine, ours], "replace": [ours]}[mode]
        assert up.last.json["messages"][0] == {"role": "system", "name": "n", "content": expected}


async def test_d06_several_leading_messages_become_one(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "One."},
        {"role": "developer", "content": [{"type": "text", "text": "Two."}]},
        {"role": "system", "content": None},
        {"role": "user", "content": "q"},
        {"role": "system", "content": "placed here on purpose"},
    ]
    async with upstream() as up, door(settings_for(tmp_path, up), CARE) as gate:
        await gate.ask({"model": "m", "messages": turns})
        sent = up.last.json["messages"]
        assert [turn["role"] for turn in sent] == ["system", "user", "system"]
        assert [part["text"] for part in sent[0]["content"]] == ["Be careful.", "One.", "Two."]
        assert sent[2] == turns[4]


async def test_d07_opt_out_and_unknown_routes_leave_the_body_alone(tmp_path: Path) -> None:
    body = b' { "model" : "m" ,\n "messages":[ {"role":"user","content":"\\u00e9 \xc3\xa9"} ], "x": 12345678901234567890123 } \n'  # noqa: E501
    async with upstream() as up, door(settings_for(tmp_path, up), CARE) as gate:
        _, headers, _ = await gate.ask(body, x_metaspo_inject="off")
        assert up.last.body == body
        assert headers["x-metaspo-arm"] == "none"
        assert "x-metaspo-version" not in headers
    async with upstream() as up, door(settings_for(tmp_path, up)) as gate:
        _, headers, _ = await gate.ask(body)
        assert up.last.body == body


async def test_d08_several_choices_pass(tmp_path: Path) -> None:
    reply = completion(choices=[{"index": n, "message": {"role": "assistant", "content": str(n)}} for n in range(3)])

    async def three(request, wires) -> None:
        await wires.reply(reply)

    async with upstream(three) as up, door(settings_for(tmp_path, up), CARE) as gate:
        assert (await gate.ask({**HELLO, "n": 3}))[2] == reply
        assert up.last.json["n"] == 3


async def test_d08_choices_of_a_stream_interleave_by_index(tmp_path: Path) -> None:
    def part(index: int, text: str, finish: str | None = None) -> bytes:
        choice = {"index": index, "delta": {"content": text}, "finish_reason": finish}
        return b"data: " + json.dumps({"id": "c", "choices": [choice]}).encode() + b"\n\n"

    events = [part(0, "a"), part(1, "b"), part(1, "", "stop"), part(0, "c"), part(0, "", "length"), DONE]

    async def two(request: Request, wires: Wires) -> None:
        await wires.stream(*events)

    asked = {**HELLO, "n": 2, "stream": True}
    async with upstream(two) as up, door(settings_for(tmp_path, up), CARE) as gate, gate.post(asked) as got:
        assert await got.read() == b"".join(events)


async def test_d09_tools_pass_and_nothing_comes_between_calls_and_results(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "q"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "a", "type": "custom", "custom": {"name": "n", "input": "i"}}],
        },
        {"role": "tool", "tool_call_id": "a", "content": "r"},
    ]
    more = {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
            "tool_choice": {"type": "allowed_tools"}, "parallel_tool_calls": False}  # fmt: skip
    async with upstream() as up, door(settings_for(tmp_path, up), CARE) as gate:
        await gate.ask({"model": "m", "messages": turns, **more})
        assert up.last.json == {
            "model": "m",
            "messages": [{"role": "system", "content": "Be careful."}, *turns],
            **more,
        }


EXTRAS = {
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": {}}},
    "stop": ["a"], "seed": 1, "logit_bias": {"1": -100}, "logprobs": True, "top_logprobs": 2, "user": "u",
    "safety_identifier": "s", "metadata": {"k": "v"}, "store": True, "service_tier": "flex", "verbosity": "low",
    "reasoning_effort": "high", "modalities": ["text"], "audio": {"voice": "v"}, "prediction": {},
    "web_search_options": {}, "prompt_cache_key": "p", "prompt_cache_retention": "24h", "moderation": {},
    "max_tokens": 5, "max_completion_tokens": 6, "top_k": 3, "guided_json": {}, "chat_template_kwargs":
    {"enable_thinking": False}, "never_heard_of": [None, {"a":
    -0.0}],
}  # fmt: skip


async def test_d10_d11_d12_d13_every_field_is_forwarded_unchanged_and_in_order(tmp_path: Path) -> None:
    body = json.dumps({"model": "m", **EXTRAS, "messages": HELLO["messages"]}, separators=(",", ":")).encode()
    async with upstream() as up, door(settings_for(tmp_path, up), CARE) as gate:
        await gate.ask(body)
        assert up.last.body == body.replace(b'"messages":[', b'"messages":[{"role":"system","content":"Be careful."},')


@pytest.mark.parametrize(
    ("mode", "prompt", "question", "told"),
    [
        ("prepend", "Answer in JSON.", "hi", "alone brings"),
        ("replace", "Be careful.", "hi", "removes"),
        ("replace", "Be careful, write json.", "hi", ""),
        ("prepend", "Be careful.", "as JSON please", ""),
    ],
)
async def test_d10_the_log_says_when_a_prompt_decides_about_the_word_json(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: str, prompt: str, question: str, told: str
) -> None:
    json_word._told.clear()
    view = prompts(prompt, name="global", parent=None, inject=mode)
    own = "Mine speaks of json." if mode == "replace" else "Mine."
    turns = [{"role": "system", "content": own}, {"role": "user", "content": question}]
    body = {"model": "m", "response_format": {"type": "json_object"}, "messages": turns}
    async with upstream() as up, door(settings_for(tmp_path, up), view) as gate:
        for _ in range(3):
            assert (await gate.ask(body))[0] == 200
        assert up.last.json["response_format"] == body["response_format"]
        await gate.ask({**body, "response_format": {"type": "text"}})
    lines = [line for line in caplog.messages if '"json"' in line]
    assert len(lines) == (1 if told else 0)
    assert all(told in line and "version 1 of global" in line and question not in line for line in lines)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","messages":[],"model":"n"}',
        b'{"model":"m","messages":[],"mod\\u0065l":"n"}',
        b'{"model": 12, "messages": [], "model": 1}',
        b'{ "a": "x,\\"b\\":1", "messages": [], "model": "m", "a": "x" }',
    ],
)
async def test_d14_repeated_top_level_keys_are_refused(tmp_path: Path, body: bytes) -> None:
    async with upstream() as up, door(settings_for(tmp_path, up)) as gate:
        status, _, reply = await gate.ask(body)
        assert (status, reply["error"]["code"]) == (400, "duplicate_key")
        assert up.requests == []


async def test_d14_repeated_keys_further_in_pass_byte_for_byte(tmp_path: Path) -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"a","content":"b"}],"metadata":{"a":1,"a":2}}'
    async with upstream() as up, door(settings_for(tmp_path, up)) as gate:
        await gate.ask(body)
        assert up.last.body == body


@pytest.mark.parametrize(
    "value",
    [b"NaN", b"Infinity", b"-Infinity", b'"\\ud800"', b'["\\udc00\\ud800"]', b"[" * 10_000 + b"]" * 10_000, b"[" * 300 + b"]" * 300,  # noqa: E501
     b'{"a":' * 300 + b"1" + b"}" * 300, b"01", b"1.", b"'a'", b'"\x01"', b'"\xff"', b'{"k":"\xed\xa0\x80"}', b"tru", b"[1,]"],  # noqa: E501
)  # fmt: skip
async def test_d15_what_is_not_json_is_refused(tmp_path: Path, value: bytes) -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"q"}],"x":' + value + b"}"
    async with upstream() as up, door(settings_for(tmp_path, up)) as gate:
        status, _, reply = await gate.ask(body)
        assert status == 400
        assert set(reply["error"]) == {"message", "type", "param", "code"}
        assert up.requests == []


@pytest.mark.parametrize(
    "value",
    [b"9007199254740993", b"123456789012345678901234567890", b"-0", b"-0.0", b"1e400", b"1E5", b"1.10", b'"\\u0000"', b'"\\/"',  # noqa: E501
     b'"\\ud83d\\ude00"', b"[" * 200 + b"]" * 200, b'"' + b"x" * 1_000_000 + b'"'],
)  # fmt: skip
async def test_d15_what_is_json_stays_exact(tmp_path: Path, value: bytes) -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"q"}],"x":' + value + b"}"
    async with upstream() as up, door(settings_for(tmp_path, up), CARE) as gate:
        assert (await gate.ask(body))[0] == 200
        assert up.last.body == body.replace(b'"messages":[', b'"messages":[{"role":"system","content":"Be careful."},')


async def test_d16_unicode_is_not_normalized_and_not_escaped(tmp_path: Path) -> None:
    text = "e\u0301 \u00e9 \U0001f600 \u2028 \ufeff 日本"
    view = prompts("Ünïcode \u2028 \U0001f600", name="global", parent=None)
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}, ensure_ascii=False).encode()
    async with upstream() as up, door(settings_for(tmp_path, up), view) as gate:
        await gate.ask(body)
        assert up.last.json["messages"] == [
            {"role": "system", "content": "Ünïcode \u2028 \U0001f600"}, {"role": "user", "content": text},
        ]  # fmt: skip
        assert text.encode() in up.last.body


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"{} {}", b"\xef\xbb\xbf{}", b"--x\r\n", b"a=b"])
async def test_d17_invalid_json_in_the_dialects_shape(tmp_path: Path, body: bytes) -> None:
    async with upstream() as up, door(settings_for(tmp_path, up)) as gate:
        status, headers, reply = await gate.ask(body)
        assert (status, reply["error"]["type"]) == (400, "invalid_request_error")
        assert headers["content-type"] == "application/json"
        status, _, reply = await gate.ask(body, "/v1/messages")
        assert (status, reply["type"], reply["error"]["type"]) == (400, "error", "invalid_request_error")


async def test_d17_wrong_content_type(tmp_path: Path) -> None:
    async with upstream() as up, door(settings_for(tmp_path, up)) as gate:
        status, _, reply = await gate.ask(b"a=b", content_type="application/x-www-form-urlencoded")
        assert (status, reply["error"]["type"]) == (415, "invalid_request_error")
        assert (await gate.ask(content_type="application/json; charset=utf-8"))[0] == 200


async def test_d21_methods_and_unknown_paths(tmp_path: Path) -> None:
    async with upstream() as up, door(settings_for(tmp_path, up)) as gate:
        for method, path, status in [
            ("GET", "/v1/chat/completions", 405),
            ("DELETE", "/v1/messages", 405),
            ("OPTIONS", "/v1/chat/completions", 405),
            ("POST", "/v1/models", 405),
            ("GET", "/v1/unheard/of", 404),
            ("POST", "/", 404),
            ("PUT", "/v1/../etc/passwd", 404),
        ]:
            async with gate.session.request(method, gate.url + path, headers=AUTH) as reply:
                body = await reply.json()
                assert reply.status == status, (method, path)
                assert body["error"]["message"]
                assert (status != 405) or reply.headers["allow"]
        async with gate.session.get(
            gate.url + "/v1/nope", headers={**AUTH, "anthropic-version": "2023-06-01"}
        ) as reply:
            body = await reply.json()
            assert (reply.status, body["type"], body["error"]["type"]) == (404, "error", "not_found_error")
        for path in ("/healthz", "/v1/models"):
            async with gate.session.head(gate.url + path, headers=AUTH) as reply:
                assert (reply.status, await reply.read()) == (200, b"")


async def test_d22_other_endpoints_are_404_json(tmp_path: Path) -> None:
    async with upstream() as up, door(settings_for(tmp_path, up)) as gate:
        for path in ("/v1/audio/transcriptions", "/v1/files", "/v1/images/generations"):
            async with gate.session.post(gate.url + path, data=b"--b", headers=AUTH) as reply:
                assert reply.status == 404
                assert (await reply.json())["error"]["code"] == "unknown_url"


async def test_d23_only_known_request_headers_go_on(tmp_path: Path) -> None:
    async with upstream() as up, door(settings_for(tmp_path, up)) as gate:
        await gate.ask(
            cookie="a=b", x_forwarded_for="1.2.3.4", x_metaspo_unit="me", te="trailers", proxy_authorization="x",
            openai_beta="assistants=v2", user_agent="OpenAI/Python 2", x_secret="s", openai_organization="org-caller",
            x_stainless_retry_count="1", idempotency_key="k1",
        )  # fmt: skip
        got = up.last.headers
        assert got[b"authorization"] == b"Bearer sk-upstream"
        assert got[b"host"] == f"127.0.0.1:{up.port}".encode()
        assert (got[b"openai-beta"], got[b"user-agent"], got[b"idempotency-key"]) == (
            b"assistants=v2",
            b"OpenAI/Python 2",
            b"k1",
        )
        assert not {b"cookie", b"x-forwarded-for", b"te", b"proxy-authorization", b"x-secret", b"x-metaspo-unit",
                    b"openai-organization", b"connection"} & set(got)  # fmt: skip


async def test_d23_configured_headers_are_sent(tmp_path: Path) -> None:
    async with upstream() as up:
        own = {
            "name": "up",
            "base_url": up.url,
            "api_key": "k",
            "headers": {"OpenAI-Organization": "org-ours", "api-key": "azure"},
        }
        async with door(settings_for(tmp_path, own)) as gate:
            await gate.ask()
            assert (up.last.headers[b"openai-organization"], up.last.headers[b"api-key"]) == (b"org-ours", b"azure")


async def test_d25_models_from_the_config(tmp_path: Path) -> None:
    models = [
        {"name": "gpt", "upstream": "up0"},
        {"name": "org/llama:70b", "upstream": "up0"},
        {"name": "claude-*", "upstream": "up0"},
    ]
    async with upstream() as up, door(settings_for(tmp_path, up, models=models)) as gate:

        async def get(path: str, **headers: str) -> tuple[int, dict]:
            async with gate.session.get(gate.url + path, headers={**AUTH, **headers}) as reply:
                return reply.status, await reply.json()

        status, body = await get("/v1/models")
        assert (status, body["object"]) == (200, "list")
        assert [model["id"] for model in body["data"]] == ["gpt", "org/llama:70b"]
        assert set(body["data"][0]) == {"id", "object", "created", "owned_by"}
        assert (await get("/v1/models/org/llama:70b"))[1]["id"] == "org/llama:70b"
        assert (await get("/v1/models/org%2Fllama%3A70b"))[1]["id"] == "org/llama:70b"
        assert (await get("/v1/models/claude-5"))[1]["id"] == "claude-5"
        status, body = await get("/v1/models/nope")
        assert (status, body["error"]["code"]) == (404, "model_not_found")
        status, body = await get("/v1/models/nope", **{"anthropic-version": "2023-06-01"})
        assert (status, body["type"], body["error"]["type"]) == (404, "error", "not_found_error")
        async with gate.session.get(gate.url + "/v1/models") as reply:
            assert reply.status == 401
        status, _, body = await gate.ask({**HELLO, "model": "nope"})
        assert (status, body["error"]["code"]) == (404, "model_not_found")


async def test_d25_models_of_the_upstream_when_none_are_configured(tmp_path: Path) -> None:
    listed = {"object": "list", "data": [{"id": "x", "object": "model", "created": 1, "owned_by": "o"}]}

    async def models(request, wires) -> None:
        await wires.reply(listed if request.target == "/v1/models" else listed["data"][0])

    async with upstream(models) as up, door(settings_for(tmp_path, up)) as gate:
        async with gate.session.get(gate.url + "/v1/models", headers=AUTH) as reply:
            assert await reply.json() == listed
        async with gate.session.get(gate.url + "/v1/models/a/b:c", headers=AUTH) as reply:
            assert reply.status == 200
        assert up.last.target == "/v1/models/a/b:c"


async def test_d26_embeddings_and_completions_are_untouched(tmp_path: Path) -> None:
    async with upstream() as up, door(settings_for(tmp_path, up), CARE) as gate:
        for path, body in [
            ("/v1/embeddings", b'{"input":[[1,2],[3]],"model":"e","encoding_format":"base64","dimensions":8}'),
            ("/v1/completions", b'{"model":"c","prompt":["a","b"],"suffix":null}'),
        ]:
            status, headers, _ = await gate.ask(body, path)
            assert (status, headers["x-metaspo-arm"]) == (200, "none")
            assert (up.last.body, up.last.target) == (body, path)


async def test_d27_responses_instructions(tmp_path: Path) -> None:
    async with upstream() as up, door(settings_for(tmp_path, up), CARE) as gate:
        items = [{"type": "reasoning", "id": "r"}, {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},  # noqa: E501
                 {"role": "user", "content": [{"type": "input_text", "text": "q"}]}]  # fmt: skip
        for body, instructions in [
            ({"model": "m", "input": "q"}, "Be careful."),
            ({"model": "m", "input": items, "previous_response_id": "resp_1"}, "Be careful."),
            ({"model": "m", "input": "q", "instructions": None}, "Be careful."),
            ({"model": "m", "input": "q", "instructions": 'Mine "quoted".'}, 'Be careful.\n\nMine "quoted".'),
        ]:
            status, headers, _ = await gate.ask(body, "/v1/responses")
            assert (status, headers["x-metaspo-arm"]) == (200, "stable")
            assert up.last.json == {**body, "instructions": instructions}
        body = {
            "model": "m",
            "input": [{"role": "developer", "content": [{"type": "input_text", "text": "D"}]}, items[2]],
        }
        await gate.ask(body, "/v1/responses")
        ours = {"type": "input_text", "text": "Be careful."}
        assert "instructions" not in up.last.json
        assert up.last.json["input"][0]["content"] == [ours, {"type": "input_text", "text": "D"}]
        status, _, reply = await gate.ask({"model": "m", "input": 5}, "/v1/responses")
        assert (status, reply["error"]["param"]) == (400, "input")


ANTHROPIC = {"model": "c", "max_tokens": 5, "messages": [{"role": "user", "content": "q"}]}


async def test_d28_messages(tmp_path: Path) -> None:
    async with upstream() as up:
        claude = {
            "name": "claude",
            "dialect": "anthropic",
            "base_url": f"http://127.0.0.1:{up.port}",
            "api_key": "sk-ant",
        }
        async with door(settings_for(tmp_path, claude), CARE) as gate:
            blocks = [
                {"type": "text", "text": "A", "cache_control": {"type": "ephemeral"}},
                {"type": "text", "text": "B"},
            ]
            ours = {"type": "text", "text": "Be careful."}
            for system, expected in [
                (None, "Be careful."),
                ("Mine.", "Be careful.\n\nMine."),
                (blocks, [ours, *blocks]),
            ]:
                body = {**ANTHROPIC, **({"system": system} if system else {})}
                status, _, _ = await gate.ask(body, "/v1/messages", anthropic_beta="b1")
                assert status == 200
                assert up.last.json == {**ANTHROPIC, "system": expected}
                assert up.last.target == "/v1/messages"
                assert up.last.headers[b"x-api-key"] == b"sk-ant"
                assert up.last.headers[b"anthropic-version"] == b"2023-06-01"
                assert up.last.headers[b"anthropic-beta"] == b"b1"
                assert b"authorization" not in up.last.headers
            await gate.ask(
                {k: v for k, v in ANTHROPIC.items() if k != "max_tokens"}, "/v1/messages/count_tokens?beta=true"
            )
            assert up.last.target == "/v1/messages/count_tokens?beta=true"
            for body in (
                {"model": "c"},
                {"model": "c", "messages": 1},
                {"model": "c", "messages": [], "system": 5},
                {"messages": []},
            ):
                status, _, reply = await gate.ask(body, "/v1/messages")
                assert (status, reply["type"], reply["error"]["type"]) == (400, "error", "invalid_request_error")
