"""Files of questions: what is read from them, what is refused, and with which cure."""

import json
import os
import warnings
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unirouter_core import InvalidDataError
from unirouter_core.embedding import HashingEmbedder
from unirouter_plugins.graders import parse_grader
from unirouter_plugins.onboarding.questions import Question, Questions, read_questions, read_text

pytestmark = pytest.mark.filterwarnings("ignore:.*too few to say much:UserWarning")  # the files here are small

SUM = {"prompt": "What is 2 + 2?", "reference": "4", "grader": "number"}
POEM = {"prompt": "Write a poem."}


@pytest.fixture
def write(tmp_path):
    """Write lines to a file and return its path; what is no string is written as JSON."""

    def write(*lines, name="mine.jsonl"):
        path = tmp_path / name
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("\n".join(texts), encoding="utf-8")
        return path

    return write


# What is read


def test_the_starter_set_is_what_models_are_asked_when_no_file_is_given():
    starter = read_questions()
    assert len(starter) == 300
    assert starter.source.startswith("starter sha256:")
    assert starter.without_reference == starter.for_judge == ()
    assert starter[0].fields["family"] == "copying"


def test_a_line_becomes_the_chat_that_is_sent_its_reference_and_its_grader(write):
    line = {"system": "Be brief.", **SUM, "documents": ["Sums."], "id": "s-1", "level": 3}
    question = read_questions(write(line, POEM))[0]
    assert question.messages == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Sums.\n\nWhat is 2 + 2?"},
    )
    assert (question.prompt, question.reference, question.documents) == ("What is 2 + 2?", "4", ("Sums.",))
    assert question.grader == parse_grader("number")
    assert (question.name, question.fields["level"]) == ("line 1 (s-1)", 3)


def test_messages_are_sent_as_they_are_and_routed_on_their_newest_user_text(write):
    chat = [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": [{"type": "text", "text": "And 2 + 2?"}]},
    ]
    one, other = read_questions(write({"messages": chat}, {"messages": chat[:1], "prompt": "Greet."}))
    assert (one.messages, one.prompt) == (tuple(chat), "And 2 + 2?")
    assert (other.messages, other.prompt) == (tuple(chat[:1]), "Greet.")


def test_a_text_file_has_a_bare_prompt_a_line(write):
    questions = read_questions(write("Sing.", "", '{"prompt": "is no field here"}', "Dance.", name="mine.txt"))
    assert [question.prompt for question in questions] == ["Sing.", '{"prompt": "is no field here"}', "Dance."]
    assert len(questions.without_reference) == 3


def test_line_ends_byte_order_mark_and_line_separators_inside_a_text_do_no_harm(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_bytes('\ufeff{"prompt": "One\u2028line."}\r\n\r\n"Another."\r\n'.encode())
    assert [question.prompt for question in read_questions(path)] == ["One\u2028line.", "Another."]


def test_fields_with_the_names_of_our_own_are_passed_over_as_others_are(write):
    odd = {"name": "x", "chat": "y", "_check": "z", "model_extra": "w", "model_config": 1}
    question = read_questions(write({**SUM, **odd}, POEM))[0]
    assert question.name == "line 1"
    assert question.fields == odd


def test_null_is_the_same_as_leaving_a_field_out(write):
    bare = read_questions(write({**POEM, "reference": None, "grader": None, "messages": None, "system": None}, SUM))[0]
    assert bare == Question("Write a poem.")


@given(st.dictionaries(st.text(min_size=1).filter(str.strip), st.text(min_size=1).filter(str.strip), min_size=2))
def test_what_is_written_is_read_back(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("any") / "mine.jsonl"
    lines = [{"prompt": prompt, "reference": texts[prompt], "grader": "judge"} for prompt in texts]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert {question.prompt: question.reference for question in read_questions(path)} == texts


# Who grades


def test_a_judge_grades_only_what_names_it_when_there_is_none_for_the_others(write):
    named = {"prompt": "Why?", "reference": "Because.", "grader": "judge"}
    by_shape = {"prompt": "Capital of Italy?", "reference": "Rome"}
    path = write(named, by_shape, SUM)
    assert [q.grader and q.grader.name for q in read_questions(path)] == [None, "text", "number"]
    assert [q.grader and q.grader.name for q in read_questions(path, judged=True)] == [None, None, "number"]


def test_own_functions_and_an_embedder_serve_the_lines_that_name_them(write):
    embedder = HashingEmbedder(dims=8).fit(["Rome", "Paris", "What is it?"])
    lines = [
        {**SUM, "grader": "shorter"},
        {"prompt": "Italy?", "reference": "Rome", "grader": {"grader": "similarity", "at_least": 0.9}},
    ]
    functions = {"shorter": lambda answer, reference: len(answer) > len(reference)}
    one, other = read_questions(write(*lines), functions=functions, embedder=embedder)
    assert (one.grader("12", "4"), other.grader("Rome", "Rome")) == (1.0, 0.0)


def test_a_grader_that_compares_with_nothing_needs_no_reference(write):
    regex = {**POEM, "grader": {"grader": "regex", "pattern": "sea"}}
    contains = {"prompt": "Name a colour.", "grader": {"grader": "contains", "any": ["red", "blue"]}}
    questions = read_questions(write(regex, contains))
    assert questions.without_reference == ()
    questions.check()


UNGRADABLE = [
    (
        [POEM, SUM],
        {},
        r"1 of 2 prompts \(the first is line 1\) has no reference; .* or name a reference model or a j",
    ),
    ([SUM, {"prompt": "x?", "answer": "y"}], {}, "A right answer is called 'reference'; answer were ignored"),
    ([SUM, {"prompt": "x?", "grader": "number"}], {"judge": True}, "line 2.*no reference; .* a reference model.$"),
    ([SUM, {"prompt": "x?", "reference": "y", "grader": "judge"}], {}, "line 2.* no grader but a judge"),
    ([SUM, {"prompt": "x?", "reference": "A fact in more than five words."}], {}, "no grader but a judge"),
]


def test_what_nothing_can_grade_is_an_error_before_any_call(write):
    for lines, helpers, said in UNGRADABLE:
        questions = read_questions(write(*lines))
        with pytest.raises(InvalidDataError, match=said):
            questions.check(**helpers)


def test_bare_prompts_are_for_a_judge_or_a_reference_model(write):
    questions = read_questions(write(POEM, SUM, {"prompt": "Why?", "reference": "Because.", "grader": "judge"}))
    questions.check(judge=True)
    questions.check(judge=True, reference_model=True)


def test_a_reference_model_needs_no_judge_for_bare_prompts(write):
    read_questions(write(POEM, SUM)).check(reference_model=True)


# What is refused


REFUSED_LINES = [
    ({**SUM, "reference": 4}, r'line 2: reference is 4; reference must be a text: write "4"\.'),
    ({**SUM, "reference": {"a": 1}}, r'must be a text: write "\{\\"a\\": 1\}"\.'),
    ({**SUM, "reference": ["4", "four"]}, "write one, and the others in the grader"),
    ({**SUM, "reference": " "}, "line 2: reference is ' '; write a text, or leave the field out"),
    ({**SUM, "prompt": ["x"]}, r"prompt is \['x'\]; prompt must be a text"),
    ({"prompt": ""}, "prompt is ''; write a text"),
    ({**SUM, "documents": ["a", 5]}, r"documents\[1\] is 5; documents must be a list of texts"),
    ({**SUM, "documents": "a"}, "documents is 'a'; documents must be a list of texts"),
    ({"messages": "x"}, "messages is 'x'; messages must be a list of messages"),
    ({"messages": []}, "no text to route on"),
    ({"messages": [{"content": "x"}]}, "is no message"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, "role .assistant., not the user"),
    (
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
        "line 2: The last message is of role 'assistant', not the user's; leave the answer out",
    ),
    ({"messages": [{"role": "user", "content": "x"}], "system": "y"}, "put the system text into the messages"),
    ({"question": "x", "answer": "y"}, "line 2: there is no 'prompt' and no 'messages'; it has question, answer"),
    ({}, "there is no 'prompt'.*; it has nothing else"),
    ({**SUM, "grader": 5}, r'grader is 5; grader must be a name or \{"grader": name, ...\}'),
    ({**SUM, "grader": "numbr"}, "line 2: No grader is named 'numbr'; use one of exact"),
    ({**SUM, "grader": {"grader": "number", "near": 1}}, "line 2: The grader 'number' has no parameter 'near'"),
    ({**SUM, "reference": "unknown"}, "line 2: The reference 'unknown' is itself graded wrong"),
    ({**SUM, "grader": {"grader": "similarity", "at_least": 1}}, "line 2: The similarity grader needs an embedder"),
    ([1, 2], r'line 2: \[1, 2\] is no object; write \{"prompt": "..."\}'),
    ('{"prompt": ', r"line 2: '\{\"prompt\": ' is not JSON .*; write one object a line"),
    ('{"prompt": "x", "level": NaN}', "NaN is no JSON number"),
    ("[" * 100_000, "is not JSON"),
    ('{"prompt": "half of \\ud83d"}', r"line 2: '\\ud83d' is half of a character"),
]


def test_a_line_that_cannot_be_used_is_refused_with_its_place_and_the_cure(write):
    for line, said in REFUSED_LINES:
        path = write(POEM, line)
        with pytest.raises(InvalidDataError, match=said) as refused:
            read_questions(path)
        assert str(refused.value).startswith(f"{path}: line 2")
        assert len(str(refused.value).removeprefix(str(path))) < 300


def test_a_function_that_fails_on_its_reference_is_named_with_the_line(write):
    def broken(answer, reference):
        raise KeyError("oops")

    with pytest.raises(InvalidDataError, match=r"line 1: The grader 'mine' failed \(KeyError: 'oops'\)"):
        read_questions(write({**SUM, "grader": "mine"}, POEM), functions={"mine": broken})


def test_files_that_cannot_be_read_are_refused_with_their_name(tmp_path):
    with pytest.raises(InvalidDataError, match=r"none\.jsonl cannot be read: No such file"):
        read_questions(tmp_path / "none.jsonl")
    with pytest.raises(InvalidDataError, match=r"mine\.csv is neither \.jsonl nor \.txt"):
        read_questions(tmp_path / "mine.csv")
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(InvalidDataError, match=r"pipe\.jsonl cannot be read: it is no regular file"):
        read_questions(tmp_path / "pipe.jsonl")
    (tmp_path / "latin.txt").write_bytes("schön".encode("latin-1"))
    with pytest.raises(InvalidDataError, match=r"latin\.txt is not UTF-8 \(byte 3\)"):
        read_questions(tmp_path / "latin.txt")


def test_files_of_a_zipped_package_are_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "package.zip", "w") as packed:
        packed.writestr("judge.md", "Grade this.")
    assert read_text(zipfile.Path(packed.filename, "judge.md"), "judge.md")[1] == "Grade this."


def test_one_prompt_is_too_few_and_under_fifty_are_warned_of(write):
    with pytest.raises(InvalidDataError, match="1 different prompts are too few; give at least 2"):
        read_questions(write(POEM, POEM))
    with pytest.warns(UserWarning, match=r"mine\.txt holds 49 prompts, too few to say much"):
        read_questions(write(*(f"Sing {n}." for n in range(49)), name="mine.txt"))


def test_fifty_prompts_are_not_warned_of(write):
    path = write(*(f"Sing {n}." for n in range(50)), name="mine.txt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_questions(path)) == 50


# Questions


def test_the_same_chat_twice_is_asked_once_unless_its_references_differ(write):
    assert len(read_questions(write(SUM, POEM, SUM))) == 2
    with pytest.raises(InvalidDataError, match="line 1 and line 3 send the same chat, but their reference, grader or"):
        read_questions(write(SUM, POEM, {**SUM, "reference": "5"}))


def test_the_same_prompt_in_two_chats_is_two_questions(write):
    brief, polite = read_questions(write({**SUM, "system": "Be brief."}, {**SUM, "system": "Be polite."}))
    assert brief.prompt == polite.prompt
    assert brief.digest != polite.digest


def test_the_digest_is_of_the_chat_alone_whatever_the_order_of_keys():
    one = Question(messages=[{"role": "user", "content": "x"}], reference="y")
    other = Question(messages=[{"content": "x", "role": "user"}])
    assert one.digest == other.digest == Question("x").digest
    assert len(one.digest) == 64
    assert one.digest != Question("x ").digest


def test_a_grade_is_kept_under_another_key_when_reference_or_grader_change():
    keys = [
        Question("x", "1", parse_grader("number")).grader_key,
        Question("x", "2", parse_grader("number")).grader_key,
        Question("x", "1", parse_grader("text")).grader_key,
        Question("x", "1", parse_grader({"grader": "number", "tolerance": 0.1})).grader_key,
    ]
    assert len(set(keys)) == 4
    assert Question("other", "1", parse_grader("number")).grader_key == keys[0]
    assert Question("x", "1").grader_key is None


def test_no_text_of_the_file_stands_in_a_grader_key():
    grader = parse_grader({"grader": "text", "also": ["planted words"]})
    assert "planted" not in Question("x", "a planted reference", grader).grader_key


def test_the_validation_set_has_all_that_a_router_keeps():
    validation = read_questions().validation_set()
    assert (len(validation), validation.messages, validation.documents) == (300, None, None)
    assert parse_grader(validation.graders[0])(validation.references[0], validation.references[0]) == 0


def test_a_validation_set_of_chats_without_references_keeps_the_chats(write):
    lines = [{**POEM, "system": "Rhyme."}, {"prompt": "Sing.", "documents": ["do re mi"], "grader": "judge"}]
    validation = read_questions(write(*lines)).validation_set()
    assert validation.messages[0][0] == {"role": "system", "content": "Rhyme."}
    assert validation.references is None
    assert (validation.graders, validation.documents) == (["judge", "judge"], [(), ("do re mi",)])


def test_questions_made_in_python_are_named_by_their_place():
    questions = Questions([Question("Sing."), Question("Dance.")])
    assert [question.name for question in questions] == ["question 1", "question 2"]
    assert (questions.source, questions[:1]) == ("given", (Question("Sing."),))


def test_messages_that_are_not_json_are_refused_at_once():
    with pytest.raises(InvalidDataError, match="messages are not JSON-able"):
        Question("x", messages=[{"role": "user", "content": "x", "extra": b"y"}])
