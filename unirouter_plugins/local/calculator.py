"""A program that only does arithmetic, as a provider of LiteLLM's: right on sums, of no use for anything else."""

from __future__ import annotations

import operator
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from decimal import Context, Decimal
from fractions import Fraction
from functools import cache
from typing import Any

from unirouter_core.costs import TokenCounter
from unirouter_plugins.litellm.failures import open_litellm

REFUSAL = "I only do arithmetic."
"""The answer to a prompt that does not hold one sum."""

_LONGEST_PROMPT, _LONGEST = 10_000, 200  # characters of a prompt and of a sum; the latter bounds the parser's depth
_MOST_BITS = 8_192  # of a number, numerator and denominator together: some 2,000 digits, and never long to compute
_PRECISE = Context(prec=50, Emax=3_000, Emin=-3_000)  # roots, the one thing that is not exact
_SHOWN = Context(prec=15)

_SENTENCE_END = re.compile(r"[?!:;=\n]|\.(?!\d)")
_OPENING = re.compile(
    r"(?:.*\b(?:what is|what's|how much is|calculate|compute|evaluate|work out|solve|find)\b)?"
    r"\s*(?:the (?:value|result|answer) of\b)?"
)
_SPELLINGS = {
    re.compile(words): sign
    for words, sign in {
        r"\bplus\b": "+",
        r"\bminus\b|[−–]": "-",
        r"\btimes\b|\bmultiplied by\b|\bx\b|[×·]": "*",
        r"\bdivided by\b|÷": "/",
        r"\b(?:raised )?to the power of\b|\*\*": "^",
        r"\bsquared\b|²": "^2",
        r"\bcubed\b|³": "^3",
        r"\b(?:the )?square root of\b": "√",
        r"\bper ?cent\b": "%",
        r"\b(?:a |one )?half\b": "(1/2)",
        r"\b(?:a |one )third\b": "(1/3)",
        r"\b(?:a |one )quarter\b": "(1/4)",
        r"\bof\b": "@",
    }.items()
}
_TOKEN = re.compile(r"(?:0|[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d*)(?:\.\d+)?|\.\d+|\S", re.ASCII)


def calculate(prompt: str) -> str:
    """Return the value of the one sum that a prompt asks for, or `REFUSAL`.

    A sum is a sentence of numbers, `+ - * / ^ % √`, brackets and the English words for them, alone or behind words
    like "what is". Results are exact, but for roots; what is no whole number is shown to 15 digits.

    Examples
    --------
    >>> calculate("What is 17 times 23? Answer with the number only.")
    '391'
    >>> calculate("12.5 % of (3 + 4)^2")
    '6.125'
    >>> calculate("Write a poem about the sea.")
    'I only do arithmetic.'
    """
    if len(prompt) > _LONGEST_PROMPT:
        return REFUSAL
    results = [result for sentence in _SENTENCE_END.split(prompt) if (result := _evaluate(sentence)) is not None]
    return _show(results[0]) if len(results) == 1 else REFUSAL


def _evaluate(sentence: str) -> Fraction | None:
    """Return the value of a sentence, or None when it is no sum, has no value or one too large."""
    sentence = " ".join(sentence.lower().split())
    if len(sentence) > _LONGEST:
        return None
    sentence = _OPENING.sub("", sentence, count=1)
    for words, sign in _SPELLINGS.items():
        sentence = words.sub(sign, sentence)
    tokens = _TOKEN.findall(sentence)
    if "√" not in tokens and not any(token in _OPERATIONS for token in tokens[1:]):
        return None  # a number alone
    try:
        return _Sum(tokens).value()
    except (ValueError, ArithmeticError):
        return None


def _show(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    return f"{_SHOWN.normalize(_SHOWN.divide(Decimal(value.numerator), Decimal(value.denominator))):f}"


class _Sum:
    """Reads tokens from left to right; `@`, for "of", binds more than a product and less than a power."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = [*reversed(tokens)]

    def value(self) -> Fraction:
        """Return the value of all tokens."""
        value = self._operations(least=1)
        if self._tokens:
            raise ValueError(f"{self._tokens[-1]!r} does not belong there.")
        return value

    def _take(self) -> str:
        return self._tokens.pop() if self._tokens else ""

    def _operations(self, least: int) -> Fraction:
        """Return the value of what comes next, as far as its operations bind at least as much as `least`."""
        left = self._operand()
        while self._tokens and (operation := _OPERATIONS.get(self._tokens[-1])) and operation[0] >= least:
            binding, apply = operation
            right = self._operations(binding if self._take() == "^" else binding + 1)  # powers from the right
            left = _bounded(apply(left, right))
        return left

    def _operand(self) -> Fraction:
        token = self._take()
        if token == "(":
            value = self._operations(least=1)
            if self._take() != ")":
                raise ValueError("A bracket is not closed.")
        elif token in _SIGNS:
            binding, change = _SIGNS[token]
            value = change(self._operations(binding))
        else:
            value = _bounded(Fraction(token.replace(",", "")))
        while self._tokens and self._tokens[-1] == "%":
            self._take()
            value /= 100
        return value


def _bounded(value: Fraction) -> Fraction:
    if value.numerator.bit_length() + value.denominator.bit_length() > _MOST_BITS:
        raise OverflowError("The number has too many digits.")
    return value


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        return Fraction(_PRECISE.power(_decimal(base), _decimal(exponent)))
    bits = base.numerator.bit_length() + base.denominator.bit_length()
    if bits * abs(exponent) > _MOST_BITS:
        raise OverflowError("The number has too many digits.")
    return Fraction(base**exponent.numerator)


def _root(value: Fraction) -> Fraction:
    return Fraction(_PRECISE.sqrt(_decimal(value)))


def _decimal(value: Fraction) -> Decimal:
    return _PRECISE.divide(Decimal(value.numerator), Decimal(value.denominator))


_OPERATIONS: Mapping[str, tuple[int, Callable[[Fraction, Fraction], Fraction]]] = {
    "+": (1, operator.add),
    "-": (1, operator.sub),
    "*": (2, operator.mul),
    "/": (2, operator.truediv),
    "@": (3, operator.mul),
    "^": (4, _power),
}
_SIGNS: Mapping[str, tuple[int, Callable[[Fraction], Fraction]]] = {
    "+": (3, operator.pos),
    "-": (3, operator.neg),
    "√": (4, _root),
}


@cache
def provider() -> Any:
    """Return the calculator as LiteLLM takes it: a `litellm.CustomLLM`.

    Examples
    --------
    >>> litellm = open_litellm()
    >>> litellm.custom_provider_map = [{"provider": "calculator", "custom_handler": provider()}]
    >>> messages = [{"role": "user", "content": "What is half of 18?"}]
    >>> litellm.completion("calculator/calculator", messages).choices[0].message.content
    '9'
    """
    return type("CalculatorProvider", (_Calls, open_litellm().CustomLLM), {})()


class _Calls:
    """The four ways in which LiteLLM calls a provider; what else it passes does not matter to a calculator."""

    def __init__(self) -> None:
        super().__init__()
        self._counter = TokenCounter()

    def _answer(self, messages: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, int]]:
        """Return the answer and how many tokens went in and out."""
        text = calculate(_newest_prompt(messages))
        sent = " ".join(_text(message.get("content")) for message in messages)
        tokens_in, tokens_out = self._counter.count([sent, text]).astype(int).tolist()
        usage = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}
        return text, usage

    def completion(self, model: str, messages: Sequence[Mapping[str, Any]], *, model_response: Any, **_: Any) -> Any:
        text, usage = self._answer(messages)
        model_response.model = model
        model_response.choices[0].message.content = text
        model_response.choices[0].finish_reason = "stop"
        model_response.usage = open_litellm().Usage(**usage)
        return model_response

    async def acompletion(self, *args: Any, **named: Any) -> Any:
        return self.completion(*args, **named)

    def streaming(self, *, messages: Sequence[Mapping[str, Any]], **_: Any) -> Iterator[dict[str, Any]]:
        text, usage = self._answer(messages)
        yield _chunk(text)
        yield _chunk("", finish_reason="stop", usage=usage)

    async def astreaming(self, *, messages: Sequence[Mapping[str, Any]], **_: Any) -> AsyncIterator[dict[str, Any]]:
        for chunk in self.streaming(messages=messages):
            yield chunk


def _chunk(text: str, *, finish_reason: str = "", usage: Mapping[str, int] | None = None) -> dict[str, Any]:
    return {
        "text": text,
        "is_finished": bool(finish_reason),
        "finish_reason": finish_reason,
        "usage": usage,
        "index": 0,
        "tool_use": None,
    }


def _newest_prompt(messages: Sequence[Mapping[str, Any]]) -> str:
    asked = (message.get("content") for message in reversed(messages) if message.get("role") == "user")
    return _text(next(asked, None))


def _text(content: Any) -> str:
    """Return the text of a message, whose content is text, blocks of which some are text, or nothing."""
    if isinstance(content, str) or content is None:
        return content or ""
    return "\n".join(block.get("text", "") for block in content)
