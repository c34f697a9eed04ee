import datetime

import numpy as np
import pytest

from unirouter_core.costs import Prices
from unirouter_core.data import Evaluation, Outcomes, ValidationSet
from unirouter_core.exceptions import InvalidDataError, UnknownModelError

PROMPTS = ["2 + 2?", "3 + 4?", "A poem."]
VALIDATION = ValidationSet(PROMPTS)


# --- ValidationSet ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompts", [[], ["2 + 2?"]])
def test_a_validation_set_needs_two_prompts(prompts):
    with pytest.raises(InvalidDataError, match=f"{len(prompts)} validation prompts are too few; give at least 2"):
        ValidationSet(prompts)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [(["2 + 2?", " "], "Prompt 1 is empty; remove it"), (["2 + 2?", 4.5], "Prompt 1 is float 4.5, not a string")],
)
def test_a_validation_prompt_without_text_is_refused(prompts, message):
    with pytest.raises(InvalidDataError, match=message):
        ValidationSet(prompts)


@pytest.mark.parametrize("name", ["references", "graders", "messages", "documents"])
def test_there_is_one_of_each_for_each_prompt(name):
    with pytest.raises(InvalidDataError, match=f"3 prompts but 2 {name}; give one for each"):
        ValidationSet(PROMPTS, **{name: [[], []]})


def test_known_outcomes_are_of_the_same_prompts_in_the_same_order():
    known = Outcomes(PROMPTS, ["poet"], [[1], [1], [0]])
    assert ValidationSet(PROMPTS, known=known).known is known
    for rows in ([2, 1, 0], [0, 1]):
        with pytest.raises(InvalidDataError, match=f"of {len(rows)} other prompts; give those of these 3, in order"):
            ValidationSet(PROMPTS, known=known.rows(rows))


# --- Evaluation -------------------------------------------------------------------------------------------------------


def test_a_failed_call_is_no_wrong_answer():
    evaluation = Evaluation("poet", VALIDATION, [np.nan, 1.0, 0.0], failed=[1, 0, 0])
    assert evaluation.error == 0.5
    assert evaluation.failed.tolist() == [True, False, False]
    assert evaluation.truncated.tolist() == [False] * 3


@pytest.mark.parametrize("errors", [[np.nan] * 3, [1.0, np.nan, None]])
def test_an_evaluation_needs_two_usable_answers(errors):
    usable = int((~np.isnan(np.array(errors, float))).sum())
    with pytest.raises(InvalidDataError, match=f"'poet' has {usable} usable answers; give at least 2"):
        Evaluation("poet", VALIDATION, errors)


@pytest.mark.parametrize("value", [1.01, -1.0, np.inf])
def test_an_error_outside_0_to_1_is_refused(value):
    message = rf"'poet': errors: {value:g} must be in \[0, 1\]; give 1 - quality"
    with pytest.raises(InvalidDataError, match=message):
        Evaluation("poet", VALIDATION, [0.0, 1.0, value])


@pytest.mark.parametrize("name", ["costs", "tokens_in", "tokens_out", "latencies"])
@pytest.mark.parametrize("value", [-0.5, np.inf])
def test_an_amount_below_0_or_without_end_is_refused(name, value):
    with pytest.raises(InvalidDataError, match=f"'poet': {name}: {value:g} must be finite and >= 0; leave unknown"):
        Evaluation("poet", VALIDATION, [0, 1, 1], **{name: [0, 1, value]})


@pytest.mark.parametrize("name", ["errors", "costs", "tokens_in", "tokens_out", "latencies", "failed", "truncated"])
def test_a_column_has_one_number_for_each_prompt(name):
    columns = {"errors": [0, 1, 1], name: [0, 1]}
    with pytest.raises(InvalidDataError, match=rf"'poet': {name} has shape \(2,\), but 3 prompts need \(3,\)"):
        Evaluation("poet", VALIDATION, **columns)
    with pytest.raises(
        InvalidDataError, match=f"'poet': {name} is no array of numbers .*; give one row for each prompt"
    ):
        Evaluation("poet", VALIDATION, **{**columns, name: ["no", "yes", "no"]})


@pytest.mark.parametrize("model", ["", "  ", None, 4])
def test_a_model_has_a_name(model):
    with pytest.raises(InvalidDataError, match=f"must be a string that is not blank, not {model!r}"):
        Evaluation(model, VALIDATION, [0, 1, 1])


def test_the_date_is_todays_unless_it_is_told():
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    assert Evaluation("poet", VALIDATION, [0, 1, 1]).provenance["date"] in (today, tomorrow(today))
    told = Evaluation("poet", VALIDATION, [0, 1, 1], provenance={"date": "2025-01-01", "grader": "exact"})
    assert told.provenance == {"date": "2025-01-01", "grader": "exact"}


def tomorrow(day):
    """The test may run at midnight."""
    return (datetime.date.fromisoformat(day) + datetime.timedelta(days=1)).isoformat()


def test_recorded_outcomes_are_an_evaluation_with_the_whole_table_known():
    prices = Prices(1.0, 2.0)
    table = Outcomes(
        PROMPTS, ["poet", "sage"], [[1, 0], [1, 0], [0, 0]], [[1, 9], [2, 9], [3, 9]], prices={"poet": prices}
    )
    evaluation = Evaluation.recorded("poet", table)
    assert evaluation.errors.tolist() == [1, 1, 0]
    assert evaluation.costs.tolist() == [1, 2, 3]
    assert evaluation.prices is prices
    assert evaluation.validation.known is table
    assert Evaluation.recorded("poet", table, prices=Prices(5, 5)).prices == Prices(5, 5)


def test_only_a_model_of_the_table_with_two_answers_can_be_recorded():
    table = Outcomes(PROMPTS, ["poet", "sage"], [[1, np.nan], [1, np.nan], [0, 1]])
    with pytest.raises(UnknownModelError, match="'bard' is not in the table"):
        Evaluation.recorded("bard", table)
    with pytest.raises(InvalidDataError, match="'sage' has 1 usable answers"):
        Evaluation.recorded("sage", table)


def test_usd_is_as_recorded_else_by_tokens_else_not_known():
    evaluation = Evaluation(
        "poet",
        VALIDATION,
        [0, 1, 1],
        costs=[0.5, np.nan, np.nan],
        tokens_in=[np.nan, 7, np.nan],
        tokens_out=[10, 10, 10],
        prices=Prices(1e6, 2e6),  # $1 and $2 a token
    )
    assert evaluation.usd(np.array([3.0, 4.0, 5.0])).tolist() == [0.5, 7 + 2 * 10, 5 + 2 * 10]
    for prices in (None, Prices(1.0, 2.0)):
        assert np.isnan(Evaluation("poet", VALIDATION, [0, 1, 1], prices=prices).usd(np.ones(3))).all()


def test_answers_that_cost_nothing_need_no_tokens():
    evaluation = Evaluation("local", VALIDATION, [0, 1, 1], prices=Prices(1e6, 0.0))
    assert evaluation.usd(np.array([3.0, 4.0, 5.0])).tolist() == [3.0, 4.0, 5.0]


def test_an_error_beside_a_failed_call_is_dropped():
    measured = Evaluation("poet", ValidationSet(["a", "b", "c"]), [1, 0, 1], failed=[True, False, False])
    assert np.isnan(measured.errors[0])
    assert measured.error == 0.5


def test_prices_that_are_given_count_for_more_than_recorded_usd():
    measured = Evaluation(
        "poet",
        ValidationSet(["a", "b"]),
        [1, 0],
        costs=[9, 9],
        tokens_in=[1e6, 1e6],
        tokens_out=[0, 0],
        prices=Prices(2.0, 3.0),
    )
    assert measured.usd(np.ones(2)).tolist() == [2.0, 2.0]
