"""Answers that were paid for and their grades, in a SQLite file or a PostgreSQL database: each is paid for once."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

from unirouter_core.exceptions import InvalidDataError, UniRouterError, missing_package

try:
    import sqlalchemy as sa
    from sqlalchemy.dialects import postgresql, sqlite
    from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay
except ImportError as missing:
    raise missing_package("SQLAlchemy or tenacity", "litellm") from missing

T = TypeVar("T")

LOCK_NOTICE, LOCK_TIMEOUT = 5.0, 600.0  # seconds of waiting for a lock on the SQLite file: until a warning, a failure
_LOG = logging.getLogger(__name__)
_DRIVERS = {"sqlite": "sqlite+pysqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
_CURES = {
    "locked": "another process has locked it: end that process, or give another file",
    "sqlite": "it must be a SQLite file that may be written, in a folder that exists, with space left on the disk",
    "postgresql": "check that the server runs, and the host, user, password and database in the URL",
}
_OURS = {"answers", "grades", "calls", "unirouter_schema"}  # the last with those of version 0.1
_ADVISORY_LOCK = 0x756E69  # two processes that open a new PostgreSQL database make its tables one after the other


class StoreError(UniRouterError, RuntimeError):
    """A store of answers that cannot be opened, read or written."""


_AMOUNTS = ("tokens_in", "tokens_out", "reasoning_tokens", "cached_tokens", "usd", "seconds")


class AnswerKey(NamedTuple):
    """What an answer is kept under: model, digests of chat and settings, and the number of the repeat, from 0."""

    model: str
    prompt: str
    settings: str
    repeat: int = 0


@dataclass(frozen=True)
class Answer:
    """One answer to one prompt, and what it took, None where not known, never 0.

    `text` is "" for an empty answer and None where texts are not kept; tokens are as the provider counted them;
    `finish` is LiteLLM's finish_reason; `refused` says that the model, or its provider's content filter, declined;
    `logprobs` are the log-probabilities of its tokens, where its settings have logprobs = true.
    """

    text: str | None
    tokens_in: float | None
    tokens_out: float | None
    reasoning_tokens: float | None
    cached_tokens: float | None
    usd: float | None
    seconds: float | None
    finish: str | None
    refused: bool
    date: str
    logprobs: Sequence[float] | None = None

    def __post_init__(self) -> None:
        _check_amounts(self, *_AMOUNTS)

    @property
    def truncated(self) -> bool:
        """Whether the answer met its token limit."""
        return self.finish == "length"


@dataclass(frozen=True)
class Grade:
    """The error of an answer, in [0, 1], with a judge's USD and its reasons ("" where texts are not kept)."""

    error: float
    usd: float = 0.0
    note: str = ""

    def __post_init__(self) -> None:
        _check_amounts(self, "error", "usd")
        if self.error > 1:
            raise InvalidDataError(f"The error {self.error:g} of a grade is not in [0, 1].")


def _check_amounts(record: Answer | Grade, *names: str) -> None:
    for name in names:
        if (value := getattr(record, name)) is not None:
            if not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise InvalidDataError(f"{name} of {type(record).__name__} is {value!r}; it must be finite and >= 0.")
            object.__setattr__(record, name, float(value))


class AnyText(sa.TypeDecorator[str]):
    """Any string. NUL and lone surrogates, which databases refuse, are kept in Python's escapes behind a mark."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: object) -> str | None:
        """Return the string as it is kept."""
        is_plain = value is None or re.search(r"[\0\ud800-\udfff]|\Aescaped:", value) is None
        return value if is_plain else f"escaped:{value}".encode("unicode_escape").decode("ascii")

    def process_result_value(self, value: str | None, dialect: object) -> str | None:
        """Return the string that was given."""
        if value is None or not value.startswith("escaped:"):
            return value
        return value.removeprefix("escaped:").encode("ascii").decode("unicode_escape")


def _key() -> list[sa.Column[Any]]:
    texts = [sa.Column(name, AnyText, primary_key=True) for name in ("model", "prompt", "settings")]
    return [*texts, sa.Column("repeat", sa.Integer, primary_key=True, autoincrement=False)]


_tables = sa.MetaData()
_answers = sa.Table(
    "answers",
    _tables,
    *_key(),
    sa.Column("chat_json", sa.Text),  # what the digest `prompt` stands for, for people who read the table
    sa.Column("settings_json", AnyText),
    sa.Column("text", AnyText),
    *(sa.Column(name, sa.Double) for name in _AMOUNTS),
    sa.Column("finish", AnyText),
    sa.Column("refused", sa.Boolean, nullable=False),
    sa.Column("date", AnyText, nullable=False),
    sa.Column("logprobs", sa.JSON(none_as_null=True)),  # newer than the others
)
_grades = sa.Table(
    "grades",
    _tables,
    *_key(),
    sa.Column("grader", AnyText, primary_key=True),  # the digest of grader_key, which may be too long for an index
    sa.Column("grader_key", AnyText, nullable=False),
    sa.Column("error", sa.Double),
    sa.Column("usd", sa.Double),
    sa.Column("note", AnyText, nullable=False),
)
# Statements that bring the six tables of version 0.1 into two
_FROM_VERSION_0_1 = """
    ALTER TABLE answers RENAME TO answers_1; ALTER TABLE grades RENAME TO grades_1; CREATE;
    INSERT INTO answers SELECT model, prompt, settings, repeat, chat_json, settings_json, text, tokens_in, tokens_out,
      reasoning_tokens, cached_tokens, usd, seconds, finish, refused, date, NULL
      FROM answers_1 LEFT JOIN prompts USING (prompt) LEFT JOIN settings USING (settings);
    INSERT INTO grades SELECT model, prompt, settings, repeat, grader, grader_key, error, usd, note
      FROM grades_1 JOIN graders USING (grader);
    DROP TABLE grades_1; DROP TABLE answers_1; DROP TABLE graders; DROP TABLE prompts; DROP TABLE settings;
    DROP TABLE unirouter_schema
"""


class Database:
    """Tables of ours in a SQLite file or a PostgreSQL database, which several processes share.

    `place` is as in `AnswerStore`, which says what `create` does, too; a subclass names its `tables`.
    """

    tables: sa.MetaData

    def __init__(self, place: str | Path, *, create: bool = True) -> None:
        url = _url(place)
        is_file, file = url.get_backend_name() == "sqlite", Path(url.database or "")
        self.shown, self._engine = shown(place), _engine(url)
        self.insert: Any = sqlite.insert if is_file else postgresql.insert
        if is_file and file.exists() and not (file.is_file() or file.is_dir()):  # a pipe or a device would never end
            raise StoreError(f"{self.shown} is no regular file; give another place.")
        self._is_empty = not create and is_file and not file.exists() and file.parent.is_dir()
        try:
            if not self._is_empty:
                self.in_transaction(lambda connection: self._open(connection, create=create))
                if is_file:  # not before it is known to be ours, for it changes the file
                    self.in_transaction(lambda c: c.exec_driver_sql("PRAGMA journal_mode=WAL"), writes=False)
        except BaseException:
            self._engine.dispose()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.dispose()

    def in_transaction(self, work: Callable[[sa.Connection], T], *, writes: bool = True) -> T:
        """Return what `work` returns, on disk afterwards or undone; wait while another process holds the lock."""

        def warn(state: RetryCallState) -> None:
            if state.attempt_number == 1:
                _LOG.warning("%s is locked by another process; waiting for it.", self.shown)

        def once() -> T:
            connecting = self._engine.connect().execution_options(writes=writes)
            with connecting as connection, connection.begin() if writes else nullcontext():
                return work(connection)

        locked, stop = retry_if_exception(_is_locked), stop_after_delay(LOCK_TIMEOUT)
        try:
            return Retrying(retry=locked, stop=stop, before_sleep=warn, reraise=True)(once)
        except (sa.exc.SQLAlchemyError, sqlite3.Error) as failed:  # sqlite3's own, from a new connection's pragmas
            reason = str(getattr(failed, "orig", None) or failed).split("\n")[0].partition(" with text ")[0].rstrip(".")
            cure = _CURES["locked" if _is_locked(failed) else self._engine.dialect.name]
            done = "kept in" if writes else "read from"
            raise StoreError(f"Answers cannot be {done} {self.shown}: {reason}; {cure}.") from failed

    def _open(self, connection: sa.Connection, *, create: bool) -> None:
        """Check that the tables are ours; make them, or bring those of version 0.1 into their shape."""
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
        inspector = sa.inspect(connection)
        found = inspector.get_table_names()
        own = self.tables.tables
        if "unirouter_schema" in found and self.tables is _tables:
            for statement in _FROM_VERSION_0_1.split(";"):
                if statement.strip() == "CREATE":
                    _tables.create_all(connection, checkfirst=False)
                else:
                    connection.exec_driver_sql(statement)
        elif others := set(found) - _OURS:
            raise StoreError(f"{self.shown} holds other tables ({min(others)!r}); give a place of the answers' own.")
        elif not own.keys() & set(found):
            self._is_empty = not create
            if create:
                self.tables.create_all(connection)
        elif (differ := _differences(inspector, own)) == {"logprobs"}:  # made before these were kept
            connection.exec_driver_sql("ALTER TABLE answers ADD COLUMN logprobs JSON")
        elif differ:
            raise StoreError(f"{self.shown} was written by another version of unirouter; upgrade it, or name another.")


class AnswerStore(Database):
    """Answers and their grades, which people may read and several processes share.

    One thread writes: what is added during a transaction goes into the next one. Leaving the block waits for the disk.

    `place` is a file, or a URL such as ``postgresql://user:password@host/database``. Without `texts`, no text of
    prompts, answers and judges' notes is kept; those already there stay. Without `create`, neither file nor tables are
    made where there are none, and nothing is read. No message of a `StoreError` shows a password or a text.

    >>> import tempfile
    >>> key = AnswerKey("poet", prompt="5f2a", settings="09c1")
    >>> answer = Answer("4", 9, 1, None, None, usd=2e-6, seconds=0.4, finish="stop", refused=False, date="2026-11-23")
    >>> with tempfile.TemporaryDirectory() as folder, AnswerStore(f"{folder}/answers.sqlite") as store:
    ...     store.add(key, answer, grader_key="exact v1", grade=Grade(error=0.0)).result()
    ...     store.answers("poet", "09c1")[("5f2a", 0)] == answer, store.grades("poet", "09c1")
    (True, {('5f2a', 0, 'exact v1'): Grade(error=0.0, usd=0.0, note='')})
    """

    tables = _tables

    def __init__(self, place: str | Path, *, texts: bool = True, create: bool = True) -> None:
        super().__init__(place, create=create)
        self.texts = texts
        self.known: Mapping[AnswerKey, Answer] = {}  # answers that `answers` returns, too, where none is kept
        self._waiting: deque[tuple[AnswerKey, dict[str, Any] | None, dict[str, Any] | None, Future[None]]] = deque()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="answers")
        answer, self._insert_grades = self.insert(_answers), self.insert(_grades).on_conflict_do_nothing()
        self._insert_answers = answer.on_conflict_do_update(  # an answer without its text is replaced
            index_elements=list(_answers.primary_key),
            set_={column: answer.excluded[column.name] for column in _answers.c if not column.primary_key},
            where=_answers.c.text.is_(None),
        )

    def __repr__(self) -> str:
        return f"AnswerStore({self.shown!r}, texts={self.texts})"

    def __exit__(self, *_: object) -> None:
        self._writer.shutdown()
        super().__exit__()

    def answers(self, model: str, settings: str) -> dict[tuple[str, int], Answer]:
        """Return the answers of a model with these settings, by prompt and repeat."""
        kept: dict[tuple[str, int], Answer] = self._read(_answers, ["prompt", "repeat"], Answer, model, settings)
        for key, answer in self.known.items():
            at = key.prompt, key.repeat
            if (key.model, key.settings) == (model, settings) and (at not in kept or kept[at].text is None):
                kept[at] = answer
        return kept

    def grades(self, model: str, settings: str) -> dict[tuple[str, int, str], Grade]:
        """Return the grades of these answers, by prompt, repeat and grader_key."""
        return self._read(_grades, ["prompt", "repeat", "grader_key"], Grade, model, settings)

    def add(
        self,
        key: AnswerKey,
        answer: Answer | None = None,
        *,
        chat: Sequence[Mapping[str, Any]] | None = None,
        settings: Mapping[str, Any] | None = None,
        grader_key: str | None = None,
        grade: Grade | None = None,
    ) -> Future[None]:
        """Keep an answer, a grade, or both; return at once a future that is done when they are on disk.

        What is there already stays; only an answer without its text is replaced. Cancelling the future undoes nothing.
        """
        row = graded = None
        if answer is not None:
            row = {**key._asdict(), "chat_json": _json(chat), "settings_json": _json(settings), **vars(answer)}
            row |= {} if self.texts else {"chat_json": None, "text": None, "logprobs": None}
        if grade is not None and grader_key is not None:
            digest = hashlib.sha256(grader_key.encode("utf-8", "surrogatepass")).hexdigest()
            graded = {**key._asdict(), "grader": digest, "grader_key": grader_key, **vars(grade)}
            graded |= {} if self.texts else {"note": ""}
        kept: Future[None] = Future()
        self._waiting.append((key, row, graded, kept))
        self._writer.submit(self._write_waiting)
        return kept

    @contextmanager
    def claimed(self, shares: Iterable[int]) -> Iterator[None]:
        """Hold these numbers while the block lasts; wait for other processes that hold one of them.

        They are locks of the session, which the server frees when a process, or its connection, ends. A SQLite file has
        none: `InvalidDataError`.
        """
        if self._engine.dialect.name != "postgresql":
            raise InvalidDataError(f"{self.shown} cannot be filled by several workers; give a postgresql:// URL.")
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for share in sorted(shares):  # in one order everywhere, as two that wait for each other would for ever
                connection.execute(sa.select(sa.func.pg_advisory_lock(_ADVISORY_LOCK, share)))
            try:
                yield
            finally:
                with suppress(sa.exc.SQLAlchemyError):  # a connection that has ended holds none
                    connection.execute(sa.select(sa.func.pg_advisory_unlock_all()))

    def _write_waiting(self) -> None:
        """Commit all that waits, together."""
        # In one order everywhere: two processes that wait for each other's rows would wait for ever.
        group = sorted((self._waiting.popleft() for _ in range(len(self._waiting))), key=lambda entry: entry[0])
        pending = [kept for *_, kept in group if kept.set_running_or_notify_cancel()]

        def insert(connection: sa.Connection) -> None:
            if answers := [row for _, row, _, _ in group if row is not None]:
                connection.execute(self._insert_answers, answers)
            if grades := [row for _, _, row, _ in group if row is not None]:
                connection.execute(self._insert_grades, grades)

        try:
            if group:
                self.in_transaction(insert)
        except BaseException as failed:
            for kept in pending:
                kept.set_exception(failed)
        else:
            for kept in pending:
                kept.set_result(None)

    def _read(self, table: sa.Table, keys: list[str], record: type[Any], model: str, settings: str) -> dict[Any, Any]:
        if self._is_empty:
            return {}
        columns = [table.c[name] for name in (*keys, *(field.name for field in fields(record)))]
        statement = sa.select(*columns).where(table.c.model == model, table.c.settings == settings)
        try:
            rows = self.in_transaction(lambda connection: connection.execute(statement).all(), writes=False)
            return {tuple(row[: len(keys)]): record(*row[len(keys) :]) for row in rows}
        except (
            InvalidDataError,
            TypeError,
            ValueError,
            AttributeError,
        ) as failed:  # text for a number, a blob for text
            raise StoreError(
                f"A row of {model!r} in the table {table.name} of {self.shown} holds values that unirouter did not "
                "write; delete it, or give another place."
            ) from failed


def _differences(inspector: sa.Inspector, tables: Mapping[str, sa.Table]) -> set[str]:
    """Return the columns that tables have here and not in the database, or there alone."""
    both = ((table.c.keys(), inspector.get_columns(name)) for name, table in tables.items())
    return {name for own, found in both for name in {*own} ^ {column["name"] for column in found}}


def _is_locked(failed: BaseException) -> bool:
    return isinstance(failed, sa.exc.OperationalError | sqlite3.Error) and "database is locked" in str(failed)


def _json(value: object) -> str | None:
    try:
        return None if value is None else json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError) as failed:
        raise InvalidDataError(f"Chats and settings must be JSON-able ({failed}).") from failed


def shown(place: str | Path) -> str:
    """Return the place of a store as messages show it: a path, or a URL without the password.

    >>> shown("postgresql://ada:secret@localhost/answers?password=secret")
    'postgresql://ada:***@localhost/answers'
    """
    url = _url(place)
    if (name := url.get_backend_name()) == "sqlite":
        return str(url.database)
    return url.set(drivername=name, query={}).render_as_string(hide_password=True)  # a query may hold the password, too


def _url(place: str | Path) -> sa.URL:
    """Return the URL of a path or a URL, checked, with the driver that is used here. No message shows a password."""
    is_path = isinstance(place, Path) or "://" not in place
    if not is_path and str(place).count("@") > 1:
        raise InvalidDataError("The database's URL has more than one @; write one within a user or password as %40.")
    try:
        url = sa.URL.create("sqlite", database=str(place)) if is_path else sa.make_url(str(place))
    except (sa.exc.ArgumentError, ValueError):
        # The text of the exception, and of its cause, may quote the password.
        raise InvalidDataError(
            "The database's URL cannot be read; write it as postgresql://user:password@host:5432/database."
        ) from None
    name = url.get_backend_name()
    if name not in _DRIVERS:
        raise InvalidDataError(f"{name!r} databases are not supported; give a file or a postgresql:// URL.")
    if name != "sqlite":
        return url.set(drivername=_DRIVERS[name], query={"connect_timeout": "10", **url.query})
    if (path := url.database or "") in ("", ":memory:"):
        raise InvalidDataError(f"{path!r} is no file that keeps answers; give a path such as answers.sqlite.")
    return url.set(drivername=_DRIVERS[name])


def _engine(url: sa.URL) -> sa.Engine:
    """Return the engine. Its exceptions and logs never show the values of rows."""
    if url.get_backend_name() == "postgresql":
        try:
            return sa.create_engine(url, hide_parameters=True, pool_pre_ping=True)
        except ImportError as missing:
            raise missing_package("psycopg", "postgres") from missing
    waits = {} if "timeout" in url.query else {"timeout": LOCK_NOTICE}
    engine = sa.create_engine(url, hide_parameters=True, connect_args=waits)

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # Python's driver would begin where it thinks fit
        connection.execute("PRAGMA synchronous=FULL")  # what is committed is on disk

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        if connection.get_execution_options().get("writes"):  # what begins by reading fails if another has written
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
