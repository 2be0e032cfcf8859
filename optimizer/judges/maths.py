"""Equal mathematics in other words: ``1/2``, ``0.5``, ``\\frac{1}{2}`` and ``50%`` are one answer.

Nothing that a model wrote is ever executed: a small parser of our own builds SymPy expressions from a fixed grammar
(numbers, letters, + - * / ^, brackets, roots, fractions, a few functions, lists), with limits on length and powers,
so no answer can hang the judge. Two expressions are equal when their difference is 0 exactly, or vanishes to 30
digits at several fixed points (a polynomial identity test).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from optimizer.judges import answers
from optimizer.judges.registry import metric
from optimizer.records import Example, JudgeSpec, Verdict

_LONGEST = 400
_LARGEST_POWER = 64
_MOST_BITS = 4096
_DEEPEST = 40
_DIGITS = 30
_POINTS = ("0.7390851", "1.3247179", "2.2360679", "-0.5671432")
_BOXED = re.compile(r"\\boxed\s*\{")
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?|\.\d+)|(?P<command>\\?[A-Za-z]+)|(?P<sign>\*\*|[-+*/^(){}\[\],=%|!]))"
)
_NOISE = re.compile(r"\\(?:left|right|displaystyle|,|;|!|:|quad|text\{[^{}]*\}|mathrm\{[^{}]*\}|\$)|[$°€£]")
_FUNCTIONS = {"sqrt", "sin", "cos", "tan", "log", "ln", "exp", "abs"}
_CONSTANTS = {"pi", "e", "i", "infty", "oo"}


@metric("math")
class MathsJudge:
    """1 when the answer equals any reference as mathematics (or as text), else 0. An unreadable answer is malformed."""

    def __init__(self, spec: JudgeSpec) -> None:
        self._require_tags = spec.require_tags

    def verdict(self, example: Example, text: str) -> Verdict:
        """Compare the tagged part, else the last boxed part, else the last line with something in it."""
        answer = answers.tagged(text)
        if answer is None and not self._require_tags:
            answer = boxed(text) or next((line for line in reversed(text.splitlines()) if line.strip()), "")
        answer = (boxed(answer or "") or answer or "").strip().rstrip(".")
        if not answer:
            return Verdict(score=0.0, malformed=True, critique="The reply holds no answer in the demanded form.")
        if any(answers.plain(answer) == answers.plain(reference) for reference in example.answers):
            return Verdict(score=1.0, answer=answer)
        value = parse(answer)
        if value is None and "=" not in answer and (tail := answers.number(answer)) is not None:
            value = parse(str(tail))
        if value is None:
            return Verdict(
                score=0.0, answer=answer, malformed=True, critique="The answer cannot be read as mathematics."
            )
        right = any(
            (wanted := parse(boxed(reference) or reference)) is not None and equal(value, wanted)
            for reference in example.answers
        )
        return Verdict(score=float(right), answer=answer)


def boxed(text: str) -> str | None:
    """The content of the last ``\\boxed{...}``, or None."""
    for match in reversed(list(_BOXED.finditer(text))):
        depth = 1
        for place in range(match.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 0:
                return text[match.end() : place]
    return None


def parse(text: str) -> Any | None:
    """A SymPy expression, or a tuple of them for a list; None for what the grammar does not know or the limits
    forbid."""
    if len(text) > _LONGEST:
        return None
    clean = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", _NOISE.sub(" ", text)).replace("−", "-").replace("·", "*")
    clean = clean.replace("×", "*").replace("÷", "/").replace("\\{", "[").replace("\\}", "]").replace("\\%", "%")
    try:
        return _Parser(clean).whole()
    except _UnreadableError:
        return None
    except (ArithmeticError, TypeError, ValueError, RecursionError):
        return None


def equal(left: Any, right: Any) -> bool:
    """Whether two parsed answers are the same; lists element by element, in order."""
    if isinstance(left, tuple) or isinstance(right, tuple):
        return (
            isinstance(left, tuple)
            and isinstance(right, tuple)
            and len(left) == len(right)
            and all(equal(one, other) for one, other in zip(left, right, strict=True))
        )
    if left == right:
        return True
    import sympy

    difference = left - right
    symbols = sorted(difference.free_symbols, key=str)
    points = [sympy.Float(point, _DIGITS) for point in _POINTS]
    return all(
        _vanishes(
            difference.subs({symbol: points[(place + turn) % len(points)] for turn, symbol in enumerate(symbols)})
        )
        for place in range(len(points) if symbols else 1)
    )


def _vanishes(value: Any) -> bool:
    try:
        return bool(abs(value.evalf(_DIGITS)) < 10 ** -(_DIGITS // 3))
    except (TypeError, ValueError, ArithmeticError):
        return False


def _bits(base: Any) -> int:
    """How many bits one factor of a power has: of a rational its longer half, of anything else a guess on the safe
    side."""
    if getattr(base, "is_Rational", False):
        return max(int(base.p).bit_length(), int(base.q).bit_length(), 1)
    return _LARGEST_POWER


class _UnreadableError(Exception):
    """The text is outside the grammar."""


class _Parser:
    """Recursive descent: list > equation > sum > product (also by mere neighbourhood) > power > atom."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        place = 0
        text = text.strip()
        while place < len(text):
            match = _TOKEN.match(text, place)
            if match is None:
                raise _UnreadableError
            kind = str(match.lastgroup)
            self._tokens.append((kind, match.group(kind)))
            place = match.end()
        self._at = 0
        self._depth = 0

    def whole(self) -> Any:
        value = self._list()
        if self._at < len(self._tokens) or not self._tokens:
            raise _UnreadableError
        return value

    def _list(self) -> Any:
        values = [self._equation()]
        while self._take(","):
            values.append(self._equation())
        return tuple(values) if len(values) > 1 else values[0]

    def _equation(self) -> Any:
        """``x = 5`` means 5: the side after the last equals sign."""
        value = self._sum()
        while self._take("="):
            value = self._sum()
        return value

    def _sum(self) -> Any:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _UnreadableError
        sign = -1 if self._take("-") else 1
        if sign == 1:
            self._take("+")
        value = self._product()
        if sign == -1:
            value = -self._scalar(value)
        while True:
            if self._take("+"):
                value = self._scalar(value) + self._scalar(self._product())
            elif self._take("-"):
                value = self._scalar(value) - self._scalar(self._product())
            else:
                break
        self._depth -= 1
        return value

    def _product(self) -> Any:
        value = self._power()
        while True:
            if self._take("*") or self._command("times") or self._command("cdot"):
                value = self._scalar(value) * self._scalar(self._power())
            elif self._take("/") or self._command("div"):
                divisor = self._scalar(self._power())
                if divisor == 0:
                    raise _UnreadableError
                value = self._scalar(value) / divisor
            elif self._starts_atom():
                value = self._scalar(value) * self._scalar(self._power())
            else:
                return value

    def _power(self) -> Any:
        import sympy

        value = self._atom()
        if self._take("%"):
            value = self._scalar(value) / sympy.Integer(100)
        if self._take("^") or self._take("**"):
            negative = self._take("-")
            power = self._scalar(self._atom())
            power = -power if negative else power
            value = self._scalar(value)
            if not power.free_symbols and abs(power.evalf(8)) * _bits(value) > _MOST_BITS:
                raise _UnreadableError
            value = value**power
        return value

    def _atom(self) -> Any:
        import sympy

        kind, text = self._next()
        if kind == "number":
            if len(text) > _LARGEST_POWER:
                raise _UnreadableError
            return sympy.Rational(text)
        if kind == "command":
            return self._named(text.removeprefix("\\"), text.startswith("\\"))
        if text in ("-", "+"):
            value = self._scalar(self._power())
            return -value if text == "-" else value
        close = {"(": ")", "[": "]", "{": "}", "|": "|"}.get(text)
        if close is None:
            raise _UnreadableError
        value = self._list()
        if not self._take(close) and not (close in ")]" and (self._take(")") or self._take("]"))):
            raise _UnreadableError
        return abs(self._scalar(value)) if text == "|" else value

    def _named(self, name: str, escaped: bool) -> Any:
        import sympy

        if name in ("frac", "dfrac", "tfrac"):
            above, below = self._scalar(self._atom()), self._scalar(self._atom())
            if below == 0:
                raise _UnreadableError
            return above / below
        if name in _FUNCTIONS:
            root = self._scalar(self._bracketed("[", "]")) if name == "sqrt" and self._peek("[") else None
            inner = self._scalar(self._atom())
            functions: dict[str, Callable[[Any], Any]] = {
                "sqrt": lambda value: sympy.root(value, root) if root is not None else sympy.sqrt(value),
                "log": sympy.log,
                "ln": sympy.log,
                "abs": sympy.Abs,
                "exp": sympy.exp,
                "sin": sympy.sin,
                "cos": sympy.cos,
                "tan": sympy.tan,
            }
            if name == "exp" and not inner.free_symbols and abs(inner.evalf(8)) > _LARGEST_POWER:
                raise _UnreadableError
            return functions[name](inner)
        if name in _CONSTANTS:
            return {
                "pi": sympy.pi, "e": sympy.E, "i": sympy.I, "infty": sympy.oo, "oo": sympy.oo
            }[name]  # fmt: skip
        if len(name) == 1 or escaped:
            return sympy.Symbol(name)
        raise _UnreadableError  # a word: this is prose

    def _bracketed(self, opening: str, closing: str) -> Any:
        if not self._take(opening):
            raise _UnreadableError
        value = self._list()
        if not self._take(closing):
            raise _UnreadableError
        return value

    def _next(self) -> tuple[str, str]:
        if self._at >= len(self._tokens):
            raise _UnreadableError
        self._at += 1
        return self._tokens[self._at - 1]

    def _peek(self, sign: str) -> bool:
        return self._at < len(self._tokens) and self._tokens[self._at] == ("sign", sign)

    def _take(self, sign: str) -> bool:
        if self._peek(sign):
            self._at += 1
            return True
        return False

    def _command(self, name: str) -> bool:
        if self._at < len(self._tokens) and self._tokens[self._at] == ("command", f"\\{name}"):
            self._at += 1
            return True
        return False

    def _starts_atom(self) -> bool:
        if self._at >= len(self._tokens):
            return False
        kind, text = self._tokens[self._at]
        before = self._tokens[self._at - 1]
        if kind == "number":
            return before[1] in (")", "}", "]") or before[0] == "command"
        return kind == "command" or text in ("(", "{")

    @staticmethod
    def _scalar(value: Any) -> Any:
        if isinstance(value, tuple):
            raise _UnreadableError
        return value
