import numpy as np
import pytest

from unirouter_core.embedding import CHECK_PROMPTS, HashingEmbedder, as_embedder, check_same_embedder, embed, normalise
from unirouter_core.exceptions import EmbedderMismatchError, InvalidDataError
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


@pytest.mark.parametrize("source", [Encoder(), LangChainLike(), LlamaIndexLike(), lengths], ids=lambda s: str(s)[:30])
def test_embedders_of_all_kinds_give_the_same_vectors(source):
    vectors = embed(as_embedder(source), ["abc d", "e"])
    assert np.allclose(vectors, [[5 / 27**0.5, 1 / 27**0.5, 1 / 27**0.5], [1 / 2**0.5, 0, 1 / 2**0.5]])
    assert vectors.dtype == np.float32


def test_an_object_with_encode_is_taken_as_it_is():
    encoder = Encoder()
    assert as_embedder(encoder) is encoder


@pytest.mark.parametrize("wrong", ["text-embedding-3-small", 3, None, object(), b"abc"], ids=repr)
def test_what_is_no_embedder_is_refused_by_its_value(wrong):
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


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([[1.0, 2.0]], "shape .1, 2. for 2 prompts"),
        ([1.0, 2.0], "shape .2,. for 2 prompts"),
        ([[], []], "shape .2, 0. for 2 prompts"),
        ([[1.0], [2.0, 3.0]], "returned no table of numbers"),
        ([["a"], ["b"]], "returned no table of numbers"),
        ([[1.0], [float("nan")]], "prompt 1 holds NaN or infinity"),
        ([[float("inf")], [1.0]], "prompt 0 holds NaN or infinity"),
    ],
)
def test_vectors_that_cannot_be_used_are_refused(returned, message):
    with pytest.raises(InvalidDataError, match=message):
        embed(as_embedder(lambda prompts: returned), ["a", "b"])


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


def test_an_embedder_that_knows_none_of_the_check_prompts_is_known_again():
    nothing = as_embedder(lambda prompts: np.zeros((len(prompts), 2)))
    check_same_embedder(nothing, embed(nothing, CHECK_PROMPTS))
