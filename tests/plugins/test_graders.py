"""Answers that are right and wrong for each grader, and laws that hold for any text."""

import asyncio
import functools
import hashlib
import json
import re
import re._parser  # type: ignore[import-not-found]
import threading
import time
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unirouter_core.embedding import as_embedder
from unirouter_core.exceptions import InvalidDataError
from unirouter_plugins.graders import GRADER_VERSION, GRADERS, Grader, is_refusal, number, parse_grader, rules, text
from unirouter_plugins.graders.number import final_number

PERSON = {
    "type": "object",
    "required": ["name", "age"],
    "properties": {"name": {"type": "string", "minLength": 1}, "age": {"type": "integer", "minimum": 0}},
    "additionalProperties": False,
}
CITIES = {"A": "Paris", "B": "Rome", "C": "New York", "D": "York"}

# grader, reference, right answers, wrong answers
# fmt: off
TABLE = [
    ('exact', '[1, 2]',
     ['[1, 2]', ' [1, 2] \n', '```\n[1, 2]\n```', 'It prints:\n```python\n[1, 2]\n```\nas expected.', '`[1, 2]`',
      'The answer is [1, 2]', 'Answer: `[1, 2]`', 'The answer is **[1, 2]**.\n\nIt is a list.', '**[1, 2]**'],
     ['[1,2]', '[2, 1]', '1, 2', '[1, 2]]', '```\n[1, 2]\n```\nor\n```\n[2, 1]\n```']),
    ({'grader': 'exact', 'ignore_spaces': True}, "{'a': [1, 2]}", ["{'a':[1,2]}", "{ 'a' : [1, 2] }"],
     ["{'a': [12]}"]),
    ({'grader': 'exact', 'ignore_case': True}, 'Ab\nC', ['ab\nc', 'AB  \nC'], ['ab c', 'a\nbc']),
    ('text', 'The Eiffel Tower',
     ['eiffel tower', 'Eiffel  Tower.', '**The Eiffel Tower**', '"the EIFFEL tower"!', 'Answer: the Eiffel Tower',
      'Eiffel Tower\n\nIt stands in Paris.', '\\boxed{\\text{Eiffel Tower}}', 'The answer is: _The Eiffel Tower_.'],
     ['the tower', 'Eiffel Tower in Paris', 'tower Eiffel', 'It is not the Eiffel Tower.',
      'The answer is not the Eiffel Tower']),
    ('text', 'a', ['A', 'a.'], ['b', 'an']),
    ('text', 'kitten',
     ['The baby is called a kitten.', 'It is a kitten', 'A baby cat is a **kitten** (or kitty).', 'It is **kitten**.',
      'I would say `kitten` here.', 'The word is "kitten".\n\nIt is small.', 'Das Wort lautet Kitten.'],
     ['It is not a kitten.', 'A kitten is a cat.', 'It is not **kitten**.', '**kitten** or **cat**',
      'A kitten and a cub']),
    ('number', '60',
     ['60 days, as 2024 is a leap year.', '60, because 31 + 29 = 60 and 1 more does not count', '60 since 2 x 30',
      'It makes 60 (2024 is a leap year).', '**60** days in 2024'],
     ['He had 60 because he won 9, so 69', '60 as well as 5', 'Not 60. It is 61, because 60 + 1 = 61.']),
    ('choice', 'A', ['The answer is A because it is first.', 'A is correct.', '**A** is the right one: (A)',
     'Option A is best.'],
     ['The answer is a B', 'A is not correct.', 'I choose a cat']),
    ('choice', 'C', ['The answer is C because A is wrong.', 'I would choose C since it fits.', 'Option C states it.',
      'C is right, A is not.', '(C) is correct; (A) is wrong.'],
     ['The answer is I think B.', 'C is wrong, B is correct.']),
    ({'grader': 'choice', 'options': ['positive', 'negative']}, 'positive',
     ['It is positive, not negative.', 'The mood is positive rather than negative.', '"positive"'],
     ['not positive but negative', 'positive and negative', 'It is negative.', 'positively']),
    ('text', '-5', ['-5', '−5', '-5.'], ['5']),
    ('text', '10:30', ['10:30', ' 10:30. '], ['1030', '10.30']),
    ('text', "don't", ['don’t', "Don't!"], ['dont']),
    ('text', 'Straße', ['STRASSE', 'straße.'], ['Strase']),
    ('text', 'C++', ['c++', 'C++.'], ['C', 'C#']),
    ({'grader': 'text', 'also': ['automobile']}, 'car', ['a car', 'Automobile'], ['cart', 'auto']),
    ({'grader': 'text', 'separator': ','}, '2, 5, Fig', ['2,5,fig', '[2, 5, fig]', 'Answer: 2 , 5, fig.'],
     ['2 5 fig', '5, 2, fig', '2, 5', '2, 5, fig, 9']),
    ('text', 'Paris, France', ['paris,france', 'Paris France'], ['Paris']),
    ('number', '42',
     ['42', '42.', '42.0', '+42', '**42**', '$42$', '\\(42\\)', '\\[ x = 42 \\]', '\\boxed{42}', '42 km/h', '42kg',
      '€42', '42 €', '$42.00', '42%', '42 °C', '42 m²', '42 m^2', '42 m2', 'forty-two', 'Forty two apples',
      'The answer is 42.', 'The final answer is: **42**', '**Answer:** 42',
      '**Answer**: 42\n\nThere are 6 rows of 7.', 'Answer: 6 × 7 = 42', 'The answer is 42, because 42 = 6 * 7.',
      'The answer is x = 42', '#### 42', '6 rows of 7 make 42', 'First 5, then 8, so 6 * 7 = 42.', '42 (6 rows of 7)',
      '42\n\nThere are 6 rows of 7.', 'She pays **$42** for 6 tickets.',
      'The answer is 5. Wait, 6 * 7: the answer is 42.', 'It takes 42 minutes (7 × 6).',
      '1. There are 6 rows.\n2. Each has 7.\n3. That makes 42.', 'Die Antwort ist 42.', 'La réponse est : 42',
      'La respuesta es 42.', 'The answer is not 41 but 42.', '≈ 42', '~42', 'The answer to the question is 42.',
      'The answer is:\n\n42', '84/2', '420e-1', '4.2 × 10^1', '4.2 x 10¹', '$\\frac{84}{2}$', '\\dfrac{84}{2}',
      '0042', 'Result: 42 square metres', '４２', '\\boxed{42\\text{ km}}', '\\boxed{\\frac{84}{2}}',
      'The answer is 5 + 37 = 42.'],
     ['41', '-42', '4 2', '421', '142', '42 + 1 = 43', 'The total is 42, so the answer is 43.', '42.5', '0.42',
      '4.2e2', 'I do not know.', '\\boxed{41} is not 42', 'x42', '42 rows give 7', 'CO42', '42/2', 'forty-three',
      'none', 'The answer is 41. There are 42 rows.']),
    ('number', '-5',
     ['-5', '−5', '–5', '-$5', '$-5', 'minus 5', 'negative 5', 'It falls to -5 °C', 'x = -5', '- 3 - 2 = -5'],
     ['5', '10-5', '- 5 apples', '3-5', 'pages 3–5']),
    ('number', '5', ['5', '- 5 apples', '3 + 2 = 5', 'pages 3–5', '8-3 is 5'], ['-5', '1-5-4']),
    ('number', '1000',
     ['1,000', '1 000', "1'000", '1_000', '1\u202f000', '1\\,000', '1{,}000', '1000.00', '1,000.00', '1.000,00',
      '10^3', '1e3', '1k', '$1K', 'one thousand is 1000', '10³', '1 thousand', 'USD 1,000', '1.000e3'],
     ['1.000', '1', '1 00', '1,0000']),
    ('number', '1', ['1.000', '1,0', '1', 'One.'], ['1,000', '1000', '10']),
    ({'grader': 'number', 'decimal': ','}, '1000', ['1.000', '1.000,00', '1000', '1 000,0'], ['1,000', '1']),
    ({'grader': 'number', 'decimal': ','}, '2,5', ['2,5', '2,50', '2.5'], ['25', '2.500']),
    ('number', '1234567.5', ['1,234,567.5', '1.234.567,5', '1 234 567,5', '1234567.50', '12,34,567.5'],
     ['1,234,567', '1.234.567']),
    ('number', '1500000', ['1.5 million', '$1.5M', '1,5 Mio.', '1.5e6', '1,5 Millionen €', '1500k'],
     ['1.5', '1.5M', '1.5 billion']),
    ('number', '300', ['300 K', '300K', '300'], ['$300K', '300k']),
    ('number', '12%', ['12', '12 %', '12 percent', '0.12', '12 Prozent', '12 por ciento'], ['0.12%', '1.2', '1200']),
    ('number', '0.12', ['12%', '0.12', '.12', '0,12', '12/100', '3/25'], ['12']),
    ('number', '1/3', ['1/3', '2/6', '\\frac13', '⅓', '\\frac{1}{3}'], ['0.33', '1/4', '13']),
    ('number', '3.5', ['3 1/2', '3½', '3 and 1/2', '7/2', '$3\\frac{1}{2}$', '3,5'], ['31/2', '3', '-3.5']),
    ({'grader': 'number', 'tolerance': 0.01}, '3.14159', ['3.14', '3.15', '22/7', 'about 3.14 (2 decimals)'],
     ['3.1', '3.16']),
    ({'grader': 'number', 'relative': 0.1}, '200', ['180', '220', '1.9 × 10^2'], ['179', '221']),
    ('number', '12345678901234567', ['12,345,678,901,234,567'], ['12345678901234568']),
    ('number', '3e8', ['3 × 10^8 m/s', '3·10⁸', '300,000,000', '3e+8', '3 \\times 10^{8}', '3*10**8'],
     ['3', '3 x 10^7', '3e-8']),
    ('choice', 'B',
     ['B', 'b', '(B)', 'B.', 'B)', '**B**', '**B.**', 'B) Rome', 'B. Rome', 'B: Rome', 'B - Rome', '(B) Rome',
      '**B) Rome**', 'The answer is B', 'The answer is (B).', 'The correct answer is **B**, as A is too old.',
      'Answer: B', 'Answer: b', '\\boxed{B}', '\\boxed{\\text{B}}', 'I think it is B.', 'Option B',
      'It must be option B because of C.', 'Option A is wrong; option B is right.',
      'A good look at the map shows (B).', 'A is not right. It is B.', 'Die Antwort ist B.', 'La respuesta es (B)',
      'B, because of the map', '(A) is wrong, so (B).', 'The answer is option B.',
      'First A seems right. The answer is A. No: the answer is B.', 'Choose B.'],
     ['A', 'C', 'A or B.', '(A) or (B)', 'A Roman would say so.', 'The answer is a B-movie', 'I think so.',
      'Neither.', 'AB', 'Bananas', 'B is wrong, so (C)', 'The answer is not B', 'A) Paris\nB) Rome\nC) New York',
      'Vitamin B is good', 'What a day!']),
    ('choice', 'A',
     ['A', '(A)', 'It is A.', 'The answer is A', 'The answer is A.', 'A) Paris', 'A. Paris', 'Answer: A - Paris',
      'A: it is'],
     ['A careful look shows nothing.', 'The answer is a bit unclear.', 'The answer is A big city.', 'What a day',
      'It is a cat.', 'An apple', 'a cat']),
    ({'grader': 'choice', 'options': CITIES}, 'C',
     ['C', 'New York', 'It is New York.', 'The answer is New York.', '(C) New York'],
     ['York', 'D', 'Paris or New York', 'The answer is York.']),
    ({'grader': 'choice', 'options': ['yes', 'no']}, 'yes',
     ['yes', 'Yes.', 'YES, it is.', '**Yes**', 'Answer: yes', 'The answer is yes.',
      'Yes, a sparrow is a bird. It is no fish.'],
     ['no', 'No, yes is wrong.', ' or no?', 'Yesterday', 'The answer is no.']),
    ({'grader': 'choice', 'options': ['spam', 'not spam']}, 'not spam',
     ['Not spam', 'This is not spam.', "not spam: it is a friend's"],
     ['spam', 'This is spam.', 'It is spam or not spam.']),
    ({'grader': 'choice', 'options': ['spam', 'ham']}, 'spam', ['This is spam.'], ['This is not spam.', 'ham']),
    ({'grader': 'regex', 'pattern': '\\b\\d{2}:\\d{2}\\b'}, '10:30', ['10:30', 'at 09:15 sharp'], ['1030', '10:3']),
    ({'grader': 'regex', 'pattern': '(?i)rome|roma', 'whole': True}, 'Rome', ['rome', ' ROMA\n'], ['in Rome']),
    ('contains', 'Paris', ['Paris', 'It is in paris, France.'], ['Parish', 'Rome']),
    ({'grader': 'contains', 'all': [['Tuesday', 'Dienstag'], '14:30']}, 'Tuesday, 14:30',
     ['On tuesday at 14:30.', 'Dienstag, 14:30 Uhr'], ['Tuesday', 'Tuesday 14:3', '14:30']),
    ({'grader': 'contains', 'any': ['car', 'bus'], 'none': ['train']}, 'bus', ['a bus', 'the CAR'],
     ['a bus or a train', 'cargo']),
    ({'grader': 'contains', 'none': ['the', 'sure']}, 'Fine.', ['Fine.', 'Surely.'], ['Sure, fine.']),
    ({'grader': 'json', 'schema': PERSON}, '{"name": "Ana", "age": 31}',
     ['{"name": "Ana", "age": 31}', '{"age": 31.0, "name": "Ana"}', '```json\n{"name": "Ana", "age": 31}\n```',
      'Here it is:\n```json\n{\n  "name": "Ana",\n  "age": 3.1e1\n}\n```\nLet me know [1]!',
      'Sure: {"name": " Ana", "age": 31} (done)', 'Not {"name": "Bo", "age": 2} but {"name": "Ana", "age": 31}',
      '5" of {"name": "Ana", "age": 31}'],
     ['{"name": "Ana"}', '{"name": "Ana", "age": "31"}', '{"name": "ana", "age": 31}',
      '{"name": "Ana", "age": 31, "city": "Graz"}', '{"name": "Ana", "age": 31, "age": 31}',
      '[{"name": "Ana", "age": 31}]', "{'name': 'Ana', 'age': 31}", '{"name": "Ana", "age": 31,}',
      '{"name": "Ana", "age": NaN}', '{"name": "Ana", "age": true}', 'Ana is 31.',
      '{"a": {"name": "Ana", "age": 31},}',
      '{' * 300,
      '[' * 5000]),
    ({'grader': 'json', 'unordered': True, 'ignore_case': True}, '{"a": ["x", "y"]}', ['{"a": ["Y", "x"]}'],
     ['{"a": ["x", "x"]}', '{"a": ["x"]}']),
    ({'grader': 'json', 'extra': True}, '{"a": {"b": 1}}', ['{"a": {"b": 1, "c": 2}, "d": 3}'],
     ['{"a": {"c": 1}}', '{"a": {"b": true}}']),
    ({'grader': 'json', 'schema': PERSON, 'compare': False}, '{"name": "Ana", "age": 1}',
     ['{"name": "Bo", "age": 0}'], ['{"name": "", "age": 1}']),
    ('json', '[1, 2]', ['[1,2]', '[1.0, 2e0]', 'It is [1, 2].'], ['[2, 1]', '[1, 2, 3]', '[true, 2]', '1, 2']),
    ('json', 'true', ['true', ' true '], ['1', '"true"', 'True']),
    ({'grader': 'constraints', 'rules': {'words': 3, 'no_commas': True, 'all_lowercase': True}}, 'one two three',
     ['a - b c', 'x y z.'], ['one two', 'one, two three', 'One two three']),
    ({'grader': 'constraints', 'rules': {'bullets': 2, 'starts_with': 'Tips:', 'ends_with': '!'}},
     'Tips:\n- eat\n- sleep!', ['Tips:\n* a\n• b!'], ['Tips:\n- a!', 'Hi Tips:\n- a\n- b!', 'Tips:\n- a\n- b']),
    ({'grader': 'constraints', 'rules': {'lines': 3, 'first_letters': 'sun', 'words_per_line': 2}},
     'Salt air\nUnder trees\nNo noise', ['so it\n\nuses now\nno one'],
     ['Salt\nUnder trees\nNo noise', 'a b\nc d\ne f']),
    ({'grader': 'constraints',
      'rules': {'sentences': 2, 'must_include': [['cat', 'dog']], 'must_not_include': ['mouse']}},
     'A cat sat. It slept.', ['The dog ran! Why?', 'Dog (3.5 kg). Ok.'],
     ['A cat.', 'A cat. A mouse.', 'A bird. A tree.']),
    ({'grader': 'constraints', 'rules': {'is_json': True, 'max_characters': 30}}, '{"a": 1}',
     ['[1]', '```json\n{"a": 2}\n```'], ['Here: {"a": 1}', '{"a": 1', '{"a": 1, "a": 2}', '7', '"[" "]"']),
    ({'grader': 'constraints', 'rules': {'numbered': 2, 'max_lines': 2, 'no_letters': 'e', 'sorted_lines': True}},
     '1. milk\n2. oil', ['1) a\n2) b'], ['1. tea\n2. oil', '2. oil\n1. milk', '1. milk']),
    ({'grader': 'constraints',
      'rules': {'all_uppercase': True, 'no_digits': True, 'paragraphs': 2, 'min_words': 2, 'min_characters': 4}},
     'YES\n\nNO', ['AB\n\nCD E'], ['YES NO', 'YES\n\nNo', 'Y1\n\nNO']),
    ({'grader': 'constraints', 'rules': {'sentences_by_paragraph': [1, 2], 'different_first_letters': True}},
     'All birds can.\n\nDogs eat. Fish go!', ['Ah.\n\nBe. Cy.'], ['Ah. Be.\n\nCy.', 'Ah. Be. Cy.', 'Ah.\n\nBe. Be.']),
    ({'grader': 'constraints', 'rules': {'only_letters': True, 'max_words': 2}}, 'Bon voyage', ['héllo'],
     ['a.', 'a b c', 'a1']),
]
# fmt: on
SPECS = [parse_grader(spec) for spec, *_ in TABLE]


def test_an_answer_gets_the_error_it_should():
    failures = []
    for grader, (spec, reference, right, wrong) in zip(SPECS, TABLE, strict=True):
        grader.check(reference)
        cases = [*((answer, 0) for answer in right), *((answer, 1) for answer in ["", " \n", *wrong])]
        failures += [(spec, reference, answer) for answer, error in cases if grader(answer, reference) != error]
    assert failures == []


def test_a_reference_that_its_grader_calls_wrong_is_refused():
    with pytest.raises(InvalidDataError, match=r"'many' is itself graded wrong .* by number"):
        parse_grader("number").check("many")


ODD = [
    "\ud800", "\0", "\\boxed{" * 3000, "{" * 5000, "[" * 5000, '{"a":' * 3000, "9" * 9000, "1," * 5000, "1/" * 5000,
    "(" * 9000, "**" * 5000, "`" * 9000, "```\n" * 2000, "answer is " * 3000, "1e999", "1e-999", "0^-5", "9^99", "1/0",
    "٣", "= " * 5000, "- " * 5000, "a " * 9000, " " * 9000 + "x", "-$-$-$5", "\\frac{}{}", "1 1/0", "\n" * 9000 + "A",
    '"' * 5000, "A" * 9000, "1 000" * 3000, "(A" * 4000, "NaN", "Infinity", "1e400", "answer of " * 2000,
    '{"a": 1e999}', "[" * 900 + "]" * 900, '{"a":' * 90 + "1" + "}" * 90, '{"age": ' + "9" * 400 + "}",
    "I cannot " * 3000, "**" + " " * 9000, "```\n" + " " * 9000, "answer" + " " * 9000,
]  # fmt: skip


ONE_OF_EACH = {grader.name: (grader, row[1]) for grader, row in zip(SPECS, TABLE, strict=True)}.values()


LARGE = [
    *(part * 15_000 for part in ("!!!", ".", '"', '\\"', "[1,", '{"', "½", " because", "1=", "\ufdfa", "-5")),
    "The answer is" + "!" * 50_000, "." * 50_000 + "x", '["' + '\\"' * 25_000, "answer is" + " " * 50_000 + "not",
    "[" + ",".join(map(str, range(9_000))) + "]", "e" + "\u0301\u0323" * 25_000, '{"x":' * 50 + "1" + "}" * 50,
    " because" * 3_000 + " so" + " because" * 3_000 + " 5", "[" + ",".join(['"' + "a" * 30 + 'b"'] * 1_400) + "]",
    "<think></think>" * 3_000, "<think>" * 7_000,
]  # fmt: skip
TWICE = {"oneOf": [{"properties": {"x": {"$ref": "#"}}}, {"properties": {"x": {"$ref": "#"}, "y": {"type": "string"}}}]}
HARD = [
    *ONE_OF_EACH,
    (parse_grader({"grader": "constraints", "rules": {"sentences": 1, "paragraphs": 1}}), "One."),
    (parse_grader({"grader": "json", "schema": {"uniqueItems": True, "items": {"pattern": "^(a+)+$"}}}), "[1]"),
    (parse_grader({"grader": "json", "unordered": True, "extra": True}), "[1]"),
    (parse_grader({"grader": "json", "schema": TWICE, "compare": False}), "{}"),
]


def test_no_answer_makes_a_grader_raise_or_hang():
    slow = []
    for answer in [*ODD, *LARGE]:
        for grader, reference in HARD:
            started = time.process_time()
            assert grader(answer, reference) in (0, 1)
            if len(answer) < 10_000:
                assert grader(reference, answer) in (0, 1)
            if time.process_time() - started > 3 * rules.SECONDS:  # quadratic time would be minutes
                slow.append((grader.spec, answer[:30]))
        is_refusal(answer)
    assert slow == []


def test_a_slow_pattern_gets_its_whole_second_and_leaves_other_threads_and_the_event_loop_free():
    slow, done = parse_grader({"grader": "regex", "pattern": "(a+)+$"}), threading.Event()

    def compute():  # the processor time of which is not the pattern's
        while not done.is_set():
            hashlib.sha256(bytes(10**6))

    def grade():
        used = time.thread_time()
        return slow("a" * 5000 + "!", "a"), time.thread_time() - used

    async def beside():
        grading, ticks = asyncio.create_task(asyncio.to_thread(grade)), 0
        while not grading.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return *grading.result(), ticks

    threading.Thread(target=compute).start()
    try:
        error, used, ticks = asyncio.run(beside())
    finally:
        done.set()
    assert error == 1
    assert used > 0.9 * rules.SECONDS
    assert ticks > 5  # it would be 1, were the loop blocked
    assert parse_grader({"grader": "regex", "pattern": r"(.+)\1b"})("b" + "a" * 20_000, "a") == 1  # of cubic time


def unlimited_repeats(parsed):
    """Yield each repeat without a maximum in a parsed regular expression."""
    for operation, argument in parsed:
        if operation in (re._parser.MAX_REPEAT, re._parser.MIN_REPEAT) and argument[1] > 1000:
            yield argument
        for inner in argument if isinstance(argument, tuple | list) else ():
            for part in inner if isinstance(inner, list) else [inner]:
                if isinstance(part, re._parser.SubPattern):
                    yield from unlimited_repeats(part)


def test_no_pattern_of_ours_repeats_without_a_limit():
    values = [value for module in (text, number, rules) for value in vars(module).values()]
    values += [part for value in values if isinstance(value, tuple) for part in value]  # tuples of patterns
    values += [part for value in values if isinstance(value, tuple) for part in value]  # of pairs
    patterns = [value for value in values if isinstance(value, re.Pattern)]
    assert len(patterns) > 40
    assert list(unlimited_repeats(re._parser.parse("(a|(b+))?"))) != []
    assert [p.pattern for p in patterns if list(unlimited_repeats(re._parser.parse(p.pattern, p.flags)))] == []


def test_of_a_long_answer_the_beginning_and_the_end_are_graded():
    long = "x " * text.LONGEST
    assert parse_grader("number")(f"{long} 42", "42") == 0
    assert parse_grader("choice")(f"B) Rome\n{long}", "B") == 0
    assert parse_grader({"grader": "constraints", "rules": {"max_characters": text.LONGEST}})(long, "x") == 1


# Thoughts, and not knowing

ANSWERED = [
    "<think>41? No.</think>42", "41? No.\n</think>\n\n42", "<thinking>41</thinking>The answer is 42.", "42",
    "<think>The answer is 41.</think>\n**42**", "<think>41</think> 42 <think>or 41? no", "[THINK]41[/THINK]42",
    "<think>a <think> tag?</think>42", "<think>4</think>41</think>42", "<THINK>41</THINK> 42", "42 <think>41</think>",
    "◁think▷41◁/think▷42", "<reasoning>41</reasoning>\n42", "<think>" + "41 " * 90_000 + "</think>42",
]  # fmt: skip
UNANSWERED = ["<think>42</think>", "<think>42", "42</think>\n", "<think>\n42 is the answer. 42", "[THINK]42"]


def test_the_answer_after_the_thoughts_is_graded():
    grader = parse_grader("number")
    assert [answer[:60] for answer in ANSWERED if grader(answer, "42") != 0] == []
    assert [answer for answer in UNANSWERED if grader(answer, "42") != 1] == []
    assert grader("42", "<think>41?</think>42") == 0  # of answers that are compared with each other


def test_thoughts_are_no_answer_for_any_grader():
    for grader, (_, reference, right, _) in zip(SPECS, TABLE, strict=True):
        for answer in (reference, right[0]):
            assert grader(f"<think>Hmm, {reference}?</think>\n{answer}", reference) == 0
            assert grader(f"<think>{answer}", reference) == grader(f"{answer}\n</think>", reference) == 1
    assert not is_refusal("<think>I cannot help with that.</think> 42")
    assert Grader("mine", lambda answer, reference: answer != reference)("<think>x</think>y", "y") == 0


SHRUGS = [
    "I do not know.", "I don't know", "I don’t know, sorry.", "Sorry, I do not know. Please ask again.", "Not sure.",
    "I'm not sure.", "I have no idea.", "No idea!", "I do not know what 6 times 7 is.",
    "I don't know if it is A or yes.",
    "Ich weiß es nicht.", "Je ne sais pas.", "No lo sé.", "N/A", "The answer is: I do not know.", "**I do not know.**",
    "I cannot say whether it is A.", "I'm not certain about the answer. There is no information.", "IDK",
]  # fmt: skip
ANYTHING = [
    ({"grader": "regex", "pattern": r"\w"}, "x"), ({"grader": "constraints", "rules": {"max_words": 20}}, "x"),
    ({"grader": "contains", "none": ["zebra"]}, "x"), ({"grader": "choice", "options": ["yes", "no"]}, "no"),
    ({"grader": "choice", "options": ["yes", "no"]}, "yes"), ("choice", "A"), ("number", "7"), ("contains", "i"),
]  # fmt: skip


def test_not_knowing_is_never_right_by_accident():
    lucky = [(a, spec) for a in SHRUGS for spec, reference in ANYTHING if parse_grader(spec)(a, reference) != 1]
    assert lucky == []


def test_not_knowing_is_right_where_it_is_what_was_wanted():
    assert parse_grader("text")("I do not know.", "I do not know") == 0
    assert parse_grader({"grader": "contains", "any": ["don't know", "unknown"]})("I don't know.", "unknown") == 0
    assert parse_grader({"grader": "regex", "pattern": r"(?i)\b(don't know|unsure)\b"})("I don't know.", "") == 0


def test_an_answer_with_a_doubt_is_graded():
    assert parse_grader("number")("I'm not sure, but I think it is 42.", "42") == 0
    assert parse_grader({"grader": "constraints", "rules": {"max_words": 9}})("No idea is too small.", "x") == 0
    poem = "I don't know why the rain falls,\nit sings on the walls."
    assert parse_grader({"grader": "constraints", "rules": {"lines": 2}})(poem, "x") == 0


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80), st.text(max_size=80))
def test_thoughts_change_no_grade(thoughts, answer):
    for grader, reference in ONE_OF_EACH:
        plain = grader(answer, reference)
        assert plain in (0, 1)
        assert grader(f"<think>{thoughts}</think>{answer}", reference) == plain


# Any text


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80), st.sampled_from(range(len(TABLE))))
def test_any_text_gets_an_error_of_0_or_1(answer, row):
    grader, (_, reference, *_) = SPECS[row], TABLE[row]
    assert grader(answer, reference) in (0, 1)


pieces = st.sampled_from([
    "A", "B", "the answer is ", "(", ")", "{", "}", "[", '"a"', ":", ",", "1", "23", ".", "/", "-", "$", "\\boxed{",
    "\\frac", "^", " ", "\n", "```", "**", "e", "10", "%", "not ", "=", "I ", "half", "ten",
])  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(pieces, max_size=25).map("".join))
def test_any_mix_of_grader_markup_is_graded(answer):
    for grader, (_, reference, *_) in zip(SPECS, TABLE, strict=True):
        assert grader(answer, reference) in (0, 1)


def spaced(n):
    return f"{n:,}".replace(",", "\u202f")


WAYS = [
    str, "{:,}".format, spaced, "{:_}".format, "{}.0".format, "${:,}".format, "{:,} €".format, "{:,}%".format,
    "{} km/h".format, "**{:,}**".format, "\\boxed{{{:,}}}".format, "\\({}\\)".format, "The answer is {:,}.".format,
    "Answer: {}".format, "#### {}".format, "It was 17, now 3 × 4 + 5 = {:,}".format,
    "{:,}\n\nAs 12 and 30 show.".format,
    "1. Take 8.\n2. Add 9.\n3. Get {}.".format, "So **{:,}** in all, for 12 people.".format, lambda n: f"{n * 4}/4",
    lambda n: f"{Fraction(n, 1000)} thousand", "{} (rounded to 2 places)".format,
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**7), st.sampled_from(WAYS))
@example(0, str)
def test_a_number_is_right_in_every_way_of_writing_it(n, way):
    assert parse_grader("number")(way(n), str(n)) == 0
    assert parse_grader("number")(way(n), str(n + 1)) == 1


@settings(max_examples=100, deadline=None)
@given(st.decimals("-9999", "9999", places=2))
def test_a_decimal_is_right_in_english_german_and_scientific_form(value):
    english = parse_grader("number")
    forms = [
        f"{value:,}",
        f"{value} m",
        f"{value:.6e}",
        f"It is {value:,}.",
        f"{value:,}".translate(str.maketrans(",.", ".,")),
    ]
    assert [english(form, str(value)) for form in forms] == [0] * len(forms)


LETTER_WAYS = ["{}", "({})", "{}.", "**{}**", "The answer is {}.", "Answer: {}", "\\boxed{{{}}}"]


@given(st.sampled_from("ABCDEFGHIJ"), st.sampled_from(LETTER_WAYS))
def test_a_letter_is_found_in_every_way_of_writing_it(letter, way):
    assert parse_grader("choice")(way.format(letter), letter) == 0
    assert parse_grader("choice")(way.format(letter), "C" if letter != "C" else "D") == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text('abcé "{}[]\\', max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("xyz", min_size=1), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=2), json_values, min_size=1, max_size=3),
    st.sampled_from([None, 2]),
)
def test_a_json_value_is_found_in_a_fence_and_in_prose_whatever_its_layout(value, indent):
    reference, written = json.dumps(value), json.dumps(dict(reversed(value.items())), indent=indent, ensure_ascii=False)
    for answer in (written, f"Sure!\n```json\n{written}\n```\nOK?", f"Here: {written} - that's it."):
        assert parse_grader("json")(answer, reference) == 0


def test_the_last_value_counts_whatever_is_wrong_with_those_before():
    for answer in (
        '{"a": NaN} no:\n```json\n{"a": 1}\n```',
        'Not {"a": 1, "a": 2} but {"a": 1}',
        '[see below] {"a": 1}',
    ):
        assert parse_grader("json")(answer, '{"a": 1}') == 0
    assert parse_grader("json")('{"a": 1} or {"a": NaN}', '{"a": 1}') == 1


def test_a_json_schema_is_the_whole_standard():
    tree = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$defs": {"leaf": {"anyOf": [{"type": "number"}, {"type": "null"}]}},
        "oneOf": [{"$ref": "#/$defs/leaf"}, {"type": "object", "additionalProperties": {"$ref": "#"}}],
    }
    grader = parse_grader({"grader": "json", "schema": tree, "compare": False})
    assert [grader(answer, "1") for answer in ('{"a": {"b": null, "c": 2.5}}', "7", '{"a": "x"}', "[1]")] == [
        0,
        0,
        1,
        1,
    ]
    assert parse_grader({"grader": "json", "schema": {"$ref": "#"}})("1", "1") == 1  # never comes to an end


REFUSED = [
    ("fuzzy", r"No grader is named 'fuzzy'; use one of exact, text, number"),
    (
        {"grader": "number", "tolerence": 1},
        r"'number' has no parameter 'tolerence'; it has tolerance, relative, decimal",
    ),
    ({"grader": "number", "tolerance": "1"}, r"'tolerance' of the grader 'number': .* valid number, not '1'"),
    ({"grader": "number", "tolerance": -1}, r"'tolerance' .* greater than or equal to 0, not -1"),
    ({"grader": "number", "tolerance": float("nan")}, r"'tolerance' .* finite number, not nan"),
    ({"grader": "number", "decimal": ";"}, r"'decimal' .* should be '\.' or ',', not ';'"),
    ({"grader": "regex"}, r"'regex' needs 'pattern'"),
    ({"grader": "regex", "pattern": "(a"}, r"'\(a' is not a regular expression"),
    ({"grader": "choice", "options": []}, r"Options are a list of texts"),
    ({"grader": "choice", "options": {"Z": "x"}}, r"Option letters are A to J, not 'Z'"),
    ({"grader": "regex", "pattern": "(?:ab|c){1000000}"}, r"too long a pattern, or its counts multiply to more"),
    ({"grader": "contains", "all": []}, r"'all' of the grader 'contains': .* at least 1 item"),
    ({"grader": "contains", "all": [" "]}, r"'all\..*' of the grader 'contains': "),
    ({"grader": "contains", "all_of": ["a"]}, r"has no parameter 'all_of'; it has all, any, none"),
    ({"grader": "json", "schema": {"anyOf": []}}, r"'anyOf' is not JSON Schema .*: \[\] should be non-empty"),
    ({"grader": "json", "schema": {"type": "int"}}, r"'type' is not JSON Schema .*: 'int' is not valid"),
    ({"grader": "json", "schema": {"properties": {"a": 3}}}, r"'properties/a' is not JSON Schema .*: 3 is not of type"),
    ({"grader": "json", "schema": {"items": {"pattern": "("}}}, r"'items/pattern' .*: '\(' is not a 'regex'"),
    ({"grader": "json", "schema": {"pattern": "a{1000000000}"}}, r"too long a pattern, or its counts multiply"),
    ({"grader": "json", "schema": {"$ref": "https://x.org/s"}}, r"refers to 'https://x.org/s', which is not in it"),
    ({"grader": "json", "schema": {"$ref": "#/$defs/a"}}, r"refers to '.*/\$defs/a', which is not in it"),
    ({"grader": "json", "schema": {"patternProperties": {}}}, r"'patternProperties' is not known here"),
    ({"grader": "constraints", "rules": {}}, r"has no rules; give some of words, min_words"),
    ({"grader": "constraints", "rules": {"max_wrds": 3}}, r"rule 'max_wrds' is not known"),
    ({"grader": "constraints", "rules": {"max_words": "3"}}, r"rule 'max_words': .* valid integer, not '3'"),
    ({"grader": "similarity", "at_least": 0.8}, r"needs an embedder"),
    ({"name": "exact"}, r'A grader is a name or \{"grader": name'),
    ('{"grader": ', r"is not JSON"),
    (7, r"not 7"),
]


def test_a_spec_that_cannot_be_used_is_refused_with_the_cure():
    for spec, message in REFUSED:
        with pytest.raises(InvalidDataError, match=message):
            parse_grader(spec)


def test_a_spec_survives_being_written_and_read():
    for grader in SPECS:
        again = parse_grader(grader.spec)
        assert (again, again.key) == (grader, grader.key)
        assert grader.key.endswith(f" v{GRADER_VERSION}")


def test_the_table_covers_every_grader_but_the_one_that_needs_an_embedder():
    assert {grader.name for grader in SPECS} == set(GRADERS) - {"similarity"}


def test_a_function_of_the_user_grades_under_its_own_name():
    half = parse_grader("half", functions={"half": lambda answer, reference: 0.5})
    assert half("x", "y") == 0.5
    assert half("", "y") == 1
    with pytest.raises(InvalidDataError, match="'half' is a function and takes no parameters, not limit"):
        parse_grader({"grader": "half", "limit": 1}, functions={"half": half.grade})


def test_a_function_of_the_user_must_return_an_error():
    for given_error in (2, -0.1, float("nan"), None):
        with pytest.raises(InvalidDataError, match=r"The grader 'mine' (gave|failed) .*error (must be )?in \[0, 1\]"):
            Grader("mine", lambda answer, reference, error=given_error: error)("x", "y")


def test_similarity_takes_answers_near_the_reference():
    embedder = as_embedder(lambda texts: [[text.count("a"), text.count("b")] for text in texts])
    near = parse_grader({"grader": "similarity", "at_least": 0.7}, embedder=embedder)
    assert [near(answer, "aaaa") for answer in ("aa", "ab", "abb", "b", "zzz")] == [0, 0, 1, 1, 1]  # ab: cosine 0.707


def test_a_number_in_the_reasoning_is_not_the_answer():
    for name, reference in (("number", "7"), ("text", "7"), ("choice", "B")):
        assert parse_grader(name)("Some would say 7 or B. But the answer is D, that is 9.", reference) == 1


REFUSALS = [
    "I'm sorry, but I can't help with that.", "I cannot assist with this request.",
    "As an AI language model, I cannot do this.", "I’m unable to provide that information.",
    "I won't help with that.", "Sorry, I can't do that.", "This is against my guidelines.",
    "Es tut mir leid, dabei kann ich nicht helfen.", "Je ne peux pas vous aider.",
    "Lo siento, no puedo ayudar con eso.", "I am not able to discuss this.",
]  # fmt: skip
NO_REFUSALS = [
    "I do not know.", "42", "", "I can't find any error in the code; it prints 4.",
    "She said: sorry, I can't come on Friday.", "The library cannot help you load CSV files faster.",
    "I'm sorry, but I can't attend the meeting tomorrow.", "No.",
]  # fmt: skip


def test_refusals_are_distinguished_from_wrong_answers():
    assert [text for text in REFUSALS if not is_refusal(text)] == []
    assert [text for text in NO_REFUSALS if is_refusal(text)] == []


def test_what_is_no_one_number_is_not_made_one():
    assert [final_number(text) for text in ("", "1.2.3", "1/0", "room12")] == [None] * 4
    assert final_number("(3, 4)").value == 4


def test_a_text_is_made_comparable_once_for_all_phrases():
    spec = {"grader": "constraints", "rules": {"must_not_include": [f"phrase {n}" for n in range(300)]}}
    text.normalised.cache_clear()
    assert parse_grader(spec)("Café, au lait. " * 100, "x") == 0
    assert text.normalised.cache_info().misses == 301


def test_a_schema_or_a_rule_that_python_cannot_show_is_refused():
    schema = {}
    for _ in range(5000):
        schema = {"items": schema}
    for spec in ({"grader": "json", "schema": schema}, {"grader": "constraints", "rules": {"words": 10**5000}}):
        with pytest.raises(InvalidDataError, match=r"thousands of digits|too deeply"):
            parse_grader(spec)


def test_a_grader_nested_too_deeply_to_be_read_is_refused():
    with pytest.raises(InvalidDataError, match="is not JSON"):
        parse_grader('{"grader": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(InvalidDataError, match="is not a JSON schema"):
        parse_grader({"grader": "json", "schema": functools.reduce(lambda inner, _: {"not": inner}, range(9_000), {})})
