"""Personal data and secrets never survive; ordinary text does."""

from __future__ import annotations

import base64
import importlib.util
import re
import string
import subprocess
import sys
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import known_keys
from gateway.errors import StartFailed
from gateway.scrub import DETECTORS, MAX_CHARS, Detector, Scrubber, Span, clip, detectors, entropy, iban_valid, luhn


def scrub(text: str) -> str:
    return Scrubber()(text)


JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"

# Split literals keep secret scanners of hosting sites quiet: none of these is a real key.
SECRETS = [
    "sk-" + "proj-abcDEF123456ghiJKL789012",
    "sk-ant-" + "api03-abcdefghij0123456789ABCDEFGHIJ",
    "ghp_" + "0123456789abcdefghijklmnopqrstuvwxyz",
    "github_" + "pat_11ABCDEFG0123456789_abcdefghijklmnop",
    "glpat-" + "abcdefghij0123456789",
    "AKIA" + "IOSFODNN7EXAMPLE",
    "AIza" + "SyA1234567890abcdefghijklmnopqrstuv",
    "xoxb-" + "123456789012-1234567890123-abcdefghij",
    "sk_live_" + "0123456789abcdefghijklmn",
    "hf_" + "abcdefghijklmnopqrstuvwxyzABCDEFGH",
    "npm_" + "abcdefghijklmnopqrstuvwxyz0123456789",
    "SG." + "a" * 22 + "." + "b" * 43,
    "123456789:" + "AAabcdefghijklmnopqrstuvwxyz0123456",
    "wJalrXUtnFEMI" + "/K7MDENG/bPxRfiCYzEXAMPLEKEY",
    "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("frame", ["{}", "use {} for it", 'key="{}"', "Authorization: Bearer {}", "({})", "{},"])
def test_key_shapes_are_hidden(secret: str, frame: str) -> None:
    out = scrub(frame.format(secret))
    assert secret not in out
    assert "<SECRET_1>" in out


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("mail bob@example.com, or Bob@Example.com!", "mail <EMAIL_1>, or <EMAIL_1>!"),
        ("jürgen.müller+x@bücher.example and a@b.co.uk", "<EMAIL_1> and <EMAIL_2>"),
        ("pay 4111 1111 1111 1111 now", "pay <CARD_1> now"),
        ("pay 4111-1111-1111-1111 or 378282246310005", "pay <CARD_1> or <CARD_2>"),
        ("IBAN DE89 3704 0044 0532 0130 00 THANKS", "IBAN <IBAN_1> THANKS"),
        ("gb82west12345698765432", "<IBAN_1>"),
        ("from 203.0.113.7 and 2001:db8::8a2e:370:7334.", "from <IP_1> and <IP_2>."),
        ("ring +49 (0) 30 1234567 or +1-202-555-0143", "ring <PHONE_1> or <PHONE_2>"),
        ("(202) 555-0143, 202-555-0143, 030 1234 5678", "<PHONE_1>, <PHONE_1>, <PHONE_2>"),
        ("call me at 5551234567 tomorrow", "call me at <PHONE_1> tomorrow"),
        ("ssn 123-45-6789", "ssn <SSN_1>"),
        (f"token {JWT} ends", "token <JWT_1> ends"),
        ("postgres://app:hunter2@db/prod", "postgres://<SECRET_1>@db/prod"),
        ("my password is hunter22.", "my password is <SECRET_1>."),
        ("api_key = correcthorsebattery", "api_key = <SECRET_1>"),
        ("-----BEGIN PRIVATE KEY-----\nMIIx\n-----END PRIVATE KEY----- bye", "<SECRET_1> bye"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIx cut off", "<SECRET_1>"),
    ],
)
def test_typed_placeholders(text: str, wanted: str) -> None:
    assert scrub(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The order 4111 1111 1111 1112 fails the checksum.",
        "DE89370400440532013001 has a wrong remainder",
        "Version 3.11.7 came on 2026-11-20 at 12:30:45, 1,234,567 downloads, 99.5 %",
        "std::vector<int> a::b and 127.0.0.1 and ::1",
        "the password is required; Secret: tell nobody",
        "site-packages/detect_secrets/plugins/high_entropy_strings.py",
        "AbstractSingletonProxyFactoryBean2 getUserByIdFromDatabaseVersion2",
        "550e8400-e29b-41d4-a716-446655440000",
        "000000000000000000000000000000000000",
        "0000 0000 0000 0000",
        "<EMAIL_7> already scrubbed <SECRET_2>",
        "1 2 3 4 5 6 7 8 9 10 11 12 13",
        "Rechnung 20261120 über 1.299,00 EUR, Zimmer 0815",
        "What is 12 * 34 + 56?  {question}",
    ],
)
def test_ordinary_text_survives(text: str) -> None:
    assert scrub(text) == text


def test_placeholders_are_stable_over_the_texts_of_one_exchange() -> None:
    scrubber = Scrubber()
    assert scrubber("I am ann@example.com") == "I am <EMAIL_1>"
    assert scrubber("write bob@example.com and ann@example.com") == "write <EMAIL_2> and <EMAIL_1>"


def test_numbers_of_placeholders_in_the_text_are_not_reused() -> None:
    assert scrub("<EMAIL_3> vs x@example.org") == "<EMAIL_3> vs <EMAIL_4>"


def test_overlapping_finds_hide_the_union() -> None:
    def find(pattern: str, kind: str) -> Detector:
        return lambda text: [Span(*match.span(), kind) for match in re.finditer(pattern, text)]

    first, second = find("2345", "AB"), find("45678", "CD")
    assert Scrubber([first, second])("0123456789") == "01<AB_1>9"
    assert Scrubber([second, first])("0123456789") == "01<CD_1>9"


def test_a_placeholder_inside_a_secret_does_not_save_it() -> None:
    out = scrub("-----BEGIN PRIVATE KEY-----\nMIIabc <EMAIL_1> MIIdef\n-----END PRIVATE KEY-----")
    assert "MII" not in out


def test_long_text_is_cut_at_a_words_end() -> None:
    assert clip("word " * 10_000).endswith("word")
    assert len(clip("x" * 100_000)) <= MAX_CHARS
    card = "4111111111111111"
    text = "x" * (MAX_CHARS - 24) + " " + card + " tail"
    for shift in range(30):  # wherever the cut falls, no half of a number stays behind
        assert not re.search(r"4111", scrub(text[shift:] if shift else text).replace("<CARD_1>", ""))


def test_checksums() -> None:
    assert luhn("79927398713")
    assert not luhn("79927398710")
    assert iban_valid("NO9386011117947")
    assert not iban_valid("NO9386011117948")
    assert entropy("aaaa") == 0
    assert entropy("abcd") == 2


HOSTILE = [
    "eyJ",
    "//",
    "a@",
    "a.",
    "://",
    "1 ",
    "1:",
    "Aa0",
    "-----BEGIN PRIVATE KEY",
    "password",
    "+1 ",
    "(",
    "sk-",
    "0 1",
    "AC",
    "M",
]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("unit", HOSTILE)
def test_hostile_repetition_costs_linear_time(unit: str) -> None:
    scrub(unit * (60_000 // len(unit)))


@given(st.text(max_size=200))
@settings(max_examples=150, deadline=None)
def test_scrubbing_is_idempotent(text: str) -> None:
    once = scrub(text)
    assert scrub(once) == once


PIECES = st.sampled_from(
    [
        *SECRETS[:6],
        JWT,
        "bob@example.com",
        "4111111111111111",
        "DE89370400440532013000",
        "203.0.113.9",
        "+49 30 1234567",
    ]
)
FILLER = st.text(alphabet=string.ascii_lowercase + " .,\n", max_size=30)


@given(st.lists(st.tuples(FILLER, PIECES), max_size=8), FILLER)
@settings(max_examples=150, deadline=None)
def test_planted_values_never_survive_and_fillers_do(planted: list[tuple[str, str]], tail: str) -> None:
    text = "".join(f"{filler} {piece} " for filler, piece in planted) + tail
    out = scrub(text)
    for filler, piece in planted:
        assert piece not in out
        assert filler in out
    assert scrub(out) == out


@given(st.integers(min_value=0), st.integers(24, 64))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_random_bytes_in_base64_are_secrets(seed: int, size: int) -> None:
    token = base64.b64encode(Random(seed).randbytes(size)).decode().rstrip("=")  # drawn: no runs of one byte
    letters = re.sub("[+/]", "", token)
    if entropy(token) >= 4.5 and (any(map(str.isdigit, token)) or token == letters):  # else it may be a path
        assert token not in scrub(f"x {token} y")


@pytest.mark.parametrize("token", ["RkqZbWnJxTcVmLhPsYdGfAwEuQiOoKzB", "hTqWbZkNcRxLmVdYpJfSgKaEiUoOyCwM"])
def test_drawn_letters_without_a_digit_are_secrets_and_names_in_camel_case_are_not(token: str) -> None:
    assert token not in scrub(f"x {token} y")
    name = "getElementsByTagNameAndClassNameFromDocument"
    assert name in scrub(f"x {name} y")


@given(st.from_regex(r"\A[3-5][0-9]{14}\Z"))
@settings(max_examples=100, deadline=None)
def test_every_card_number_is_found(stem: str) -> None:
    number = next(stem + str(check) for check in range(10) if luhn(stem + str(check)))
    assert scrub(f"no {number} x") == "no <CARD_1> x"


def test_presidio_is_asked_for_by_name() -> None:
    if importlib.util.find_spec("presidio_analyzer"):
        pytest.skip("Presidio is installed here")
    with pytest.raises(StartFailed, match="pip install presidio-analyzer"):
        detectors(presidio=True)
    assert detectors() == DETECTORS


def test_detect_secrets_is_never_held_by_a_worker() -> None:
    """It brings `requests`, and both together some 6 MB."""
    code = f"import sys; from gateway.scrub import Scrubber; print(Scrubber()('key {SECRETS[-1]}'))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print({{'detect_secrets', 'requests'}} & set(sys.modules))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["key <SECRET_1>", "set()"]


def test_the_key_shapes_are_those_of_the_installed_package() -> None:
    assert known_keys.known_keys() == known_keys.imported()
    assert len(known_keys.imported()) >= len(known_keys.DETECTORS)


def test_without_a_second_interpreter_the_key_shapes_are_imported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert known_keys.known_keys.__wrapped__() == known_keys.imported()
    assert "takes 6 MB more" in caplog.text
