"""Answers that were paid for and their grades, kept in a database so that each is paid for once."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, Self

from unirouter_core.exceptions import InvalidDataError
from unirouter_plugins.onboarding import store as database
from unirouter_plugins.onboarding.store import Database, StoreError

try:
    import sqlalchemy as sa
except ImportError as missing:
    raise ImportError("SQLAlchemy is missing: pip install 'unirouter[litellm]'.") from missing

__all__ = ["Answer", "AnswerKey", "AnswerStore", "Entry", "Grade", "StoreError"]


# --- Records ----------------------------------------------------------------------------------------------------------


class AnswerKey(NamedTuple):
    """What was asked: the same key gets the same answer, from the store.

    Parameters
    ----------
    model : str
        Its name in the pool.
    prompt, settings : str
        Digests of the chat that was sent and of all it was sent with.
    repeat : int
        0 for the first answer to the same prompt, 1 for the second, and so on.
    """

    model: str
    prompt: str
    settings: str
    repeat: int = 0


@dataclass(frozen=True)
class Answer:
    """One answer and what it took. None means not known, never 0.

    Parameters
    ----------
    text : str or None
        "" for an empty answer, None where texts are not kept.
    tokens_in, tokens_out, reasoning_tokens, cached_tokens : float, optional
        As the provider counted them.
    usd : float, optional
        The bill of this answer.
    seconds : float
    finish : str, optional
        Why it ended, as LiteLLM's finish_reason says it.
    refused : bool
    date : str
        When, in ISO form.

    Raises
    ------
    InvalidDataError
        When an amount is negative or not finite.
    """

    text: str | None
    tokens_in: float | None
    tokens_out: float | None
    reasoning_tokens: float | None
    cached_tokens: float | None
    usd: float | None
    seconds: float
    finish: str | None
    refused: bool
    date: str

    def __post_init__(self) -> None:
        _check_amounts(self, ("tokens_in", "tokens_out", "reasoning_tokens", "cached_tokens", "usd", "seconds"))

    @property
    def truncated(self) -> bool:
        """Whether the answer met its token limit."""
        return self.finish == "length"


@dataclass(frozen=True)
class Grade:
    """How wrong an answer is.

    Parameters
    ----------
    error : float
        In [0, 1].
    usd : float
        What a judge cost; 0 for a program.
    note : str
        The judge's reason, "" where texts are not kept.

    Raises
    ------
    InvalidDataError
        When `error` is not in [0, 1], or `usd` is negative or not finite.
    """

    error: float
    usd: float = 0.0
    note: str = ""

    def __post_init__(self) -> None:
        _check_amounts(self, ("error", "usd"))
        if self.error > 1:
            raise InvalidDataError(f"The error {self.error:g} of a grade is not in [0, 1].")


@dataclass(frozen=True)
class Entry:
    """What is kept in one step: an answer, a grade of one that is kept already, or an answer with its first grade.

    Parameters
    ----------
    key : AnswerKey
    answer : Answer, optional
    grader_key : str, optional
        `Grader.key` of who graded.
    grade : Grade, optional

    Raises
    ------
    InvalidDataError
        When there is a grade without its grader or the reverse, or nothing to keep.
    """

    key: AnswerKey
    answer: Answer | None = None
    grader_key: str | None = None
    grade: Grade | None = None

    def __post_init__(self) -> None:
        if (self.grade is None) != (self.grader_key is None):
            raise InvalidDataError(f"{self.key}: a grade and its grader_key come together; give both or neither.")
        if self.answer is None and self.grade is None:
            raise InvalidDataError(f"{self.key}: neither an answer nor a grade; give one.")


def _check_amounts(record: Answer | Grade, names: Iterable[str]) -> None:
    """Make the named fields floats, after a check that they are finite and not negative."""
    for name in names:
        value = getattr(record, name)
        if value is None:
            continue
        if not (math.isfinite(value) and value >= 0):
            raise InvalidDataError(f"{name} of {type(record).__name__} is {value:g}; it must be finite and >= 0.")
        object.__setattr__(record, name, float(value))


# --- Store ------------------------------------------------------------------------------------------------------------

_ANSWER = [database.answers.c[field.name] for field in fields(Answer)]
_GRADE = [database.grades.c[field.name] for field in fields(Grade)]


class AnswerStore:
    """The answers that were paid for, in a SQLite file or a PostgreSQL database; several processes may share it.

    Its tables are made on first use, to be read by people too: `answers` and `grades`, and in `prompts`, `settings`
    and `graders` what the digests in them stand for. All methods may be called from several threads at once.

    Parameters
    ----------
    place : str or path
        A file, or a URL such as ``postgresql://user:password@host/database``.
    texts : bool
        False keeps no text of prompts, answers and judges' notes, only digests of the prompts. Texts that are
        there already stay.

    Raises
    ------
    InvalidDataError
        When `place` is no such thing.
    StoreError
        When the place cannot be opened, read or written, then and later; it never shows a password or a text.
    ImportError
        When PostgreSQL is asked for and psycopg is missing.

    Examples
    --------
    >>> import tempfile
    >>> key = AnswerKey("poet", prompt="5f2a", settings="09c1")
    >>> answer = Answer("4", 9, 1, None, None, usd=2e-6, seconds=0.4, finish="stop", refused=False, date="2026-11-23")
    >>> with tempfile.TemporaryDirectory() as folder, AnswerStore(f"{folder}/answers.sqlite") as store:
    ...     store.describe(chats={"5f2a": [{"role": "user", "content": "2 + 2?"}]}, settings={"09c1": {"top_p": 1}})
    ...     store.add([Entry(key, answer, "exact v1", Grade(error=0.0))])
    ...     store.answers("poet", "09c1")[("5f2a", 0)] == answer, store.spent()
    (True, {'poet': 2e-06})
    """

    def __init__(self, place: str | Path, *, texts: bool = True) -> None:
        self.texts = texts
        self._database = Database(place)
        unanswered = [database.prompts, database.settings, database.graders, database.grades]
        self._inserts = {table.name: self._database.insert(table).on_conflict_do_nothing() for table in unanswered}
        self._insert_answers = self._insert_or_fill()

    def __repr__(self) -> str:
        return f"AnswerStore({self._database.shown!r}, texts={self.texts})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the database."""
        self._database.close()

    def answers(self, model: str, settings: str) -> dict[tuple[str, int], Answer]:
        """Return the answers of a model with these settings, by prompt and repeat."""
        table = database.answers.c
        rows = sa.select(table.prompt, table.repeat, *_ANSWER)
        rows = rows.where(table.model == model, table.settings == settings)
        with self._database.reading() as connection:
            return {(prompt, repeat): Answer(*row) for prompt, repeat, *row in connection.execute(rows)}

    def grades(
        self, model: str, settings: str, grader_keys: Sequence[str] | None = None
    ) -> dict[tuple[str, int, str], Grade]:
        """Return the grades of these answers, by all graders or the given, by prompt, repeat and grader_key."""
        table, keys = database.grades.c, database.graders.c.grader_key
        rows = sa.select(table.prompt, table.repeat, keys, *_GRADE).join(database.graders)
        rows = rows.where(table.model == model, table.settings == settings)
        if grader_keys is not None:
            rows = rows.where(keys.in_(grader_keys))
        with self._database.reading() as connection:
            return {(prompt, repeat, key): Grade(*row) for prompt, repeat, key, *row in connection.execute(rows)}

    def spent(self, models: Sequence[str] | None = None) -> dict[str, float]:
        """Return the USD of all that is kept of each model, answers and their judges; an unknown bill adds nothing."""
        answers, grades = database.answers.c, database.grades.c
        answer = sa.func.coalesce(answers.usd, 0.0) + answers.earlier_usd
        spent: dict[str, float] = {}
        with self._database.reading() as connection:
            for model, usd in ((answers.model, answer), (grades.model, grades.usd)):
                rows = sa.select(model, sa.func.sum(usd)).group_by(model)
                for name, total in connection.execute(rows if models is None else rows.where(model.in_(models))):
                    spent[name] = spent.get(name, 0.0) + total
        return spent

    def describe(
        self,
        *,
        chats: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Keep what the digests in keys stand for, for people who read the database; what is there already stays.

        Parameters
        ----------
        chats : mapping from digest to messages, optional
            Not kept without texts.
        settings : mapping from digest to settings, optional
            JSON-able. Kept as they are: leave API keys and what must not be read out of them.

        Raises
        ------
        InvalidDataError
            When something is not JSON-able.
        """
        kept = {} if chats is None or not self.texts else chats
        prompts = [{"prompt": digest, "chat_json": _json(chat)} for digest, chat in sorted(kept.items())]
        given = sorted(({} if settings is None else settings).items())
        rows = [{"settings": digest, "settings_json": _json(settings)} for digest, settings in given]
        with self._database.writing() as connection:
            self._insert(connection, database.prompts, prompts)
            self._insert(connection, database.settings, rows)

    def add(self, entries: Sequence[Entry]) -> None:
        """Keep the entries, all or none; afterwards they are on disk. Adding the same again changes nothing.

        What is there already stays, with one exception: an answer without its text is replaced by another one to the
        same key, and what it cost still counts as spent.

        Raises
        ------
        InvalidDataError
            When a grade is of an answer that is neither kept nor among the entries.
        """
        # In one order everywhere: two processes that wait for each other's rows would wait for ever.
        entries = sorted(entries, key=lambda entry: (entry.key, entry.grader_key or ""))
        keys = sorted({entry.grader_key for entry in entries if entry.grader_key is not None})
        with self._database.writing() as connection:
            self._insert(connection, database.graders, [{"grader": _digest(key), "grader_key": key} for key in keys])
            if answered := [self._answer_row(each) for each in entries if each.answer is not None]:
                connection.execute(self._insert_answers, answered)
            graded = [self._grade_row(each) for each in entries if each.grade is not None]
            self._insert(connection, database.grades, graded)

    def _answer_row(self, entry: Entry) -> dict[str, Any]:
        row = {**entry.key._asdict(), **vars(entry.answer)}
        return row if self.texts else {**row, "text": None}

    def _grade_row(self, entry: Entry) -> dict[str, Any]:
        row = {**entry.key._asdict(), "grader": _digest(str(entry.grader_key)), **vars(entry.grade)}
        return row if self.texts else {**row, "note": ""}

    def _insert(self, connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows:
            connection.execute(self._inserts[table.name], rows)

    def _insert_or_fill(self) -> Any:
        """Return the statement that adds answers, and replaces those without a text."""
        table = database.answers
        insert = self._database.insert(table)
        same_call = (table.c.seconds == insert.excluded.seconds) & (table.c.date == insert.excluded.date)
        replaced = sa.case((same_call, 0.0), else_=sa.func.coalesce(table.c.usd, 0.0))
        changes: dict[Any, Any] = {column: insert.excluded[column.name] for column in _ANSWER}
        changes[table.c.earlier_usd] = table.c.earlier_usd + replaced
        without_text = table.c.text.is_(None)
        return insert.on_conflict_do_update(index_elements=list(table.primary_key), set_=changes, where=without_text)


def _json(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError) as failed:
        raise InvalidDataError(f"Chats and settings must be JSON-able ({failed}).") from failed


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
