import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unirouter_core.embedding import CHECK_PROMPTS, HashingEmbedder, as_embedder, check_same_embedder, embed, normalise
from unirouter_core.exceptions import EmbedderMismatchError, InvalidDataError, NotFittedError
from unirouter_core.router import UniRouter


def lengths(prompts):
    return [[len(prompt), prompt.count(" "), 1.0] for prompt in prompts]


class Encoder:
    def encode(self, prompts):
        return np.array(lengths(prompts))


class LangChainLike:
    def embed_documents(self, texts):
        return lengths(texts)

    def embed_query(self, text):
        raise AssertionError("the batch form is to be used")


class LlamaIndexLike:
    def get_text_embedding_batch(self, texts, **options):
        return lengths(texts)

    def __call__(self, nodes):  # LlamaIndex's embeddings are callable too, on nodes
        raise AssertionError("the batch form is to be used")


class Learner(Encoder):
    seen = None

    def fit(self, prompts):
        self.seen = list(prompts)


def test_embedders_of_all_kinds_give_the_same_vectors():
    for source in (Encoder(), LangChainLike(), LlamaIndexLike(), lengths):
        vectors = embed(as_embedder(source), ["abc d", "e"])
        assert np.allclose(vectors, [[5 / 27**0.5, 1 / 27**0.5, 1 / 27**0.5], [1 / 2**0.5, 0, 1 / 2**0.5]])
        assert vectors.dtype == np.float32


def test_an_object_with_encode_is_taken_as_it_is():
    encoder = Encoder()
    assert as_embedder(encoder) is encoder


def test_what_is_no_embedder_is_refused_by_its_value():
    for wrong in ("text-embedding-3-small", 3, None, object(), b"abc"):
        with pytest.raises(InvalidDataError, match="is not an embedder; give an object with encode"):
            as_embedder(wrong)


def test_a_class_is_not_its_object():
    with pytest.raises(InvalidDataError, match="HashingEmbedder is a class, not an embedder; give an object"):
        UniRouter(embedder=HashingEmbedder)


def test_an_embedder_that_learns_is_copied_and_fitted(world):
    learner = Learner()
    router = UniRouter(embedder=learner, n_regions=2).fit(world.rows(range(40)))
    assert tuple(router.fit_.embedder.seen) == world.prompts[:40]
    assert learner.seen is None


def test_sentence_transformers_are_never_trained(world):
    class FakeTransformer(Encoder):
        def fit(self, train_objectives):
            raise AssertionError("fit trains the network")

    FakeTransformer.__module__ = "sentence_transformers.SentenceTransformer"
    router = UniRouter(embedder=FakeTransformer(), n_regions=2).fit(world.rows(range(40)))
    assert router.fit_.settings["embedder"]["class"] == "FakeTransformer"


def test_vectors_that_cannot_be_used_are_refused():
    for returned, message in (
        ([[1.0, 2.0]], "shape .1, 2. for 2 prompts"),
        ([1.0, 2.0], "shape .2,. for 2 prompts"),
        ([[], []], "shape .2, 0. for 2 prompts"),
        ([[1.0], [2.0, 3.0]], "returned no table of numbers"),
        ([["a"], ["b"]], "returned no table of numbers"),
        ([[1.0], [float("nan")]], "prompt 1 holds NaN or infinity"),
        ([[float("inf")], [1.0]], "prompt 0 holds NaN or infinity"),
    ):
        with pytest.raises(InvalidDataError, match=message):
            embed(as_embedder(lambda prompts, returned=returned: returned), ["a", "b"])


def test_rows_have_length_1_and_rows_of_zeros_stay():
    assert normalise(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 0]]


def test_normalising_leaves_the_vectors_given_as_they_were():
    given = np.array([[3, 4]], np.float32)
    normalise(given)
    assert given.tolist() == [[3, 4]]


def test_an_embedder_is_known_again_by_its_vectors():
    kept = embed(as_embedder(lengths), CHECK_PROMPTS)
    check_same_embedder(as_embedder(lambda prompts: 7 * np.array(lengths(prompts))), kept)
    with pytest.raises(EmbedderMismatchError, match=r"gives other vectors .*cosine -1.000"):
        check_same_embedder(as_embedder(lambda prompts: -np.array(lengths(prompts))), kept)
    with pytest.raises(EmbedderMismatchError, match="gives 2 numbers a prompt, but the router was fitted on 3"):
        check_same_embedder(as_embedder(lambda prompts: np.array(lengths(prompts))[:, :2]), kept)


def test_an_embedder_with_zero_check_vectors_is_recognised():
    nothing = as_embedder(lambda prompts: np.zeros((len(prompts), 2)))
    check_same_embedder(nothing, embed(nothing, CHECK_PROMPTS))


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


def test_a_prompt_of_which_nothing_is_known_gets_zeros():
    for prompt in ("", " \n\t", "\0", "xyzzy", "\ud800", "🦜"):
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
    code = "from tests.core.test_embedding import *; print(FITTED.encode(POEMS).tolist())"
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


def test_prompts_without_a_word_cannot_be_fitted():
    for prompts in ([], [" ", "\n"]):
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


def test_settings_out_of_range_are_refused():
    for wrong in ({"dims": 0}, {"features": 0}, {"features": 65_536}):
        with pytest.raises(InvalidDataError, match="give dims >= 1, features 1 to 65,535"):
            HashingEmbedder(**wrong)
