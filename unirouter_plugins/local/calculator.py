"""A calculator as a custom provider of LiteLLM: it answers sums and nothing else."""

from __future__ import annotations

import ast
import operator
import re
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING

from unirouter_plugins.local.provider import newest_prompt, text_provider

if TYPE_CHECKING:
    from litellm import CustomLLM

REFUSAL = "I only do arithmetic."  # the answer to a prompt that does not hold one sum
_LONGEST_PROMPT, _LONGEST = 10_000, 200  # characters of a prompt and of a sum; the latter bounds the depth
_MOST_BITS = 8_192  # of a number, numerator and denominator together: some 2,000 digits, and never long to compute
_SENTENCE_END = re.compile(r"[?!:;=\n]|\.(?!\d)")
_OPENING = re.compile(
    r"(?:.*\b(?:what is|what's|how much is|calculate|compute|evaluate|work out|solve|find)\b)?"
    r"\s*(?:the (?:value|result|answer) of\b)?"
)
_NUMBER = r"(\d+(?:\.\d+)?)"
_SPELLINGS = {
    r"(?<=\d),(?=\d{3}\b)": "",
    r"\bplus\b": "+",
    r"\bminus\b|[−–]": "-",
    r"\btimes\b|\bmultiplied by\b|\bx\b|[×·]": "*",
    r"\bdivided by\b|÷": "/",
    r"\b(?:raised )?to the power of\b|\^": "**",
    r"\bsquared\b|²": "**2",
    r"\bcubed\b|³": "**3",
    rf"(?:\b(?:the )?square root of\b|√)\s*(?:{_NUMBER}|(?=\())": r"sqrt(\1)",
    rf"{_NUMBER} ?(?:%|per ?cent) of {_NUMBER}": r"(\1*\2/100)",
    r"(?:%|per ?cent) of": "/100*",
    rf"\b(?:a |one )?half of {_NUMBER}": r"(\1/2)",
    rf"\b(?:a |one )third of {_NUMBER}": r"(\1/3)",
    rf"\b(?:a |one )quarter of {_NUMBER}": r"(\1/4)",
}
_SUM = re.compile(r"(?:sqrt(?=\()|[\d.()+*/\s-])*", re.ASCII)
_OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def calculate(prompt: str) -> str:
    """Return the value of the one sum that a prompt asks for, or `REFUSAL`.

    A sum is a sentence of numbers, `+ - * / ^ % √`, brackets and the English words for them, alone or after words
    like "what is". Results are exact, but for roots; fractions are shown to 15 digits.

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
    return results[0] if len(results) == 1 else REFUSAL


def _evaluate(sentence: str) -> str | None:
    """Return the value of a sentence, or None when it is not a sum or its value is undefined or too large."""
    sentence = " ".join(sentence.lower().split())
    if len(sentence) > _LONGEST:
        return None
    sentence = _OPENING.sub("", sentence, count=1)
    for words, sign in _SPELLINGS.items():
        sentence = re.sub(words, sign, sentence)
    sentence = sentence.replace("sqrt()", "sqrt")  # of a bracket
    if not _SUM.fullmatch(sentence):
        return None
    try:
        tree = ast.parse(sentence.strip(), mode="eval").body
        if not any(isinstance(node, ast.BinOp | ast.Call) for node in ast.walk(tree)):
            return None  # only a number
        value = _value(tree)
        return str(value.numerator) if value.denominator == 1 else f"{float(value):.15g}"
    except (SyntaxError, ValueError, TypeError, ArithmeticError):
        return None


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(int() | float() as number):
            value = Fraction(str(number))  # as it is written, not as binary rounds it
        case ast.UnaryOp(ast.USub(), operand):
            value = -_value(operand)
        case ast.UnaryOp(ast.UAdd(), operand):
            value = _value(operand)
        case ast.Call(ast.Name("sqrt"), [operand]):
            value = _power(_value(operand), Fraction(1, 2))
        case ast.BinOp(left, ast.Pow(), right):
            value = _power(_value(left), _value(right))
        case ast.BinOp(left, sign, right) if type(sign) in _OPERATIONS:
            value = _OPERATIONS[type(sign)](_value(left), _value(right))
        case _:
            raise ValueError("That is no arithmetic.")
    return _bounded(value, 1)


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator == 1:
        return Fraction(_bounded(base, exponent.numerator) ** exponent.numerator)
    return Fraction(float(base) ** float(exponent))  # of a negative base it is complex, a TypeError


def _bounded(value: Fraction, exponent: int) -> Fraction:
    """Return `value`; raise `OverflowError` when its power has too many digits."""
    if (value.numerator.bit_length() + value.denominator.bit_length()) * abs(exponent) > _MOST_BITS:
        raise OverflowError("The number has too many digits.")
    return value


@cache
def provider() -> CustomLLM:
    """Return the calculator as a `litellm.CustomLLM`.

    Examples
    --------
    >>> calculator = provider()
    >>> import litellm
    >>> litellm.custom_provider_map = [{"provider": "calculator", "custom_handler": calculator}]
    >>> messages = [{"role": "user", "content": "What is half of 18?"}]
    >>> litellm.completion("calculator/calculator", messages).choices[0].message.content
    '9'
    """
    return text_provider(lambda model, messages: calculate(newest_prompt(messages)))
