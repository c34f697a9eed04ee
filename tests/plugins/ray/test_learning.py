"""Fits of a stream of graded answers: the same as in memory, and in memory that does not grow."""

import tracemalloc

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tests.conftest import small_default
from unirouter_core import InvalidDataError, UniRouter
from unirouter_core.embedding import HashingEmbedder
from unirouter_core.outcome_files import read_outcomes
from unirouter_plugins.ray.learning import PromptSample, fit_dataset


@pytest.fixture
def rows(world):
    """The world, a row per answer; a prompt's answers are far apart."""
    columns = {"prompt": world.prompts * len(world.models), "model": np.repeat(world.models, len(world))}
    return pd.DataFrame(columns | {"error": world.errors.T.ravel(), "cost": world.costs.T.ravel()})


def unfitted():
    return UniRouter(HashingEmbedder(dims=32), small_default(), n_regions=4)


def batches(frame, size=77):
    return (frame.iloc[start : start + size] for start in range(0, len(frame), size))


def test_a_stream_of_fewer_prompts_than_the_sample_is_fitted_as_in_memory_to_the_bit(rows):
    whole = unfitted().fit(read_outcomes(rows))
    assert fit_dataset(batches(rows), unfitted()).fit_.id == whole.fit_.id


@pytest.mark.parametrize(
    "form", [pa.Table.from_pandas, lambda frame: frame.to_dict("list"), lambda frame: frame.to_dict("records")]
)
def test_batches_of_any_form_give_the_same_fit(rows, form):
    fitted = fit_dataset(map(form, batches(rows)), unfitted(), sample=100)
    assert fitted.fit_.id == fit_dataset(batches(rows), unfitted(), sample=100).fit_.id


@pytest.mark.parametrize("form", [pd.DataFrame, pa.Table.from_pylist, list])
def test_chats_are_learned_by_their_users_newest_text_whatever_holds_their_lists(form):
    def chat(text):
        return [{"role": "user", "content": [{"type": "text", "text": text}]}]

    sample = PromptSample(10)
    sample.add(form([{"messages": chat(f"{n} + 1?"), "model": "a", "error": 0.0} for n in range(3)]))
    assert (sample.left_out, sample.frame()["messages"].tolist()) == (0, ["0 + 1?", "1 + 1?", "2 + 1?"])


def test_a_sample_has_all_answers_to_its_prompts_whatever_the_order_and_the_parts(rows):
    def sampled(frame, *parts):
        sample = PromptSample(50)
        for batch in batches(frame):
            sample.add(batch)
        for part in parts:
            sample.add(part)
        found = sample.frame().sort_values(["model", "prompt"]).reset_index(drop=True)
        assert len(found) == 50 * 8
        return found

    once = sampled(rows)
    pd.testing.assert_frame_equal(sampled(rows.sample(frac=1, random_state=0)), once)
    halves = [sampled(rows[rows["prompt"].isin(part)]) for part in np.array_split(rows["prompt"].unique(), 2)]
    pd.testing.assert_frame_equal(sampled(rows[:0], *halves), once)


def test_each_prompt_is_as_likely_in_the_sample_as_any_other():
    sample = PromptSample(1_000)
    for start in range(0, 10_000, 500):
        sample.add(
            {"prompt": [f"prompt {n}" for n in range(start, start + 500)], "model": ["a"] * 500, "error": [0] * 500}
        )
    numbers = sample.frame()["prompt"].str.split().str[1].astype(int)
    assert np.histogram(numbers, 10, (0, 10_000))[0] == pytest.approx(100, abs=40)  # 4 standard deviations


def test_memory_does_not_grow_with_the_stream():
    def peak(n_batches):
        sample = PromptSample(100)
        tracemalloc.start()
        for at in range(n_batches):
            sample.add(pd.DataFrame({"prompt": [f"{at} {n}" for n in range(50)], "model": "a", "error": 0.0}))
        return tracemalloc.get_traced_memory()[1], tracemalloc.stop()

    peak(1)
    assert peak(300)[0] < 1.3 * peak(60)[0]


def test_rows_without_a_prompt_are_left_out_with_a_warning(rows):
    spoiled = pd.concat([rows, pd.DataFrame({"prompt": [None, " "], "model": "sage", "error": 0.0})])
    with pytest.warns(UserWarning, match="2 rows without a prompt were left out"):
        fitted = fit_dataset(batches(spoiled), unfitted())
    assert fitted.fit_.id == fit_dataset(batches(rows), unfitted()).fit_.id


def test_a_stream_without_graded_answers_is_refused_at_its_first_batch():
    def stream():
        yield pd.DataFrame({"text": ["What?"], "stars": [3]})
        raise AssertionError("the second batch was read")

    with pytest.raises(InvalidDataError, match="say which is which"):
        fit_dataset(stream())
    with pytest.raises(InvalidDataError, match="no graded answers"):
        fit_dataset([])
    with pytest.raises(InvalidDataError, match="A sample of 0 prompts"):
        PromptSample(0)


def test_ray_workers_draw_the_sample_of_their_stream(rows, ray):
    ds = ray.data.from_pandas(rows).repartition(4)
    fitted = fit_dataset(ds, unfitted(), sample=100, workers=1)
    here = fit_dataset(batches(rows), unfitted(), sample=100)
    np.testing.assert_array_equal(fitted.fit_.seen, here.fit_.seen)
