"""A file path or a URL to a database with the tables of answers; its failures as one sentence each."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unirouter_core.exceptions import InvalidDataError, UniRouterError

try:
    import sqlalchemy as sa
    from sqlalchemy.dialects import postgresql, sqlite
    from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError
except ImportError as missing:
    raise ImportError("SQLAlchemy is missing: pip install 'unirouter[litellm]'.") from missing

SCHEMA = 1
"""The version of the tables; a database of a later one is refused."""

WAIT = 30
"""Seconds that a writer waits for other processes that write to the same SQLite file."""

_DRIVERS = {"sqlite": "sqlite+pysqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
_INSERTS = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
_CURES = {
    "sqlite": "it must be a SQLite file that may be written, in a folder that exists, with space left on the disk",
    "postgresql": "check that the server runs, and the host, user, password and database in the URL",
}
_LOCK = 0x756E69  # "uni": two processes that open a new PostgreSQL database make its tables one after the other


class StoreError(UniRouterError, RuntimeError):
    """A store of answers that cannot be opened, read or written."""


# --- Tables -----------------------------------------------------------------------------------------------------------


class Text(sa.TypeDecorator[str]):
    """Any string. What a database refuses, NUL and lone surrogates, is kept in Python's escapes behind a mark."""

    impl = sa.Text
    cache_ok = True
    _mark = "escaped:"
    _refused = re.compile(rf"[\0\ud800-\udfff]|\A{_mark}")

    def process_bind_param(self, value: str | None, dialect: object) -> str | None:
        """Return what the database keeps."""
        if value is None or self._refused.search(value) is None:
            return value
        return self._mark + value.encode("unicode_escape").decode("ascii")

    def process_result_value(self, value: str | None, dialect: object) -> str | None:
        """Return the string that was kept."""
        if value is None or not value.startswith(self._mark):
            return value
        return value.removeprefix(self._mark).encode("ascii").decode("unicode_escape")


_tables = sa.MetaData()

schema = sa.Table("unirouter_schema", _tables, sa.Column("version", sa.Integer, primary_key=True))

prompts = sa.Table(  # what a digest in `answers` stands for, for people who read the database; so is the next
    "prompts",
    _tables,
    sa.Column("prompt", Text, primary_key=True),
    sa.Column("chat_json", Text, nullable=False),
)

settings = sa.Table(
    "settings",
    _tables,
    sa.Column("settings", Text, primary_key=True),
    sa.Column("settings_json", Text, nullable=False),
)

graders = sa.Table(  # a grader's key may hold a whole JSON schema, more than PostgreSQL takes into a primary key
    "graders",
    _tables,
    sa.Column("grader", Text, primary_key=True),
    sa.Column("grader_key", Text, nullable=False),
)


def _key() -> list[sa.Column[Any]]:
    texts = [sa.Column(name, Text, primary_key=True) for name in ("model", "prompt", "settings")]
    return [*texts, sa.Column("repeat", sa.Integer, primary_key=True, autoincrement=False)]


answers = sa.Table(
    "answers",
    _tables,
    *_key(),
    sa.Column("text", Text),
    *(sa.Column(name, sa.Double) for name in ("tokens_in", "tokens_out", "reasoning_tokens", "cached_tokens", "usd")),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("finish", Text),
    sa.Column("refused", sa.Boolean, nullable=False),
    sa.Column("date", Text, nullable=False),
    sa.Column("earlier_usd", sa.Double, nullable=False, default=0.0),  # answers that this one replaced
)

grades = sa.Table(
    "grades",
    _tables,
    *_key(),
    sa.Column("grader", Text, sa.ForeignKey(graders.c.grader), primary_key=True),
    sa.Column("error", sa.Double, nullable=False),
    sa.Column("usd", sa.Double, nullable=False),
    sa.Column("note", Text, nullable=False),
    sa.ForeignKeyConstraint([column.name for column in _key()], list(answers.primary_key)),
)


# --- Database ---------------------------------------------------------------------------------------------------------


class Database:
    """The tables in one SQLite file or PostgreSQL database, made on first use.

    Parameters
    ----------
    place : str or path
        A file, or a URL that begins with ``postgresql://`` or ``sqlite:///``.

    Raises
    ------
    InvalidDataError
        When `place` is no such thing.
    StoreError
        When it cannot be opened, or holds something else.
    ImportError
        When the package that talks to PostgreSQL is missing.
    """

    def __init__(self, place: str | Path) -> None:
        url = _url(place)
        self._dialect = url.get_backend_name()
        self.shown = _shown(url)
        self._engine = _engine(url)
        try:
            self._make_tables()
            if self._dialect == "sqlite":
                with self.reading() as connection:  # not before it is known to be ours, for it changes the file
                    connection.exec_driver_sql("PRAGMA journal_mode=WAL")  # who reads never waits for who writes
        except BaseException:
            self.close()
            raise

    def insert(self, table: sa.Table) -> Any:
        """Return an INSERT to `table` that can say what to do with rows that are there already."""
        return _INSERTS[self._dialect](table)

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Give a connection to read from; what it raises is a `StoreError`."""
        with self._failures(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Give a connection within a transaction, which is on disk afterwards or, on an exception, undone."""
        with self._failures(), self._engine.connect() as connection:
            connection.execution_options(writes=True)
            with connection.begin():
                yield connection

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _make_tables(self) -> None:
        with self.writing() as connection:
            if self._dialect == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
            found = sa.inspect(connection).get_table_names()
            if not found:
                _tables.create_all(connection)
                connection.execute(schema.insert().values(version=SCHEMA))
            elif schema.name not in found:
                raise StoreError(f"{self.shown} holds other tables ({found[0]!r}); give a place of the answers' own.")
            version = connection.execute(sa.select(sa.func.max(schema.c.version))).scalar()
        if version != SCHEMA:
            raise StoreError(
                f"{self.shown} has schema {version}, which this unirouter does not read ({SCHEMA}); upgrade unirouter."
            )

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError as failed:
            raise InvalidDataError("A grade is of an answer that is not kept; add the answer first.") from failed
        except SQLAlchemyError as failed:
            raise self._error(getattr(failed, "orig", None) or failed) from failed
        except sqlite3.Error as failed:  # from a new connection's pragmas, which SQLAlchemy does not see
            raise self._error(failed) from failed

    def _error(self, failed: BaseException) -> StoreError:
        reason = str(failed).split("\n")[0].rstrip(".")
        return StoreError(f"Answers cannot be kept in {self.shown}: {reason}; {_CURES[self._dialect]}.")


def shown(place: str | Path) -> str:
    """Return the place of a database as messages show it: a path, or a URL without the password.

    Examples
    --------
    >>> shown("postgresql://ada:secret@localhost/answers?password=secret")
    'postgresql://ada:***@localhost/answers'
    """
    return _shown(_url(place))


def _shown(url: sa.URL) -> str:
    dialect = url.get_backend_name()
    if dialect == "sqlite":
        return str(url.database)
    return url.set(drivername=dialect, query={}).render_as_string(hide_password=True)  # a query may hold it too


def _url(place: str | Path) -> sa.URL:
    """Return the URL of a path or a URL, checked, with the driver that is used here. No message shows a password."""
    if isinstance(place, Path) or "://" not in place:
        return sa.URL.create(_DRIVERS["sqlite"], database=_file(str(place)))
    if place.count("@") > 1:
        raise InvalidDataError("The database's URL has more than one @; write one within a user or password as %40.")
    try:
        url = sa.make_url(place)
    except (ArgumentError, ValueError):
        # The text of the exception, and of its cause, may quote the password.
        raise InvalidDataError(
            "The database's URL cannot be read; write it as postgresql://user:password@host:5432/database."
        ) from None
    name = url.get_backend_name()
    if name not in _DRIVERS:
        raise InvalidDataError(f"{name!r} databases are not supported; give a file or a postgresql:// URL.")
    if name == "sqlite":
        return url.set(drivername=_DRIVERS[name], database=_file(url.database))
    return url.set(drivername=_DRIVERS[name], query={"connect_timeout": "10", **url.query})


def _file(path: str | None) -> str:
    if not path or path == ":memory:":
        raise InvalidDataError(f"{path or ''!r} is no file that keeps answers; give a path such as answers.sqlite.")
    return path


def _engine(url: sa.URL) -> sa.Engine:
    """Return the engine. Its exceptions and logs never show the values of rows."""
    if url.get_backend_name() == "postgresql":
        try:
            return sa.create_engine(url, hide_parameters=True, pool_pre_ping=True)
        except ImportError as missing:
            raise ImportError("psycopg is missing: pip install 'unirouter[postgres]'.") from missing
    engine = sa.create_engine(url, hide_parameters=True, connect_args={"timeout": WAIT})
    sa.event.listen(engine, "connect", _prepare)
    sa.event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # Python's driver would begin where it thinks fit
    connection.execute("PRAGMA synchronous=FULL")  # what is committed is on disk
    connection.execute("PRAGMA foreign_keys=ON")


def _begin(connection: sa.Connection) -> None:
    """Begin a transaction that writes as such: one that begins by reading fails when another has written meanwhile."""
    if connection.get_execution_options().get("writes"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
