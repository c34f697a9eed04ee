import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unirouter_core.embedding import HashingEmbedder, embed
from unirouter_core.exceptions import InvalidDataError, NotFittedError

SUMS = [f"What is {n} plus {n + 7}?" for n in range(40)]
NOUNS = ["sea", "sky", "moon", "sun", "wind", "tree", "bird", "road"]
POEMS = [f"Write a poem about the {noun} and the rain." for noun in NOUNS]
CHINESE = ["请写一首关于大海的诗。", "请写一首关于月亮的诗。", "请计算三加五。", "请计算二加七。"]
FITTED = HashingEmbedder(dims=16).fit(SUMS + POEMS + CHINESE)


def cosine(one, other):
    first, second = embed(FITTED, [one, other])
    return float(first @ second)


def arrays(embedder):
    return {name: value for name, value in vars(embedder).items() if name.endswith("_")}


def test_prompts_that_share_words_point_the_same_way():
    assert cosine("What is 3 plus 3?", "What is 8 plus 1?") > 0.7
    assert cosine("What is 3 plus 3?", "A poem on the rain and the moon.") < 0.3


def test_a_script_without_spaces_is_read_character_by_character():
    assert cosine("写一首关于山的诗。", "写关于月亮的诗。") > cosine("写一首关于山的诗。", "计算六加九。") + 0.3


def test_a_number_never_seen_is_known_by_its_length():
    assert FITTED.encode(["98"]).any()
    assert not FITTED.encode(["98765"]).any()


def test_case_does_not_matter():
    assert (FITTED.encode(["WRITE A POEM"]) == FITTED.encode(["write a poem"])).all()


@pytest.mark.parametrize("prompt", ["", " \n\t", "\0", "xyzzy", "\ud800", "🦜"])
def test_a_prompt_of_which_nothing_is_known_gets_zeros(prompt):
    assert not FITTED.encode([prompt]).any()


def test_how_long_a_prompt_is_counts():
    short, long = FITTED.encode(["rain", "rain " * 9])
    assert short.any()
    assert not np.allclose(short, long)


def test_the_hash_of_a_word_never_changes_or_saved_tables_would_be_unreadable():
    fitted = HashingEmbedder().fit(["rain"])
    assert np.flatnonzero(fitted.rows_).tolist() == [
        26413,
        100681,
        115348,
        477053,
        638184,
    ]  # the word, and its length as four


def test_no_prompts_give_no_rows():
    assert FITTED.encode([]).shape == (0, 16)


@given(st.lists(st.text() | st.sampled_from(SUMS + POEMS), max_size=8))
def test_one_prompt_gets_the_vector_that_it_gets_in_a_batch(prompts):
    batch = FITTED.encode(prompts)
    assert batch.dtype == np.float32
    assert np.isfinite(batch).all()
    for prompt, vector in zip(prompts, batch, strict=True):
        assert (FITTED.encode([prompt])[0] == vector).all()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=[])), max_size=6))
def test_any_text_can_be_fitted(prompts):
    prompts = [*prompts, "one word"]
    embedder = HashingEmbedder(dims=4).fit(prompts)
    assert embedder.encode(prompts).shape == (len(prompts), embedder.table_.shape[1])


def test_the_same_prompts_and_seed_give_the_same_table():
    again = HashingEmbedder(dims=16).fit(SUMS + POEMS + CHINESE)
    assert all((arrays(again)[name] == value).all() for name, value in arrays(FITTED).items())


def test_the_vectors_are_the_same_in_another_process():
    code = "from tests.core.test_hashing import *; print(FITTED.encode(POEMS).tolist())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert np.allclose(json.loads(printed), FITTED.encode(POEMS), atol=1e-5)


def test_its_arrays_are_all_that_a_copy_needs(tmp_path):
    np.savez(tmp_path / "weights.npz", allow_pickle=False, **arrays(FITTED))
    copy = HashingEmbedder(dims=16)
    with np.load(tmp_path / "weights.npz", allow_pickle=False) as saved:
        for name in saved.files:
            setattr(copy, name, saved[name])
    assert (copy.encode(SUMS) == FITTED.encode(SUMS)).all()


def test_encoding_before_fit_says_what_to_do():
    with pytest.raises(NotFittedError, match=r"call fit\(prompts\) first"):
        HashingEmbedder().encode(["2 + 2?"])


@pytest.mark.parametrize("prompts", [[], [" ", "\n"]])
def test_prompts_without_a_word_cannot_be_fitted(prompts):
    with pytest.raises(InvalidDataError, match=f"no word in the {len(prompts)} prompts"):
        HashingEmbedder().fit(prompts)


def test_few_prompts_give_fewer_dims():
    assert HashingEmbedder(dims=192).fit(SUMS[:5]).encode(SUMS).shape[1] <= 5


def test_of_a_long_prompt_the_beginning_and_the_end_count():
    filling = "xyzzy " * 200_000
    vectors = FITTED.encode([filling + "What is 3 plus 3?", "Write a poem" + filling, filling])
    assert vectors[:2].any(axis=1).all()
    assert not vectors[2].any()


def test_more_text_than_fit_reads_is_sampled():
    one = HashingEmbedder(characters=60).fit(SUMS + POEMS)
    other = HashingEmbedder(characters=60, seed=1).fit(SUMS + POEMS)
    assert one.encode(SUMS).shape[1] <= 4
    assert not np.array_equal(one.rows_, other.rows_)


@pytest.mark.parametrize("wrong", [{"dims": 0}, {"features": 0}, {"features": 65_536}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(InvalidDataError, match="give dims >= 1, features 1 to 65,535"):
        HashingEmbedder(**wrong)
