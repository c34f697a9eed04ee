import datetime

import numpy as np
import pytest

from unirouter_core.costs import Prices
from unirouter_core.data import Evaluation, Outcomes, ValidationSet
from unirouter_core.exceptions import InvalidDataError, UnknownModelError

TWO, MODELS = ["2 + 2?", "A poem."], ["poet", "sage"]
ERRORS = [[1, 0], [0, 0]]


def test_values_not_given_are_nan():
    table = Outcomes(TWO, MODELS, [[1, None], [np.nan, 0]])
    assert np.isnan(table.errors).tolist() == [[False, True], [True, False]]
    for array in (table.costs, table.tokens_in, table.tokens_out):
        assert array.shape == (2, 2)
        assert np.isnan(array).all()
    assert table.prices == {}


def test_rows_and_models_are_taken_in_the_given_order():
    table = Outcomes(TWO, MODELS, ERRORS, costs=[[1, 2], [3, 4]], prices={"poet": Prices(1, 2)})
    turned = table.rows([1, 0]).of(["sage", "poet"])
    assert (turned.prompts, turned.models) == (("A poem.", "2 + 2?"), ("sage", "poet"))
    assert turned.errors.tolist() == [[0, 0], [0, 1]]
    assert turned.costs.tolist() == [[4, 3], [2, 1]]
    assert table.of(["sage"]).prices == {}
    assert len(table.rows([])) == 0


def test_a_model_that_is_not_in_the_table_is_named_with_those_that_are():
    with pytest.raises(UnknownModelError, match="'bard' is not in the table; it holds 'poet', 'sage'"):
        Outcomes(TWO, MODELS, ERRORS).of(["poet", "bard"])


def test_what_is_done_later_to_the_callers_arrays_changes_nothing():
    errors, costs = np.array(ERRORS, np.float32), np.ones((2, 2))
    table = Outcomes(TWO, MODELS, errors, costs)
    errors[:], costs[:] = 0.5, 7.0
    assert table.errors.tolist() == ERRORS
    assert table.costs.tolist() == [[1, 1], [1, 1]]


def test_a_prompt_without_text_is_refused():
    for prompts, message in [
        ("2 + 2?", "list of strings, not one string '2 \\+ 2\\?'; put it in a list"),
        (["2 + 2?", ""], "Prompt 1 is empty; remove it or give it text"),
        (["2 + 2?", " \n\t"], "Prompt 1 is empty; remove it"),
        ([None, "A poem."], "Prompt 0 is NoneType None, not a string"),
        (["2 + 2?", 4], "Prompt 1 is int 4, not a string"),
    ]:
        with pytest.raises(InvalidDataError, match=message):
            Outcomes(prompts, MODELS, ERRORS)


def test_an_error_outside_0_to_1_in_a_table_is_refused():
    for value in [1.5, -0.1, np.inf, -np.inf]:
        with pytest.raises(InvalidDataError, match=rf"errors: {value:g} must be in \[0, 1\]; give 1 - quality"):
            Outcomes(TWO, MODELS, [[1, 0], [value, 0]])


def test_a_negative_or_infinite_cost_or_count_is_refused():
    for value in [-2.0, np.inf]:
        for name in ["costs", "tokens_in", "tokens_out"]:
            with pytest.raises(
                InvalidDataError, match=f"{name}: {value:g} must be finite and >= 0; leave unknown ones NaN"
            ):
                Outcomes(TWO, MODELS, ERRORS, **{name: [[0, value], [0, 0]]})


def test_shapes_that_differ_are_refused():
    for name in ["costs", "tokens_in", "tokens_out"]:
        with pytest.raises(
            InvalidDataError, match=rf"{name} has shape \(2, 1\), but 2 prompts and 2 models need \(2, 2\)"
        ):
            Outcomes(TWO, MODELS, ERRORS, **{name: [[1], [1]]})
        with pytest.raises(InvalidDataError, match=r"errors has shape \(2, 2\), but 1 prompts and 2 models"):
            Outcomes(TWO[:1], MODELS, ERRORS)


def test_what_is_no_table_of_numbers_is_refused():
    for errors in [[[1, 0], [0]], [["right", "wrong"], [0, 1]]]:
        with pytest.raises(InvalidDataError, match=r"errors is no array of numbers .*; give one row for each prompt"):
            Outcomes(TWO, MODELS, errors)


def test_a_duplicate_model_is_refused():
    with pytest.raises(InvalidDataError, match="'poet' stands twice in the table; merge its columns or rename one"):
        Outcomes(TWO, ["poet", "poet"], ERRORS)


PROMPTS = ["2 + 2?", "3 + 4?", "A poem."]
VALIDATION = ValidationSet(PROMPTS)


# --- ValidationSet ----------------------------------------------------------------------------------------------------


def test_a_list_that_is_changed_afterwards_changes_no_validation_set():
    given = {"prompts": ["a", "b"], "references": ["1", "2"], "graders": ["", ""], "documents": [["c"], None]}
    validation = ValidationSet(**given)
    for name, one_each in given.items():
        one_each.pop()
        assert len(getattr(validation, name)) == 2, name


def test_a_validation_set_needs_two_prompts():
    for prompts in [[], ["2 + 2?"]]:
        with pytest.raises(InvalidDataError, match=f"{len(prompts)} validation prompts are too few; give at least 2"):
            ValidationSet(prompts)


def test_a_validation_prompt_without_text_is_refused():
    for prompts, message in [
        (["2 + 2?", " "], "Prompt 1 is empty; remove it"),
        (["2 + 2?", 4.5], "Prompt 1 is float 4.5, not a string"),
    ]:
        with pytest.raises(InvalidDataError, match=message):
            ValidationSet(prompts)


def test_there_is_one_of_each_for_each_prompt():
    for name in ["references", "graders", "messages", "documents"]:
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


def test_an_evaluation_needs_two_usable_answers():
    for errors in [[np.nan] * 3, [1.0, np.nan, None]]:
        usable = int((~np.isnan(np.array(errors, float))).sum())
        with pytest.raises(InvalidDataError, match=f"'poet' has {usable} usable answers; give at least 2"):
            Evaluation("poet", VALIDATION, errors)


def test_an_error_outside_0_to_1_is_refused():
    for value in [1.01, -1.0, np.inf]:
        message = rf"'poet': errors: {value:g} must be in \[0, 1\]; give 1 - quality"
        with pytest.raises(InvalidDataError, match=message):
            Evaluation("poet", VALIDATION, [0.0, 1.0, value])


def test_an_amount_below_0_or_without_end_is_refused():
    for value in [-0.5, np.inf]:
        for name in ["costs", "tokens_in", "tokens_out", "latencies"]:
            with pytest.raises(
                InvalidDataError, match=f"'poet': {name}: {value:g} must be finite and >= 0; leave unknown"
            ):
                Evaluation("poet", VALIDATION, [0, 1, 1], **{name: [0, 1, value]})


def test_a_column_has_one_number_for_each_prompt():
    for name in ["errors", "costs", "tokens_in", "tokens_out", "latencies", "failed", "truncated"]:
        columns = {"errors": [0, 1, 1], name: [0, 1]}
        with pytest.raises(InvalidDataError, match=rf"'poet': {name} has shape \(2,\), but 3 prompts need \(3,\)"):
            Evaluation("poet", VALIDATION, **columns)
        with pytest.raises(
            InvalidDataError, match=f"'poet': {name} is no array of numbers .*; give one row for each prompt"
        ):
            Evaluation("poet", VALIDATION, **{**columns, name: ["no", "yes", "no"]})


def test_a_model_has_a_name():
    for model in ["", "  ", None, 4]:
        with pytest.raises(InvalidDataError, match=f"must be a string that is not blank, not {model!r}"):
            Evaluation(model, VALIDATION, [0, 1, 1])


def test_the_date_defaults_to_today():
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    assert Evaluation("poet", VALIDATION, [0, 1, 1]).provenance["date"] in (today, tomorrow(today))
    dated = Evaluation("poet", VALIDATION, [0, 1, 1], provenance={"date": "2025-01-01", "grader": "exact"})
    assert dated.provenance == {"date": "2025-01-01", "grader": "exact"}


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
