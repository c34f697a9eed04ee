import numpy as np
import pytest

from unirouter_core.costs import Prices
from unirouter_core.data import Outcomes
from unirouter_core.exceptions import InvalidDataError, UnknownModelError

PROMPTS, MODELS = ["2 + 2?", "A poem."], ["poet", "sage"]
ERRORS = [[1, 0], [0, 0]]


def test_what_is_not_given_is_not_known():
    table = Outcomes(PROMPTS, MODELS, [[1, None], [np.nan, 0]])
    assert np.isnan(table.errors).tolist() == [[False, True], [True, False]]
    for array in (table.costs, table.tokens_in, table.tokens_out):
        assert array.shape == (2, 2)
        assert np.isnan(array).all()
    assert table.prices == {}


def test_rows_and_models_are_taken_in_the_order_asked_for():
    table = Outcomes(PROMPTS, MODELS, ERRORS, costs=[[1, 2], [3, 4]], prices={"poet": Prices(1, 2)})
    turned = table.rows([1, 0]).of(["sage", "poet"])
    assert (turned.prompts, turned.models) == (("A poem.", "2 + 2?"), ("sage", "poet"))
    assert turned.errors.tolist() == [[0, 0], [0, 1]]
    assert turned.costs.tolist() == [[4, 3], [2, 1]]
    assert table.of(["sage"]).prices == {}
    assert len(table.rows([])) == 0


def test_a_model_that_is_not_in_the_table_is_named_with_those_that_are():
    with pytest.raises(UnknownModelError, match="'bard' is not in the table; it holds 'poet', 'sage'"):
        Outcomes(PROMPTS, MODELS, ERRORS).of(["poet", "bard"])


def test_what_is_done_later_to_the_callers_arrays_changes_nothing():
    errors, costs = np.array(ERRORS, np.float32), np.ones((2, 2))
    table = Outcomes(PROMPTS, MODELS, errors, costs)
    errors[:], costs[:] = 0.5, 7.0
    assert table.errors.tolist() == ERRORS
    assert table.costs.tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("2 + 2?", "list of strings, not one string '2 \\+ 2\\?'; put it in a list"),
        (["2 + 2?", ""], "Prompt 1 is empty; remove it or give it text"),
        (["2 + 2?", " \n\t"], "Prompt 1 is empty; remove it"),
        ([None, "A poem."], "Prompt 0 is NoneType None, not a string"),
        (["2 + 2?", 4], "Prompt 1 is int 4, not a string"),
    ],
)
def test_a_prompt_without_text_is_refused(prompts, message):
    with pytest.raises(InvalidDataError, match=message):
        Outcomes(prompts, MODELS, ERRORS)


@pytest.mark.parametrize("value", [1.5, -0.1, np.inf, -np.inf])
def test_an_error_outside_0_to_1_is_refused(value):
    with pytest.raises(InvalidDataError, match=rf"errors: {value:g} must be in \[0, 1\]; give 1 - quality"):
        Outcomes(PROMPTS, MODELS, [[1, 0], [value, 0]])


@pytest.mark.parametrize("name", ["costs", "tokens_in", "tokens_out"])
@pytest.mark.parametrize("value", [-2.0, np.inf])
def test_a_negative_or_infinite_cost_or_count_is_refused(name, value):
    with pytest.raises(InvalidDataError, match=f"{name}: {value:g} must be finite and >= 0; leave unknown ones NaN"):
        Outcomes(PROMPTS, MODELS, ERRORS, **{name: [[0, value], [0, 0]]})


@pytest.mark.parametrize("name", ["costs", "tokens_in", "tokens_out"])
def test_shapes_that_differ_are_refused(name):
    with pytest.raises(InvalidDataError, match=rf"{name} has shape \(2, 1\), but 2 prompts and 2 models need \(2, 2\)"):
        Outcomes(PROMPTS, MODELS, ERRORS, **{name: [[1], [1]]})
    with pytest.raises(InvalidDataError, match=r"errors has shape \(2, 2\), but 1 prompts and 2 models"):
        Outcomes(PROMPTS[:1], MODELS, ERRORS)


@pytest.mark.parametrize("errors", [[[1, 0], [0]], [["right", "wrong"], [0, 1]]])
def test_what_is_no_table_of_numbers_is_refused(errors):
    with pytest.raises(InvalidDataError, match=r"errors is no array of numbers .*; give one row for each prompt"):
        Outcomes(PROMPTS, MODELS, errors)


def test_a_model_that_stands_twice_is_refused():
    with pytest.raises(InvalidDataError, match="'poet' stands twice in the table; merge its columns or rename one"):
        Outcomes(PROMPTS, ["poet", "poet"], ERRORS)
