"""Layouts of outcome tables: which column is what, long or wide, and the scales of grades."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn, TypeAlias

import numpy as np

from unirouter_core.embedding import Array
from unirouter_core.exceptions import InvalidDataError, listed
from unirouter_core.reading import Columns

GivenColumns: TypeAlias = Mapping[str, str | Sequence[str]]  # our name to the table's; "=gpt-4o" is the model itself
GivenScale: TypeAlias = str | tuple[float, float] | Mapping[Any, float]

# Names of columns, without case and punctuation. Those of an earlier group come first; two of one group are refused.
_ALIASES: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompt", "question query user_input", "input instruction user_prompt user_message problem", "messages"),
    "model": ("model", "model_name", "deployment deployment_name generator llm engine", "model_id"),
    "quality": (
        "quality",
        "score acc accuracy correct is_correct correctness passed pass success reward performance",
        "rating grade label exact_match",
    ),
    "error": ("error", "error_rate"),
    "cost": ("cost", "usd cost_usd usd_cost total_cost response_cost", "price"),
    "tokens_in": ("tokens_in", "input_tokens prompt_tokens num_input_tokens num_prompt_tokens"),
    "tokens_out": ("tokens_out", "output_tokens completion_tokens num_output_tokens num_completion_tokens"),
    "answer": ("response output completion actual_output model_output model_response prediction", "answer"),
    "reference": ("reference", "expected expected_output ground_truth gold target ideal correct_answer golden_answer"),
}
_GROUPS = {kind: [set(group.split()) for group in groups] for kind, groups in _ALIASES.items()}
OUTCOMES = ("prompt", "model", "quality", "error", "cost", "tokens_in", "tokens_out")
_NOT_MODELS = """
    id idx index row sample_id doc_id prompt_id question_id example_id task_id epoch seed fold split difficulty length
    latency latency_ms duration seconds execution_time time timestamp tokens total_tokens unnamed_0 f1 bleu rouge
    rouge_l faithfulness context_recall context_precision answer_relevancy answer_correctness answer_similarity
"""  # numeric columns that are not a model's grades
_OTHERS = set(_NOT_MODELS.split()).union([""], *(group for groups in _GROUPS.values() for group in groups))
_PARTS = {name: kind for kind in ("quality", "cost", "tokens_in", "tokens_out") for g in _GROUPS[kind] for name in g}
_PART = "|".join(sorted(_PARTS, key=len, reverse=True))
_OF_MODEL = [  # "gpt-4o|total_cost", "gpt-4o.score", "score_gpt-4o"
    re.compile(rf"(?P<model>.+?)[|./:_ -]+(?P<part>{_PART})", re.IGNORECASE),
    re.compile(rf"(?P<part>{_PART})[|./:_ -]+(?P<model>.+)", re.IGNORECASE),
]
_RIGHT, _WRONG = "true yes y t right correct pass passed", "false no n f wrong incorrect fail failed"
_WORDS = dict.fromkeys(_RIGHT.split(), 1.0) | dict.fromkeys(_WRONG.split(), 0.0)
_NOT_KNOWN = frozenset(["", "nan", "null", "none", "n/a", "na", "<na>"])
_RANGE = re.compile(r"(-?[\d.]+)\s*(?:-|–|\.\.|to)\s*(-?[\d.]+)")


# --- Which column is what ---------------------------------------------------------------------------------------------


class Answers(NamedTuple):
    """The columns of one model's answers, or of the models that `model_column` names."""

    grade: str
    model: str | None = None
    model_column: str | None = None
    cost: str | None = None
    tokens_in: str | None = None
    tokens_out: str | None = None
    failure: str | None = None  # the words of an exception: such an answer has no grade
    is_error: bool = False


@dataclass(frozen=True)
class Layout:
    """Which columns of a table hold its prompts and its answers."""

    prompt: str
    answers: tuple[Answers, ...]
    is_wide: bool = False
    text: str | None = None  # of the answers that were graded

    def needed(self, with_texts: bool) -> list[str]:
        """Return the columns to read; the answers' texts, which may be long, only where they are wanted."""
        each = [name for a in self.answers for name in (a.grade, a.model_column, *a[3:7])]
        named = dict.fromkeys([self.prompt, *each, self.text if with_texts else None])
        return [name for name in named if isinstance(name, str)]

    def shown(self, scale: Scale) -> str:
        """Return a summary of the layout: which column is what."""
        first, parts = self.answers[0], {"prompt": self.prompt}
        as_scale = f" as {scale}" * (scale != Scale())
        if self.is_wide:
            parts |= {f"a column per model{as_scale}": ""}
        else:
            parts |= {"model": first.model_column or str(first.model)}
            parts |= {"error" if first.is_error else "quality": first.grade + as_scale}
        for name in ("cost", "tokens_in", "tokens_out"):
            if column := getattr(first, name):
                parts[name] = "" if self.is_wide else column
        return ", ".join(name if column in ("", name) else f"{name}={column}" for name, column in parts.items())


def find_columns(
    names: Collection[str], given: GivenColumns | None = None, kinds: Iterable[str] = tuple(_ALIASES)
) -> dict[str, list[str]]:
    """Return the columns of each kind: those that are given, else the one with a known name.

    >>> find_columns(["Question", "model", "acc", "day"])
    {'prompt': ['Question'], 'model': ['model'], 'quality': ['acc']}
    """
    found = {kind: [name] if isinstance(name, str) else list(name) for kind, name in (given or {}).items()}
    for kind, columns in found.items():
        if kind not in _ALIASES:
            raise InvalidDataError(f"columns: {kind!r} is not one of {', '.join(_ALIASES)}.")
        for name in columns:
            if name not in names and not (kind == "model" and name.startswith("=")):
                constant = f'; "={name}" is a model of that name' * (kind == "model")
                raise InvalidDataError(f"{kind} is not in a column {name!r}; there are {quoted(names)}{constant}.")
    taken = {name for columns in found.values() for name in columns}
    for kind in kinds:
        for group in _GROUPS[kind] if kind not in found else ():
            hits = [name for name in names if name not in taken and _normal(name) in group]
            if len(hits) > 1:
                refuse(f"{quoted(hits)} may each be the {kind}", kind, hits[0])
            if hits:
                found[kind] = hits
                taken.update(hits)
                break
    return {kind: found[kind] for kind in _ALIASES if kind in found}


def find_layout(
    names: Collection[str], given: GivenColumns | None = None, values: Mapping[str, Sequence[Any]] | None = None
) -> Layout:
    """Return the layout of a table; without its `values`, every column that may be a model's is taken for one."""
    names = [name for name in names if isinstance(name, str)]
    found = find_columns(names, given, OUTCOMES)
    one = {kind: columns[0] for kind, columns in found.items()}
    if "prompt" not in one:
        it_has = "are not outcomes; give prompt, model, and error or quality (in [0, 1], error = 1 - quality)"
        refuse(f"the columns {quoted(names)} {it_has}", "prompt", next(iter(names), "NAME"))
    amounts: dict[str, Any] = {kind: one[kind] for kind in ("cost", "tokens_in", "tokens_out") if kind in one}
    if "model" in one:
        failure = one.get("error") if "quality" in one else None
        if failure is not None and values is not None and _are_numbers(values[failure]):
            raise InvalidDataError("it holds both error and quality; give one of the two (error = 1 - quality).")
        grade = one.get("quality", one.get("error"))
        if grade is None:
            there = f" The columns are {quoted(names)}."
            refuse("it holds neither error nor quality; give one of the two, in [0, 1]", "quality", "NAME", there)
        is_error, constant = "quality" not in one, one["model"].removeprefix("=")
        who: dict[str, Any] = {"model": constant} if constant != one["model"] else {"model_column": one["model"]}
        graded = Answers(grade, **who, **amounts, failure=failure, is_error=is_error)
        texts = [[n for n in names if n not in one.values() and _normal(n) in group] for group in _GROUPS["answer"]]
        several = next(filter(None, texts), [])
        text = one.get("answer", several[0] if len(several) == 1 else None)
        return Layout(one["prompt"], (graded,), text=text)
    taken = {one["prompt"], *(name for columns in (given or {}).values() for name in columns)}
    models: dict[str, dict[str, Any]] = _columns_by_model([name for name in names if name not in taken])
    if given and "quality" in given:
        models = {name: {**models.get(name, {}), "quality": name} for name in found["quality"]}
    elif not models:
        others = [name for name in names if name not in taken and _normal(name) not in _OTHERS]
        if values is not None:
            others = [name for name in others if _are_numbers(values[name], known=True)]
        models = {name: {"quality": name} for name in others}
        answers = [name for name in names if _normal(name) in _GROUPS["answer"][0]]
        if len(models) < 2 or answers:
            refuse("no column names the model", "model", "NAME", ' or, for one model throughout, "=gpt-4o"')
    each = (Answers(parts.pop("quality"), model, **parts) for model, parts in models.items())
    return Layout(one["prompt"], tuple(each), is_wide=True)


def _columns_by_model(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the columns of each model that names like "gpt-4o_score" and "cost_gpt-4o" show (RouterBench, SPROUT)."""
    models: dict[str, dict[str, str]] = {}
    for name in names:
        matches = (pattern.fullmatch(name) for pattern in _OF_MODEL if _normal(name) not in _OTHERS)
        if match := next(filter(None, matches), None):
            models.setdefault(match["model"], {}).setdefault(_PARTS[match["part"].lower()], name)
    for model in models.keys() & set(names):
        models[model].setdefault("quality", model)
    graded = {model: parts for model, parts in models.items() if "quality" in parts}
    return graded if len(graded) > 1 or any(len(parts) > 1 for parts in graded.values()) else {}


def _normal(name: str) -> str:
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[\W_]+", "_", snake).strip("_").lower()


def _are_numbers(values: Iterable[Any], known: bool = False) -> bool:
    """Return whether all known values of a column may be grades, and with `known` whether there are any."""
    try:
        grades = [Scale().quality(value, bounded=False) for value in values]
    except ValueError:
        return False
    return not known or not np.isnan(grades).all()


def quoted(names: Collection[str]) -> str:
    """Return the first 8 names, quoted: a wide table has dozens of columns."""
    return listed(map(repr, names), most=8) or "(none)"


def refuse(what: str, kind: str, column: str, more: str = "") -> NoReturn:
    """Raise `InvalidDataError` that suggests the option which names the column of a kind."""
    raise InvalidDataError(
        f"{what}; say which is which with columns={{{kind!r}: {column!r}}} (--columns {kind}={column}){more}."
    )


# --- Scales -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """The quality of a grade: linear between the lowest and the highest value, or by name.

    >>> Scale.of("1-5").quality("4"), Scale.of("A=1,B=.8").quality("b"), Scale().quality("TRUE")
    (0.75, 0.8, 1.0)
    """

    low: float = 0.0
    high: float = 1.0
    levels: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, given: GivenScale | None) -> Scale:
        """Return the scale that is written as "0-100", "A=1,B=.8", a pair or a mapping."""
        scale: Any = given
        if isinstance(given, str) and "=" in given:
            scale = dict(part.rsplit("=", 1) for part in re.split(r"[,;]\s*", given) if "=" in part)
        elif isinstance(given, str):
            scale = match.groups() if (match := _RANGE.fullmatch(given.strip())) else ()
        try:
            if scale is None:
                return cls()
            if isinstance(scale, Mapping):
                levels = {_level(name): float(worth) for name, worth in scale.items()}
                if levels and all(0 <= worth <= 1 for worth in levels.values()):
                    return cls(levels=levels)
            else:
                low, high = map(float, scale)
                if low != high:
                    return cls(low, high)
        except (TypeError, ValueError):
            pass
        cure = 'give the lowest and the highest, "0-100", or what each is worth in [0, 1], "A=1,B=0.8"'
        raise InvalidDataError(f"{given!r} is not a scale; {cure}.")

    def __str__(self) -> str:
        levels = ",".join(f"{name}={worth:g}" for name, worth in self.levels.items())
        return levels or f"{self.low:g}-{self.high:g}"

    def quality(self, value: Any, *, bounded: bool = True, comma: bool = False) -> float:
        """Return the quality of a grade, in [0, 1], NaN where it is not known.

        With `comma`, a comma is the decimal point. Raises `ValueError`, with what is wrong and the cure.
        """
        if (text := _level(value)) in _NOT_KNOWN:
            return np.nan
        if self.levels:
            if text in self.levels:
                return self.levels[text]
            raise ValueError(f"is not in the scale {self}")
        if text in _WORDS:
            return _WORDS[text]
        try:
            if text.endswith("%"):
                return self._bounded(float(text[:-1]) / 100, 0, 1, bounded)
            number = float(text.replace(",", ".") if comma else value)
        except (TypeError, ValueError, OverflowError):
            cure = 'write one, leave it empty if not known, or give the scale, such as "good=1,bad=0" (--scale)'
            raise ValueError(f"is not a number; {cure}") from None
        return self._bounded(number, self.low, self.high, bounded)

    def _bounded(self, number: float, low: float, high: float, bounded: bool) -> float:
        share = (number - low) / (high - low)
        if bounded and not 0 <= share <= 1:
            cure = 'give its scale, such as scale="0-100" (--scale 0-100)'
            if (low, high) != (0, 1):
                cure = "give the scale that holds all"
            elif number < 0:
                cure = "leave it empty if the answer was not graded"
            raise ValueError(f"is outside {f'[{low:g}, {high:g}]'}; {cure}")
        return share


def _level(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).strip().casefold()


def is_empty(value: Any) -> bool:
    """Return whether a value says that nothing is known: empty, NaN, null, none, n/a."""
    return _level(value) in _NOT_KNOWN


def grades(table: Columns, name: str, scale: Scale) -> Array:
    """Return a column of grades in [0, 1], NaN where not known."""
    worth = np.full(len(table.places), np.nan)
    for row, value in enumerate(table.values[name]):
        try:
            worth[row] = scale.quality(value, comma=table.comma)
        except ValueError as failed:
            table.refuse(row, f"{name} {value!r:.60} {failed}.")
    return worth
