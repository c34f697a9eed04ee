"""The store of answers: each paid for once, read back as it was, on SQLite and on PostgreSQL."""

import doctest
import itertools
import os
import random
import sqlite3
import subprocess
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

pytest.importorskip("sqlalchemy")

import sqlalchemy as sa

from unirouter_core.exceptions import InvalidDataError
from unirouter_plugins.onboarding import answers
from unirouter_plugins.onboarding.answers import Answer, AnswerKey, AnswerStore, Entry, Grade, StoreError

ANSWER = Answer("4", 9.0, 1.0, None, None, 2e-6, 0.4, "stop", False, "2026-11-23T10:00:00+00:00")
KEY = AnswerKey("poet", prompt="5f2a", settings="09c1")
TABLES = ("prompts", "settings", "graders", "answers", "grades")
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
bills = st.integers(0, 2**20).map(lambda n: n / 1024)  # their sums are exact in any order


def measurements(usd):
    """What a store keeps for some prompts and repeats."""
    tokens = dict.fromkeys(("tokens_in", "tokens_out", "reasoning_tokens", "cached_tokens"), st.none() | amounts)
    flags = {"finish": st.none() | any_text, "refused": st.booleans(), "date": any_text}
    answers = st.builds(Answer, text=any_text, usd=st.none() | usd, seconds=amounts, **tokens, **flags)
    grades = st.builds(Grade, st.floats(0, 1), usd, any_text)
    keys = st.tuples(any_text, st.integers(0, 2**31 - 1))
    return st.dictionaries(keys, st.tuples(answers, any_text, grades), min_size=1, max_size=5)


fresh = itertools.count()
many_times = hypothesis_settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def entries_of(measured, model, settings):
    """One entry for each prompt and repeat."""
    return [
        Entry(AnswerKey(model, prompt, settings, repeat), *kept) for (prompt, repeat), kept in sorted(measured.items())
    ]


@many_times
@given(measured=measurements(amounts), model=any_text)
def test_every_entry_is_read_back_as_it_was(store, measured, model):
    settings = f"settings {next(fresh)}"
    store.add(entries_of(measured, model, settings))
    assert store.answers(model, settings) == {key: answer for key, (answer, _, _) in measured.items()}
    assert store.grades(model, settings) == {(*key, grader): grade for key, (_, grader, grade) in measured.items()}


@many_times
@given(measured=measurements(bills), texts=st.booleans())
def test_adding_the_same_entries_again_changes_nothing(place, measured, texts):
    settings = f"settings {next(fresh)}"
    with AnswerStore(place, texts=texts) as store:
        before = None
        for _ in range(2):
            store.add(entries_of(measured, settings, settings))
            found = store.answers(settings, settings), store.grades(settings, settings), store.spent([settings])
            assert before is None or found == before
            before = found


def test_an_answer_and_a_grade_that_are_there_stay(store):
    store.add([Entry(KEY, ANSWER, "exact v1", Grade(0.0))])
    store.add([Entry(KEY, replace(ANSWER, text="5", usd=1.0), "exact v1", Grade(1.0))])
    assert store.answers("poet", "09c1") == {("5f2a", 0): ANSWER}
    assert store.grades("poet", "09c1") == {("5f2a", 0, "exact v1"): Grade(0.0)}


def test_an_answer_without_its_text_is_replaced_and_its_bill_still_counts(place):
    with AnswerStore(place, texts=False) as store:
        store.add([Entry(KEY, replace(ANSWER, usd=0.25))])
    anew = replace(ANSWER, text="5", usd=0.5, date="2026-11-24")
    with AnswerStore(place) as store:
        store.add([Entry(KEY, anew)])
        store.add([Entry(KEY, anew)])
        assert store.answers("poet", "09c1") == {("5f2a", 0): anew}
        assert store.spent() == {"poet": 0.75}


def test_the_text_of_a_call_that_is_kept_without_it_is_added_at_no_cost(place):
    with AnswerStore(place, texts=False) as store:
        store.add([Entry(KEY, ANSWER)])
        assert store.answers("poet", "09c1") == {("5f2a", 0): replace(ANSWER, text=None)}
    with AnswerStore(place) as store:
        store.add([Entry(KEY, ANSWER)])
        assert store.answers("poet", "09c1") == {("5f2a", 0): ANSWER}
        assert store.spent() == {"poet": ANSWER.usd}


def test_models_settings_prompts_and_repeats_are_kept_apart(store):
    keys = [KEY._replace(**change) for change in ({"model": "sage"}, {"settings": "x"}, {"prompt": "x"}, {"repeat": 1})]
    store.add([Entry(key, replace(ANSWER, text=str(key))) for key in [KEY, *keys]])
    assert set(store.answers("poet", "09c1")) == {("5f2a", 0), ("x", 0), ("5f2a", 1)}
    assert store.answers("sage", "09c1")["5f2a", 0].text == str(keys[0])
    assert store.answers("poet", "unknown") == {}


def test_a_kept_answer_is_graded_later_and_by_several_graders(store):
    schema = random.Random(0).randbytes(50_000).hex()  # a grader's key may hold a whole JSON schema
    store.add([Entry(KEY, ANSWER, "exact v1", Grade(0.0))])
    store.add([Entry(KEY, None, "judge v1", Grade(0.5, 0.01, "half right")), Entry(KEY, None, schema, Grade(1.0))])
    assert store.grades("poet", "09c1") == {
        ("5f2a", 0, "exact v1"): Grade(0.0),
        ("5f2a", 0, "judge v1"): Grade(0.5, 0.01, "half right"),
        ("5f2a", 0, schema): Grade(1.0),
    }
    assert set(store.grades("poet", "09c1", ["judge v1", "other v1"])) == {("5f2a", 0, "judge v1")}
    assert store.grades("poet", "09c1", []) == {}


def test_a_grade_without_its_answer_is_refused_with_all_that_came_with_it(store):
    good = Entry(KEY, ANSWER, "exact v1", Grade(0.0))
    with pytest.raises(InvalidDataError, match="add the answer first"):
        store.add([good, Entry(KEY._replace(repeat=1), None, "exact v1", Grade(0.0))])
    assert store.answers("poet", "09c1") == {}
    store.add([good])
    assert store.answers("poet", "09c1") == {("5f2a", 0): ANSWER}


def test_spent_is_the_bill_of_answers_and_judges_by_model(store):
    unknown = Entry(KEY._replace(repeat=1), replace(ANSWER, usd=None))
    sage = Entry(KEY._replace(model="sage"), replace(ANSWER, usd=0.5))
    store.add([Entry(KEY, replace(ANSWER, usd=0.25), "judge v1", Grade(0.0, 0.125)), unknown, sage])
    assert store.spent() == {"poet": 0.375, "sage": 0.5}
    assert store.spent(["sage", "bard"]) == {"sage": 0.5}


def test_people_read_what_was_asked_and_with_which_settings(store, place):
    store.describe(chats={"5f2a": [{"role": "user", "content": "2 + 2 für €?"}]}, settings={"09c1": {"seed": 1}})
    store.describe(settings={"09c1": {"seed": 2}})
    store.add([Entry(KEY, ANSWER, "exact v1", Grade(0.0))])
    statement = """
        SELECT model, chat_json, settings_json, text, grader_key, error FROM answers NATURAL JOIN prompts
        NATURAL JOIN settings JOIN grades USING (model, prompt, settings, repeat) NATURAL JOIN graders
    """
    with opened(place) as connection:
        [row] = connection.exec_driver_sql(statement)
    assert row == ("poet", '[{"content": "2 + 2 für €?", "role": "user"}]', '{"seed": 1}', "4", "exact v1", 0.0)


@pytest.mark.parametrize("settings", [{"stop": {"."}}, {"temperature": float("nan")}])
def test_settings_that_are_no_json_are_refused(tmp_path, settings):
    with AnswerStore(tmp_path / "x") as store, pytest.raises(InvalidDataError, match="must be JSON-able"):
        store.describe(settings={"09c1": settings})


def test_without_texts_no_text_is_anywhere(place, tmp_path):
    with AnswerStore(place, texts=False) as store:
        store.describe(chats={"5f2a": [{"role": "user", "content": PLANTED}]}, settings={"09c1": {"seed": 1}})
        for repeat, grader_key in itertools.product(range(40), ("judge v1", "judge v2")):
            key = KEY._replace(repeat=repeat)
            store.add([Entry(key, replace(ANSWER, text=PLANTED), grader_key, Grade(0.5, 0.01, PLANTED))])
        assert store.grades("poet", "09c1", ["judge v2"])["5f2a", 39, "judge v2"] == Grade(0.5, 0.01)
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
from unirouter_plugins.onboarding.answers import *
print("ready", flush=True)
ANSWER = Answer("4", 9, 1, None, None, 1.0, 0.4, "stop", False, "2026-11-23")
place, me, step = sys.argv[1], sys.argv[2], int(sys.argv[3])
sys.stdin.read()
with AnswerStore(place) as store:
    for start in range(0, 100, 10)[::step]:
        shared = [Entry(AnswerKey("shared", str(n), "s"), ANSWER, "g", Grade(0.0)) for n in range(start, start + 10)]
        own = [Entry(AnswerKey(me, str(n), "s"), ANSWER) for n in range(start, start + 10)]
        store.add([*shared, *own][::step])
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
        assert store.spent() == {"shared": 100.0, **{f"writer {n}": 100.0 for n in range(4)}}
        assert len(store.grades("shared", "s")) == 100


def test_two_writers_never_wait_for_each_other_for_ever(postgres_url):
    """Another writer takes row 0, then row 1; a store that began with row 1 would wait for 0, and the other for 1."""
    insert = "INSERT INTO answers VALUES ('poet', '{}', 's', 0, '', 1, 1, 0, 0, 0, 1, 'stop', false, '', 0)"
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    with AnswerStore(postgres_url) as store, ThreadPoolExecutor(1) as thread:
        with opened(postgres_url) as other:
            other.exec_driver_sql(insert.format(0))
            added = thread.submit(store.add, [Entry(AnswerKey("poet", prompt, "s"), ANSWER) for prompt in ("1", "0")])
            while not other.exec_driver_sql(waiting).scalar():
                assert not added.done()
            other.exec_driver_sql(insert.format(1))
        added.result()
        assert set(store.answers("poet", "s")) == {("0", 0), ("1", 0)}


def test_threads_read_whole_transactions_while_another_writes(store):
    sizes, done = [], threading.Event()

    def read():
        while not done.is_set():
            sizes.append(len(store.answers("poet", "09c1")))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for start in range(0, 300, 10):
        store.add([Entry(KEY._replace(repeat=repeat), ANSWER) for repeat in range(start, start + 10)])
    done.set()
    for reader in readers:
        reader.join()
    assert sizes
    assert {size % 10 for size in sizes} == {0}
    assert len(store.answers("poet", "09c1")) == 300


def test_a_sqlite_commit_waits_for_the_disk_and_blocks_no_reader(tmp_path):
    pragmas = ("synchronous", "journal_mode", "foreign_keys", "busy_timeout")
    seen = []

    def look(connection):
        seen.append([connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() for pragma in pragmas])

    with AnswerStore(tmp_path / "answers.sqlite") as store:
        sa.event.listen(sa.Engine, "commit", look)
        try:
            store.add([Entry(KEY, ANSWER)])
        finally:
            sa.event.remove(sa.Engine, "commit", look)
    assert seen == [[2, "wal", 1, 30_000]]  # 2 is FULL


# --- What cannot be used ----------------------------------------------------------------------------------------------


def test_a_newer_schema_is_refused(place):
    AnswerStore(place).close()
    with opened(place) as connection:
        connection.exec_driver_sql("UPDATE unirouter_schema SET version = 2")
    with pytest.raises(StoreError, match=r"has schema 2, .* upgrade unirouter"):
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


@pytest.mark.parametrize("place", ["", ":memory:", "sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(place):
    with pytest.raises(InvalidDataError, match="is no file that keeps answers; give a path"):
        AnswerStore(place)


def test_a_file_that_may_not_be_written_is_named(tmp_path):
    place = tmp_path / "answers.sqlite"
    AnswerStore(place).close()
    with AnswerStore(f"sqlite:///file:{place}?mode=ro&uri=true") as store:
        with pytest.raises(
            StoreError, match=r"answers.sqlite: attempt to write a readonly database; .* may be written"
        ):
            store.add([Entry(KEY, ANSWER)])
        assert store.answers("poet", "09c1") == {}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the limit of a file's size is Unix's")
def test_a_full_disk_is_one_sentence_and_what_was_kept_stays(tmp_path):
    code = """
import resource, sys
from unirouter_plugins.onboarding.answers import *
store = AnswerStore(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
for repeat in range(1000):
    answer = Answer("a" * 1000, 9, 1, None, None, 1.0, 0.4, "stop", False, "2026-11-23")
    try:
        store.add([Entry(AnswerKey("poet", "p", "s", repeat), answer)])
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
        store.add([Entry(KEY, replace(ANSWER, text=PLANTED))])
    assert PLANTED not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("missing", "place", "cure"),
    [
        ("sqlalchemy", "answers.sqlite", r"SQLAlchemy is missing: pip install 'unirouter[litellm]'."),
        ("psycopg", "postgresql://me@127.0.0.1:1/x", r"psycopg is missing: pip install 'unirouter[postgres]'."),
    ],
)
def test_a_missing_package_is_named_with_its_cure(missing, place, cure):
    code = f"""
import sys
sys.modules[{missing!r}] = None
try:
    from unirouter_plugins.onboarding.answers import AnswerStore
    AnswerStore({place!r})
except ImportError as failed:
    print(failed)
"""
    assert run(code).communicate()[0].strip() == cure


# --- Records ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["tokens_in", "tokens_out", "reasoning_tokens", "cached_tokens", "usd", "seconds"])
def test_an_amount_that_cannot_be_is_refused(name, value):
    with pytest.raises(InvalidDataError, match=f"{name} of Answer is {value:g}; it must be finite and >= 0"):
        replace(ANSWER, **{name: value})


@pytest.mark.parametrize("error", [-0.1, 1.1, float("nan")])
def test_an_error_outside_0_and_1_is_refused(error):
    with pytest.raises(InvalidDataError, match=f"{error:g}"):
        Grade(error)


def test_an_entry_without_content_and_half_a_grade_are_refused():
    with pytest.raises(InvalidDataError, match="neither an answer nor a grade"):
        Entry(KEY)
    with pytest.raises(InvalidDataError, match="give both or neither"):
        Entry(KEY, ANSWER, "exact v1")
    with pytest.raises(InvalidDataError, match="give both or neither"):
        Entry(KEY, ANSWER, grade=Grade(0.0))


def test_an_answer_that_met_its_limit_is_truncated():
    assert replace(ANSWER, finish="length").truncated
    assert not ANSWER.truncated
    assert not replace(ANSWER, finish=None).truncated


def test_the_example_in_the_docstring_runs():
    assert doctest.testmod(answers).attempted > 0
    assert doctest.testmod(answers).failed == 0
