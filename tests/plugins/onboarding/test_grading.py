"""Grades by programs, and what a reference model's answer can serve for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unirouter_core import InvalidDataError
from unirouter_plugins.graders import Grader, parse_grader
from unirouter_plugins.onboarding.judge import with_reference, worth
from unirouter_plugins.onboarding.questions import Question, read_questions, suitable_grader

SUM = Question("What is 6 * 7?", "42", parse_grader("number"))
WHY = Question("Why is the sky blue?")


def test_a_program_grades():
    assert (SUM.error("It is 42."), SUM.error("It is 43.")) == (0, 1)


def test_no_answer_is_wrong_and_so_are_thoughts_alone_without_calling_a_judge():
    for answer in ["", " \n", "<think>42", "So 42.</think> "]:
        assert SUM.error(answer) == WHY.error(answer) == 1


def test_what_no_program_grades_is_left_to_a_judge():
    assert WHY.error("Because of the air.") is None


def test_a_grader_without_the_reference_that_it_needs_says_so():
    with pytest.raises(InvalidDataError, match=r"question 3 has no reference; the grader 'number' needs one"):
        Question("x", grader=parse_grader("number"), name="question 3").error("4")


FAILING = [
    (lambda answer, reference: 1 / 0, "line 7: The grader 'mine' failed .ZeroDivisionError: division by zero."),
    (lambda answer, reference: None, "line 7: The grader 'mine' failed .TypeError"),
    (lambda answer, reference: 7, "line 7: The grader 'mine' gave 7; an error must be in"),
    (lambda answer, reference: float("nan"), "line 7: The grader 'mine' gave nan"),
]


def test_an_own_function_that_fails_is_named_with_its_question():
    for function, said in FAILING:
        question = Question("x", "y", Grader("mine", function), name="line 7")
        with pytest.raises(InvalidDataError, match=said):
            question.error("z")


# Which grader suits a reference


SHAPES = [
    *((text, "number") for text in ("42", "-3.5", "1,234.50", "$12", "12 %", "€ 3", "1/2", "**7**", "1 000 000")),
    *((text, "choice") for text in ("B", "(C)", "D.", "C) Paris", "yes", "No.", "TRUE")),
    *((text, "json") for text in ('{"a": 1}', "[1, 2]", "[]")),
    *(
        (text, "text")
        for text in ("Rome", "4 May 1999", "10:30", "12 km", "C. elegans", "0461 555 0182", "1.2.3", "巴黎")
    ),
    *(
        (text, None)
        for text in ("", "Bring it back within 30 days.", "one two three four five six", "空气散射蓝光比红光更多。")
    ),
]


def test_the_shape_of_a_reference_says_which_grader_suits():
    for reference, name in SHAPES:
        grader = suitable_grader(reference)
        assert (grader and grader.name) == name, reference


def test_yes_is_right_with_its_reason_and_no_is_not():
    grader = suitable_grader("yes")
    assert grader("Yes, because it swims.", "yes") == 0
    assert grader("No, yes is not the answer.", "yes") == 1


@given(st.text())
def test_a_suitable_grader_calls_its_reference_right_whatever_it_is(reference):
    grader = suitable_grader(reference)
    assert grader is None or grader(reference, reference) == 0


def test_the_shape_finds_what_was_chosen_by_hand_for_every_number_and_object_of_the_starter_set():
    chosen = [(question.grader.name, suitable_grader(question.reference)) for question in read_questions()]
    for name in ("number", "json"):
        assert {found and found.name for by_hand, found in chosen if by_hand == name} == {name}


# A reference model's answer


ANSWERS = [
    ("Rome", "Rome", "text"),
    ("6 boxes of 7 eggs each. The answer is **42**.", "42", "number"),
    (r"So \boxed{17}", "17", "number"),
    ("Only one fits.\n\nAnswer: (C) Paris", "(C) Paris", "choice"),
    ('Here it is:\n\n```json\n{"a": 1}\n```\nAnything else?', '{"a": 1}', "json"),
]


def test_a_short_or_marked_answer_becomes_the_reference_with_a_grader():
    for answer, reference, name in ANSWERS:
        asked = with_reference(Question("x"), answer, judged=False)
        assert (asked.reference, asked.grader.name) == (reference, name)
        assert asked.error(answer) == 0


def test_free_text_is_a_reference_for_a_judge_only():
    answer = "Air scatters blue light more than red light, so it comes from everywhere."
    assert with_reference(WHY, answer, judged=False) is None
    judged = with_reference(WHY, answer, judged=True)
    assert (judged.reference, judged.grader, judged.digest) == (answer, None, WHY.digest)


def test_an_empty_answer_or_a_refusal_is_no_reference():
    for answer in ["", "<think>Rome", "I'm sorry, but I can't help with that."]:
        for judged in [True, False]:
            assert with_reference(WHY, answer, judged=judged) is None


def test_the_grader_that_a_line_names_compares_with_the_reference_model():
    number = Question("x", grader=parse_grader("number"))
    asked = with_reference(number, "They have 42 eggs in the end.", judged=True)
    assert asked.error("So 42.") == 0
    assert asked.error("So 41.") == 1
    assert with_reference(number, "I cannot tell from this.", judged=True) is None


def test_a_grader_that_compares_words_takes_the_final_answer_or_nothing():
    text = Question("x", grader=parse_grader("text"))
    asked = with_reference(text, "It lies on the Tiber and is very old. The answer is Rome.", judged=False)
    assert asked.reference == "Rome"
    assert with_reference(text, "It lies on the Tiber, is very old, and is Rome.", judged=False) is None


def test_the_report_says_what_grades_without_right_answers_are_worth():
    agreement = worth(reference_model="sage", ungraded=12)
    assert "the grades say how far a model agrees with what sage answered, compared where that is short" in agreement
    assert agreement.endswith("12 prompts could not be graded and do not count.")
    assert "by the judge critic" in worth(reference_model="sage", judge="critic")
    assert worth(judge="critic") == "Where no right answer was given, the grades are the opinion of critic."
