"""The store of answers: each paid for once, read back as it was, on SQLite and on PostgreSQL."""

import itertools
import os
import random
import sqlite3
import subprocess
import sys
import threading
import traceback
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

pytest.importorskip("sqlalchemy")

import sqlalchemy as sa

from unirouter_core.exceptions import InvalidDataError
from unirouter_plugins.onboarding.store import Answer, AnswerKey, AnswerStore, Grade, StoreError

ANSWER = Answer("4", 9.0, 1.0, None, None, 2e-6, 0.4, "stop", False, "2026-11-23T10:00:00+00:00")
KEY = AnswerKey("poet", prompt="5f2a", settings="09c1")
TABLES = ("answers", "grades")
PLANTED = "the heron nests at noon"


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request, tmp_path):
    """A file or a database that holds nothing yet."""
    return tmp_path / "answers.sqlite" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
def store(place):
    with AnswerStore(place) as store:
        yield store


@contextmanager
def opened(place):
    """A connection without unirouter, committed at the end."""
    url = place.replace("postgresql:", "postgresql+psycopg:") if isinstance(place, str) else f"sqlite:///{place}"
    engine = sa.create_engine(url)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def run(code, *arguments, **options):
    """A fresh Python that runs `code`, with its output to read."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


# --- What is kept -----------------------------------------------------------------------------------------------------

any_text = st.text(st.characters(), max_size=20) | st.sampled_from(["\0", "\ud83d\ude00", "escaped:", "escaped:\\x00"])
amounts = st.floats(0, allow_nan=False, allow_infinity=False)


def measurements():
    """What a store keeps for some prompts and repeats."""
    tokens = dict.fromkeys(("tokens_in", "tokens_out", "reasoning_tokens", "cached_tokens"), st.none() | amounts)
    flags = {"finish": st.none() | any_text, "refused": st.booleans(), "date": any_text}
    answers = st.builds(Answer, text=any_text, usd=st.none() | amounts, seconds=amounts, **tokens, **flags)
    grades = st.builds(Grade, st.floats(0, 1), amounts, any_text)
    keys = st.tuples(any_text, st.integers(0, 2**31 - 1))
    return st.dictionaries(keys, st.tuples(answers, any_text, grades), min_size=1, max_size=5)


fresh = itertools.count()
many_times = hypothesis_settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@many_times
@given(measured=measurements(), model=any_text, texts=st.booleans())
def test_all_that_is_added_once_or_twice_is_read_back_as_it_was(place, measured, model, texts):
    settings = f"settings {next(fresh)}"
    with AnswerStore(place, texts=texts) as store:
        for (prompt, repeat), (answer, key, grade) in [*measured.items(), *measured.items()]:
            kept = store.add(AnswerKey(model, prompt, settings, repeat), answer, grader_key=key, grade=grade)
        kept.result()
        found, grades = store.answers(model, settings), store.grades(model, settings)
    if texts:
        assert found == {key: answer for key, (answer, _, _) in measured.items()}
        assert grades == {(*key, grader): grade for key, (_, grader, grade) in measured.items()}
    else:
        assert found == {key: replace(answer, text=None) for key, (answer, _, _) in measured.items()}


def test_an_answer_and_a_grade_that_are_there_stay(store):
    store.add(KEY, ANSWER, grader_key="exact v1", grade=Grade(0.0))
    store.add(KEY, replace(ANSWER, text="5", usd=1.0), grader_key="exact v1", grade=Grade(1.0)).result()
    assert store.answers("poet", "09c1") == {("5f2a", 0): ANSWER}
    assert store.grades("poet", "09c1") == {("5f2a", 0, "exact v1"): Grade(0.0)}


def test_an_answer_without_its_text_is_replaced_by_one_with_it(place):
    with AnswerStore(place, texts=False) as store:
        store.add(KEY, replace(ANSWER, usd=0.25))
    with AnswerStore(place) as store:
        assert store.answers("poet", "09c1") == {("5f2a", 0): replace(ANSWER, text=None, usd=0.25)}
        store.add(KEY, replace(ANSWER, text="5")).result()
        assert store.answers("poet", "09c1") == {("5f2a", 0): replace(ANSWER, text="5")}


def test_models_settings_prompts_and_repeats_are_kept_apart(store):
    keys = [KEY._replace(**change) for change in ({"model": "sage"}, {"settings": "x"}, {"prompt": "x"}, {"repeat": 1})]
    for key in (KEY, *keys):
        store.add(key, replace(ANSWER, text=str(key))).result()
    assert set(store.answers("poet", "09c1")) == {("5f2a", 0), ("x", 0), ("5f2a", 1)}
    assert store.answers("sage", "09c1")["5f2a", 0].text == str(keys[0])
    assert store.answers("poet", "unknown") == {}


def test_a_kept_answer_is_graded_later_and_by_several_graders(store):
    schema = random.Random(0).randbytes(50_000).hex()  # a grader's key may hold a whole JSON schema
    grades = {"exact v1": Grade(0.0), "judge v1": Grade(0.5, 0.01, "half right"), schema: Grade(1.0)}
    store.add(KEY, ANSWER).result()
    for key, grade in grades.items():
        store.add(KEY, grader_key=key, grade=grade).result()
    assert store.grades("poet", "09c1") == {("5f2a", 0, key): grade for key, grade in grades.items()}


def test_people_read_what_was_asked_and_with_which_settings(store, place):
    chat = [{"role": "user", "content": "2 + 2 für €?"}]
    store.add(KEY, ANSWER, chat=chat, settings={"seed": 1}, grader_key="exact v1", grade=Grade(0.0)).result()
    statement = "SELECT model, chat_json, settings_json, text, grader_key, error FROM answers NATURAL JOIN "
    statement += "(SELECT model, prompt, settings, repeat, grader_key, error FROM grades) AS graded"
    with opened(place) as connection:
        [row] = connection.exec_driver_sql(statement)
    assert row == ("poet", '[{"content": "2 + 2 für €?", "role": "user"}]', '{"seed": 1}', "4", "exact v1", 0.0)


@pytest.mark.parametrize("settings", [{"stop": {"."}}, {"temperature": float("nan")}])
def test_settings_that_are_no_json_are_refused(tmp_path, settings):
    with AnswerStore(tmp_path / "x") as store, pytest.raises(InvalidDataError, match="must be JSON-able"):
        store.add(KEY, ANSWER, settings=settings)


def test_without_texts_no_text_is_anywhere(place, tmp_path):
    with AnswerStore(place, texts=False) as store:
        for repeat, grader_key in itertools.product(range(40), ("judge v1", "judge v2")):
            key, chat = KEY._replace(repeat=repeat), [{"role": "user", "content": PLANTED}]
            answer, grade = replace(ANSWER, text=PLANTED), Grade(0.5, 0.01, PLANTED)
            store.add(key, answer, chat=chat, settings={"seed": 1}, grader_key=grader_key, grade=grade).result()
        assert store.grades("poet", "09c1")["5f2a", 39, "judge v2"] == Grade(0.5, 0.01)
        with opened(place) as connection:
            tables = [connection.exec_driver_sql(f"SELECT * FROM {table}") for table in TABLES]
            held = repr([tuple(row) for table in tables for row in table])
        files = [file.read_bytes().decode("latin-1") for file in tmp_path.iterdir()]
    assert len(files) == (0 if isinstance(place, str) else 3)  # the database, its -wal and its -shm
    assert "judge v2" in held
    assert PLANTED not in held + "".join(files)


# --- Many at once -----------------------------------------------------------------------------------------------------

WRITER = """
import sys
from unirouter_plugins.onboarding.store import *
print("ready", flush=True)
ANSWER = Answer("4", 9, 1, None, None, 1.0, 0.4, "stop", False, "2026-11-23")
place, me, step = sys.argv[1], sys.argv[2], int(sys.argv[3])
sys.stdin.read()
with AnswerStore(place) as store:
    for n in range(0, 100)[::step]:
        store.add(AnswerKey("shared", str(n), "s"), ANSWER, grader_key="g", grade=Grade(0.0))
        store.add(AnswerKey(me, str(n), "s"), ANSWER)
"""


def test_processes_that_open_and_write_at_once_all_succeed(place):
    writers = [run(WRITER, place, f"writer {n}", step, stdin=subprocess.PIPE) for n, step in enumerate((1, -1, 1, -1))]
    assert [writer.stdout.readline() for writer in writers] == ["ready\n"] * 4
    for writer in writers:
        writer.stdin.close()  # they all begin now
        writer.stdin = None
    for writer in writers:
        out, failed = writer.communicate()
        assert writer.returncode == 0, out + failed
    with AnswerStore(place) as store:
        assert {len(store.answers(f"writer {n}", "s")) for n in range(4)} == {100}
        assert len(store.answers("shared", "s")) == len(store.grades("shared", "s")) == 100


def test_two_writers_never_wait_for_each_other_for_ever(postgres_url):
    """Another writer takes row 0, then row 1; a store that began with row 1 would wait for 0, and the other for 1."""
    insert = (
        "INSERT INTO answers (model, prompt, settings, repeat, refused, date) VALUES ('poet', '{}', 's', 0, false, '')"
    )
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    with AnswerStore(postgres_url) as store:
        with opened(postgres_url) as other:
            other.exec_driver_sql(insert.format("first"))
            blocked = store.add(AnswerKey("poet", "first", "s"), ANSWER)
            while not other.exec_driver_sql(waiting).scalar():
                assert not blocked.done()
            both = [store.add(AnswerKey("poet", prompt, "s"), ANSWER) for prompt in ("1", "0")]  # the next transaction
            other.exec_driver_sql(insert.format(0))
            other.exec_driver_sql(insert.format(1))
        for kept in (blocked, *both):
            kept.result()
        assert set(store.answers("poet", "s")) == {("first", 0), ("0", 0), ("1", 0)}


@contextmanager
def on_commit(do):
    """Call `do` in the thread that writes, before each transaction is committed."""
    sa.event.listen(sa.Engine, "commit", do)
    try:
        yield
    finally:
        sa.event.remove(sa.Engine, "commit", do)


@contextmanager
def held_back():
    """Let no transaction end before the first event that is given is set; the second says that one has begun."""
    release, begun = threading.Event(), threading.Event()

    def hold(connection):
        begun.set()
        assert release.wait(60)

    with on_commit(hold):
        yield release, begun


def numbered(store, n):
    return store.add(KEY._replace(repeat=n), ANSWER)


def numbers(store):
    return sorted(repeat for _, repeat in store.answers("poet", "09c1"))


def test_what_comes_during_a_transaction_is_committed_in_the_next(store):
    commits = []
    with held_back() as (release, begun), on_commit(commits.append):
        kept = [numbered(store, 0)]
        assert begun.wait(60)
        kept += [numbered(store, n) for n in range(1, 10)]
        assert not any(future.done() for future in kept)
        assert numbers(store) == []
        release.set()
        for future in kept:
            future.result(60)
    assert len(commits) == 2
    assert numbers(store) == list(range(10))


def test_what_was_cancelled_is_kept_all_the_same(store):
    with held_back() as (release, begun):
        first = numbered(store, 0)
        assert begun.wait(60)
        second, third = numbered(store, 1), numbered(store, 2)
        assert second.cancel()
        release.set()
        first.result(60)
        third.result(60)
    assert numbers(store) == [0, 1, 2]


def test_leaving_waits_for_all_that_was_added(place):
    with AnswerStore(place) as store:
        for n in range(200):
            numbered(store, n)
    with AnswerStore(place) as store:
        assert numbers(store) == list(range(200))


KILLED = """
import os, sys
from unirouter_plugins.onboarding.store import *
ANSWER = Answer("a" * 2000, 9, 1, None, None, 2e-6, 0.4, "stop", False, "2026-11-23")
with AnswerStore(sys.argv[1]) as store:
    for n in range(0, 1_000_000, 8):
        kept = {m: store.add(AnswerKey("poet", "5f2a", "09c1", m), ANSWER, grader_key="g", grade=Grade(0.5))
            for m in range(n, n + 8)}
        for m, future in kept.items():
            future.result()
            os.write(1, f"{m}\\n".encode())
"""


@pytest.mark.parametrize("seed", range(2))
def test_what_was_acknowledged_survives_kill_9(tmp_path, seed):
    place = tmp_path / "answers.sqlite"
    with run(KILLED, place) as process:
        acknowledged = [process.stdout.readline() for _ in range(random.Random(seed).randrange(1, 400))]
        process.kill()
        acknowledged += process.stdout.readlines()
    with AnswerStore(place) as store:
        assert {int(line) for line in acknowledged} <= set(numbers(store))
        assert len(numbers(store)) <= len(acknowledged) + 8  # and no more than were in flight
        assert len(store.grades("poet", "09c1")) == len(numbers(store))
    with sqlite3.connect(place) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_a_file_that_another_process_locks_is_waited_for_and_it_is_logged(tmp_path, caplog):
    place = tmp_path / "answers.sqlite"
    with AnswerStore(f"sqlite:///{place}?timeout=0.1") as store:
        other = sqlite3.connect(place, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        kept = numbered(store, 0)
        while "locked by another process; waiting for it" not in caplog.text:
            assert not kept.done()
        other.execute("COMMIT")
        other.close()
        kept.result(60)
        assert numbers(store) == [0]
    assert caplog.text.count("waiting for it") == 1


def test_a_sqlite_commit_waits_for_the_disk_and_blocks_no_reader(tmp_path):
    seen = []

    def look(connection):
        seen.append([connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("synchronous", "journal_mode")])

    with AnswerStore(tmp_path / "answers.sqlite") as store, on_commit(look):
        numbered(store, 0).result()
    assert seen == [[2, "wal"]]  # 2 is FULL


# --- Without writing --------------------------------------------------------------------------------------------------


def test_reading_makes_neither_file_nor_tables(place, tmp_path):
    with AnswerStore(place, create=False) as store:
        assert store.answers("poet", "09c1") == store.grades("poet", "09c1") == {}
    assert list(tmp_path.iterdir()) == []
    if isinstance(place, str):
        with opened(place) as connection:
            assert sa.inspect(connection).get_table_names() == []


def test_reading_finds_what_is_there(place):
    with AnswerStore(place) as store:
        numbered(store, 0)
    with AnswerStore(place, create=False) as store:
        assert numbers(store) == [0]


VERSION_0_1 = """
CREATE TABLE unirouter_schema (version INTEGER NOT NULL, PRIMARY KEY (version));
CREATE TABLE prompts (prompt TEXT NOT NULL, chat_json TEXT NOT NULL, PRIMARY KEY (prompt));
CREATE TABLE settings (settings TEXT NOT NULL, settings_json TEXT NOT NULL, PRIMARY KEY (settings));
CREATE TABLE graders (grader TEXT NOT NULL, grader_key TEXT NOT NULL, PRIMARY KEY (grader));
CREATE TABLE answers (model TEXT NOT NULL, prompt TEXT NOT NULL, settings TEXT NOT NULL, repeat INTEGER NOT NULL,
  text TEXT, tokens_in DOUBLE PRECISION, tokens_out DOUBLE PRECISION, reasoning_tokens DOUBLE PRECISION,
  cached_tokens DOUBLE PRECISION, usd DOUBLE PRECISION, seconds DOUBLE PRECISION NOT NULL, finish TEXT,
  refused BOOLEAN NOT NULL, date TEXT NOT NULL, earlier_usd DOUBLE PRECISION NOT NULL,
  PRIMARY KEY (model, prompt, settings, repeat));
CREATE TABLE grades (model TEXT NOT NULL, prompt TEXT NOT NULL, settings TEXT NOT NULL, repeat INTEGER NOT NULL,
  grader TEXT NOT NULL, error DOUBLE PRECISION NOT NULL, usd DOUBLE PRECISION NOT NULL, note TEXT NOT NULL,
  PRIMARY KEY (model, prompt, settings, repeat, grader),
  FOREIGN KEY(model, prompt, settings, repeat) REFERENCES answers (model, prompt, settings, repeat),
  FOREIGN KEY(grader) REFERENCES graders (grader));
INSERT INTO unirouter_schema VALUES (1);
INSERT INTO prompts VALUES ('5f2a', '[{"content": "2 + 2?", "role": "user"}]');
INSERT INTO graders VALUES ('digest', 'exact v1');
INSERT INTO answers VALUES ('poet', '5f2a', '09c1', 0, '4', 9, 1, NULL, NULL, 0.000002, 0.4, 'stop', FALSE,
  '2026-11-23T10:00:00+00:00', 0);
INSERT INTO grades VALUES ('poet', '5f2a', '09c1', 0, 'digest', 0.5, 0, '')
"""


def test_what_version_0_1_kept_is_read_and_stays_paid_for(place):
    with opened(place) as connection:
        for statement in VERSION_0_1.split(";"):
            connection.exec_driver_sql(statement)
    for _ in range(2):
        with AnswerStore(place) as store:
            assert store.answers("poet", "09c1") == {("5f2a", 0): ANSWER}
            assert store.grades("poet", "09c1") == {("5f2a", 0, "exact v1"): Grade(0.5)}
    with opened(place) as connection:
        assert sorted(sa.inspect(connection).get_table_names()) == ["answers", "grades"]
        [chat] = connection.exec_driver_sql("SELECT chat_json FROM answers").scalars()
    assert chat == '[{"content": "2 + 2?", "role": "user"}]'


def test_a_store_that_was_made_before_log_probabilities_were_kept_keeps_them_from_now_on(place):
    with AnswerStore(place) as store:
        store.add(KEY, ANSWER).result()
    with opened(place) as connection:
        connection.exec_driver_sql("ALTER TABLE answers DROP COLUMN logprobs")
    newer = replace(ANSWER, logprobs=[-0.5, -1.25])
    with AnswerStore(place) as store:
        store.add(KEY._replace(repeat=1), newer).result()
        assert [*store.answers(KEY.model, KEY.settings).values()] == [ANSWER, newer]


# --- What cannot be used ----------------------------------------------------------------------------------------------


def test_tables_of_another_version_are_refused(place):
    with AnswerStore(place):
        pass
    with opened(place) as connection:
        connection.exec_driver_sql("ALTER TABLE answers ADD COLUMN seed INTEGER")
    with pytest.raises(StoreError, match=r"written by another version of unirouter; upgrade"):
        AnswerStore(place)


def test_a_database_of_something_else_is_refused_and_left_as_it_was(tmp_path):
    place = tmp_path / "cookies.sqlite"
    with sqlite3.connect(place) as connection:
        connection.execute("CREATE TABLE cookies (name)")
    connection.close()
    before = place.read_bytes()
    with pytest.raises(StoreError, match=r"holds other tables \('cookies'\); give a place of the answers' own"):
        AnswerStore(place)
    assert [(file, file.read_bytes()) for file in tmp_path.iterdir()] == [(place, before)]


def test_a_file_that_is_no_database_is_refused_and_left_as_it_was(tmp_path):
    place = tmp_path / "notes.txt"
    place.write_text("Call the heron. " * 100)
    with pytest.raises(StoreError, match=r"notes.txt: file is not a database; it must be a SQLite file"):
        AnswerStore(place)
    assert place.read_text() == "Call the heron. " * 100


def test_a_folder_that_is_missing_and_a_folder_in_place_of_a_file_are_named(tmp_path):
    for place in (tmp_path / "missing" / "answers.sqlite", tmp_path):
        with pytest.raises(StoreError, match=f"{place}: unable to open database file; .* in a folder that exists"):
            AnswerStore(place)


@pytest.mark.parametrize(
    ("column", "value"), [("usd", "dear"), ("tokens_in", b"9"), ("seconds", 9e999), ("text", b"4"), ("date", b"\xff")]
)
def test_a_value_that_unirouter_did_not_write_is_one_sentence(tmp_path, column, value):
    with AnswerStore(tmp_path / "answers.sqlite") as store:
        store.add(KEY, ANSWER).result()
        with opened(tmp_path / "answers.sqlite") as connection:
            connection.exec_driver_sql(f"UPDATE answers SET {column} = ?", (value,))
        with pytest.raises(StoreError, match=r"A row of 'poet' in the table answers of .* did not write; delete it"):
            store.answers("poet", "09c1")


def test_more_grader_keys_than_a_statement_may_have_variables_are_kept_and_read(tmp_path):
    def limit(connection, _):
        connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 99)

    sa.event.listen(sa.Engine, "connect", limit)
    try:
        with AnswerStore(tmp_path / "answers.sqlite") as store:
            for n in range(1000):
                store.add(KEY, ANSWER, grader_key=f"text v{n}", grade=Grade(0.0))
        with AnswerStore(tmp_path / "answers.sqlite") as store:
            assert len(store.grades("poet", "09c1")) == 1000
    finally:
        sa.event.remove(sa.Engine, "connect", limit)


def test_a_pipe_in_the_place_of_a_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreError, match="pipe is no regular file"):
        AnswerStore(tmp_path / "pipe")


@pytest.mark.parametrize("place", ["", ":memory:", "sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(place):
    with pytest.raises(InvalidDataError, match="is no file that keeps answers; give a path"):
        AnswerStore(place)


def test_a_file_that_may_not_be_written_is_named(tmp_path):
    place = tmp_path / "answers.sqlite"
    with AnswerStore(place):
        pass
    with AnswerStore(f"sqlite:///file:{place}?mode=ro&uri=true") as store:
        with pytest.raises(
            StoreError, match=r"answers.sqlite: attempt to write a readonly database; .* may be written"
        ):
            store.add(KEY, ANSWER).result()
        assert store.answers("poet", "09c1") == {}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the limit of a file's size is Unix's")
def test_a_full_disk_is_one_sentence_and_what_was_kept_stays(tmp_path):
    code = """
import resource, sys
from unirouter_plugins.onboarding.store import *
store = AnswerStore(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
for repeat in range(1000):
    answer = Answer("a" * 1000, 9, 1, None, None, 1.0, 0.4, "stop", False, "2026-11-23")
    try:
        store.add(AnswerKey("poet", "p", "s", repeat), answer).result()
    except StoreError as failed:
        print(repeat, len(store.answers("poet", "s")), failed, sep="|")
        break
"""
    out, failed = run(code, tmp_path / "x.sqlite").communicate()
    added, readable, message = out.strip().split("|")
    assert int(added) == int(readable) > 0, failed
    assert message.startswith(f"Answers cannot be kept in {tmp_path / 'x.sqlite'}: ")
    assert message.endswith("with space left on the disk.")
    with AnswerStore(tmp_path / "x.sqlite") as store:
        assert len(store.answers("poet", "s")) == int(added)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "postgresql://me:{}@127.0.0.1:1/answers",
            r"postgresql://me:\*\*\*@127.0.0.1:1/answers: .*; check that the se",
        ),
        ("postgres://me:{}@127.0.0.1:1/answers", "connection failed"),
        ("postgresql://me:{}@127.0.0.1:1/answers?tea=1", "invalid connection option"),
        ("postgresql://127.0.0.1:1/answers?user=me&password={}", "connection failed"),
        ("postgresql://me:{}@127.0.0.1:port/answers", "cannot be read; write it as postgresql://"),
        ("postgresql://me:{}/answers", "cannot be read; write it as postgresql://"),
        ("postgresql://me:a@{}@127.0.0.1/answers", "more than one @"),
        ("mysql://me:{}@127.0.0.1/answers", "'mysql' databases are not supported"),
        ("://me:{}@127.0.0.1/answers", "cannot be read"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_password(url, message):
    pytest.importorskip("psycopg")
    with pytest.raises((InvalidDataError, StoreError), match=message) as caught:
        AnswerStore(url.format("s3cret-heron"))
    shown = [*traceback.format_exception(caught.value), str(caught.value)]
    source = 'AnswerStore(url.format("s3cret-heron"))'  # the line of this test in the traceback
    assert "s3cret" not in "".join(shown).replace(source, "")


def test_a_refused_password_and_a_missing_database_are_told_apart_without_the_password(postgres_server):
    right = postgres_server.format(database="postgres")
    password = sa.make_url(right).password
    for url, message in (
        (right.replace(password, "s3cret-heron"), "password authentication failed"),
        (postgres_server.format(database="missing"), 'database "missing" does not exist'),
    ):
        with pytest.raises(StoreError, match=message) as caught:
            AnswerStore(url)
        shown = "".join(traceback.format_exception(caught.value))
        assert "s3cret" not in shown
        assert password not in shown


def test_a_store_shows_its_place_without_the_password(postgres_url):
    with AnswerStore(postgres_url, texts=False) as store:
        shown = repr(store)
    assert shown.startswith("AnswerStore('postgresql://unirouter:***@/test_")
    assert sa.make_url(postgres_url).password not in shown


def test_a_text_is_in_no_failure_of_the_database(store, place):
    with opened(place) as connection:
        connection.exec_driver_sql("DROP TABLE grades")
        connection.exec_driver_sql("DROP TABLE answers")
    with pytest.raises(StoreError, match="answers") as caught:
        store.add(KEY, replace(ANSWER, text=PLANTED)).result()
    assert PLANTED not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("missing", "place", "cure"),
    [
        (
            "sqlalchemy",
            "answers.sqlite",
            r"SQLAlchemy or tenacity is missing: pip install 'unirouter[litellm]' (in a clone: '.[litellm]').",
        ),
        (
            "psycopg",
            "postgresql://me@127.0.0.1:1/x",
            r"psycopg is missing: pip install 'unirouter[postgres]' (in a clone: '.[postgres]').",
        ),
    ],
)
def test_a_missing_package_is_named_with_its_cure(missing, place, cure):
    code = f"""
import sys
sys.modules[{missing!r}] = None
try:
    from unirouter_plugins.onboarding.store import AnswerStore
    AnswerStore({place!r})
except ImportError as failed:
    print(failed)
"""
    assert run(code).communicate()[0].strip() == cure


# --- Records ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_an_amount_that_cannot_be_is_refused(value):
    for name in ("tokens_in", "tokens_out", "reasoning_tokens", "cached_tokens", "usd", "seconds"):
        with pytest.raises(InvalidDataError, match=f"{name} of Answer is {value}; it must be finite and >= 0"):
            replace(ANSWER, **{name: value})


@pytest.mark.parametrize("error", [-0.1, 1.1, float("nan")])
def test_an_error_outside_0_and_1_is_refused(error):
    with pytest.raises(InvalidDataError, match=f"{error:g}"):
        Grade(error)


def test_an_answer_that_met_its_limit_is_truncated():
    assert [replace(ANSWER, finish=finish).truncated for finish in ("length", "stop", None)] == [True, False, False]
