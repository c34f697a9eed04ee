"""Routing that knows the documents: what it learns of them, what they cost, and that it pays."""

import dataclasses
import json
import warnings

import numpy as np
import pytest

from tests.shop import N_FIT, N_MEASURED, judged, routing, shop, without_documents
from unirouter_core import (
    ArtifactError,
    Documents,
    Evaluation,
    InvalidDataError,
    Prices,
    UniRouter,
    ValidationSet,
    report,
    tune,
)
from unirouter_core.data import digests
from unirouter_core.documents import STATISTICS, DocumentFeatures
from unirouter_core.embedding import HashingEmbedder
from unirouter_core.estimators import ShrunkenClustersEstimator
from unirouter_core.evaluate import held_out, impact, measure


def error_of(held):
    """The mean error where the router may spend what it likes."""
    return float(held.outcome(held.chosen(0))[0].mean())


@pytest.fixture(scope="module")
def table():
    return shop()


@pytest.fixture(scope="module")
def router(table):
    return routing(table)


# --- That it pays -----------------------------------------------------------------------------------------------------


def test_routing_that_knows_the_documents_beats_routing_on_the_question():
    for with_scores in (True, False):
        table = shop(seed=1, with_scores=with_scores)
        knows = held_out(routing(table), judged(table))
        plain = held_out(routing(without_documents(table)), without_documents(judged(table)))
        with_them, question, nothing = (
            measure(choices.curve(), knows.errors, knows.costs).area
            for choices in (knows.sweep, plain.sweep, plain.mixture)
        )
        assert with_them > question + 0.15
        assert question < nothing + 0.05  # the question alone tells hardly more than nothing
        assert error_of(knows) < 0.5 * error_of(plain)


def test_a_question_goes_where_its_documents_say(router):
    question = "What does the red kettle cost?"
    held = ["The red kettle costs 31 dollars in all of our shops.", *["The old map is sold in 12 sizes."] * 2]
    other = ["Warranty: the soft rope is covered for 12 months.", *["The old map is sold in 12 sizes."] * 2]
    decisions = router.route_batch([question, question], documents=[held, other])
    assert [decisions[0].model, decisions[1].model] == ["reader", "knower"]


def test_tuning_reports_and_impact_read_the_documents(router, table):
    assert error_of(held_out(router)) < 0.3  # the validation prompts' own fifths
    assert "routing" in report(router).verdict.lower()
    tuning = tune(router, outcomes=judged(table), keep_quality=0.95)
    assert tuning.met
    assert (tuning.best, tuning.level) == ("routing", "pays")
    assert impact(router, "knower").kind == "worth it"


# --- What is learned --------------------------------------------------------------------------------------------------


def test_the_vector_is_the_question_the_documents_and_the_statistics(router):
    question, found = "What does the red kettle cost?", ["The red kettle costs 31 dollars.", "A map."]
    X, dims = router.encode([question], documents=[found])[0], router.fit_.embedder.encode([question]).shape[1]
    assert X.shape == (2 * dims + len(STATISTICS),)
    assert np.linalg.norm(X) == pytest.approx(1, abs=1e-6)
    own = router.fit_.embedder.encode([question])[0]
    assert X[:dims] @ own / np.linalg.norm(X[:dims]) / np.linalg.norm(own) == pytest.approx(1, abs=1e-6)


def test_statistics_are_in_standard_deviations_and_unknown_ones_are_zero():
    Q = np.eye(2, dtype=np.float32)
    documents = [Documents(["one"], [0.2]), Documents(["one", "other"], [0.8, 0.4])]
    found = [Q[[0]], Q[[0, 1]]]
    features = DocumentFeatures(question=0, documents=0).fit(Q, found, documents)
    joined = features.join(Q, found, documents)
    highest = STATISTICS.index("highest retrieval score") - len(STATISTICS)
    assert joined[0, highest] == pytest.approx(-joined[1, highest], rel=1e-5)
    unknown = features.join(Q[:1], found[:1], [Documents(["one"])])
    assert (unknown[0, highest : highest + 3] == 0).all()


def test_a_prompt_without_documents_has_zeros_in_their_place(router):
    X = router.encode(["What does the red kettle cost?"])
    dims = router.fit_.document_features.dims(X.shape[1])
    assert not X[0, dims : 2 * dims].any()
    assert np.array_equal(router.encode(["What does the red kettle cost?"], documents=[[]]), X)


def test_a_blank_document_is_not_embedded(table):
    class Strict:
        def encode(self, prompts):
            assert all(prompt.strip() for prompt in prompts)
            return np.array([[len(prompt), prompt.count("e"), 1.0] for prompt in prompts])

    router = UniRouter(Strict(), ShrunkenClustersEstimator(grid=(2,)), n_regions=2)
    router.fit(table.prompts[:40], documents=[["", "a lamp"]] * 40)
    assert router.encode(["What?"], documents=[[" "]]).shape == (1, 2 * 3 + len(STATISTICS))


def test_one_at_a_time_is_as_many_at_once(router, table):
    some = judged(table).rows(range(20))
    many = router.route_batch(some.prompts, documents=some.documents)
    for row, (prompt, found) in enumerate(zip(some.prompts, some.documents, strict=True)):
        one = router.route(prompt, documents=found)
        assert (one.model, one.cost) == (many.models[row], many.costs[row])
        assert one.error == pytest.approx(many.errors[row], abs=1e-6)
        assert many[row].model == one.model


def test_a_table_s_rows_and_columns_keep_their_documents(table):
    assert table.rows([3, 1]).documents == (table.documents[3], table.documents[1])
    assert table.of(["a"]).documents == table.documents


def test_an_explanation_reads_the_documents(router, table):
    prompt, found = table.prompts[N_FIT], table.documents[N_FIT]
    explained = router.explain(prompt, documents=found, neighbours=1)
    assert explained.neighbours[0].prompt == prompt
    assert explained.neighbours[0].similarity == pytest.approx(1, abs=1e-3)
    assert explained.decision.cost == router.route(prompt, documents=found).cost


# --- What they cost ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def priced(table):
    """A router fitted on questions alone; its model is priced by the token, of which its provider counts the same."""
    router = UniRouter(HashingEmbedder(dims=16), ShrunkenClustersEstimator(grid=(2,)), n_regions=2)
    router.fit(without_documents(table.rows(range(40))))
    validation = ValidationSet(table.prompts[40:80], documents=table.documents[40:80])
    sent = zip(validation.prompts, validation.documents, strict=True)
    counts = [router.fit_.token_counter.count([prompt, *found.texts]).sum() for prompt, found in sent]
    prices = Prices(input=1e6, output=0.0)  # $1 a token
    router.onboard(Evaluation("a", validation, np.zeros(40), tokens_in=counts, tokens_out=np.ones(40), prices=prices))
    return router


def test_documents_are_paid_for_by_any_router_but_decide_only_in_one_fitted_with_them(priced):
    prompt, found = "What does the red kettle cost?", ["The red kettle costs 31 dollars in all of our shops."] * 4
    bare, full = priced.route(prompt), priced.route(prompt, documents=found)
    assert full.cost - bare.cost == pytest.approx(priced.fit_.token_counter.count(found).sum())
    assert full.error == bare.error
    assert priced.route_batch([prompt], documents=[found]).costs[0] == pytest.approx(full.cost)
    assert priced.route(prompt, documents=found, tokens_in=7).cost == priced.route(prompt, tokens_in=7).cost


def test_validation_documents_count_among_the_tokens_that_a_model_was_measured_with(priced, table):
    measured = priced.pool["a"].measured
    assert measured.tokens[0] == priced.fit_.token_counter.count([table.prompts[40], *table.documents[40].texts]).sum()
    assert priced.pool["a"].cost.per_token == pytest.approx(1)


# --- Kept -------------------------------------------------------------------------------------------------------------


def test_a_saved_router_reads_documents_as_before(router, table, tmp_path):
    router.save(tmp_path / "my.router")
    loaded = UniRouter.load(tmp_path / "my.router")
    prompts, found = judged(table).prompts, judged(table).documents
    assert loaded.fit_.id == router.fit_.id
    assert np.array_equal(loaded.encode(prompts, documents=found), router.encode(prompts, documents=found))
    ours, theirs = (each.route_batch(prompts, documents=found) for each in (loaded, router))
    assert ours.models == theirs.models


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda header: header.pop("documents"), "not what was saved together"),
        (lambda header: header["documents"].update(question=9.0), "not what was saved together"),
        (lambda header: header.update(documents=3), "'documents' is 3"),
    ],
)
def test_an_edited_folder_is_refused(router, tmp_path, change, says):
    router.save(tmp_path / "my.router")
    file = tmp_path / "my.router" / "router.json"
    header = json.loads(file.read_text())
    change(header)
    file.write_text(json.dumps(header))
    with pytest.raises(ArtifactError, match=says):
        UniRouter.load(tmp_path / "my.router")


def test_a_model_measured_without_documents_is_warned_of(table):
    router = routing(table)
    bare = without_documents(table.rows(range(N_FIT, N_FIT + N_MEASURED)))
    with pytest.warns(UserWarning, match="'reader' was measured without documents"):
        router.onboard(Evaluation.recorded("reader", bare), replace=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        routing(without_documents(table))  # knows of no documents, and misses none


def test_a_router_without_documents_says_nothing_of_them(priced, tmp_path):
    priced.save(tmp_path / "my.router")
    assert "documents" not in json.loads((tmp_path / "my.router" / "router.json").read_text())


def test_a_question_with_other_documents_is_another_prompt_but_was_seen(table):
    names = [digests(["a"], [Documents(found)])[0] for found in (["one"], ["other"], [])]
    assert len(set(names)) == 3
    assert names[2] == digests(["a"])[0]
    router = routing(table.rows([*range(N_FIT), *range(N_MEASURED)]))  # measured on what it was fitted on
    assert router.fit_.has_seen(table.prompts[:N_MEASURED]).all()
    assert held_out(router).fitted_on


# --- Bad input --------------------------------------------------------------------------------------------------------


def test_what_is_no_document_is_refused(router):
    for documents, says in [
        ("one", "'one' is one document; put it in a list"),
        ([3], "Document 0 is 3, which is no text"),
        (7, "documents=7 must be a list of texts"),
    ]:
        with pytest.raises(InvalidDataError, match=says):
            router.route("What does the red kettle cost?", documents=documents)


def test_scores_that_do_not_fit_their_texts_are_refused():
    for scores in ([0.5], [0.5, "x"], [0.5, np.inf], 3):
        with pytest.raises(InvalidDataError, match="scores"):
            Documents(["a", "b"], scores)


def test_documents_for_another_number_of_prompts_are_refused(router):
    with pytest.raises(InvalidDataError, match="2 prompts but documents 1; give a list of documents for each prompt"):
        router.route_batch(["One?", "Two?"], documents=[["a"]])
    with pytest.raises(InvalidDataError, match="2 prompts but 1 documents"):
        ValidationSet(["One?", "Two?"], documents=[["a"]])


def test_a_question_s_own_vector_is_not_the_router_s(router):
    vector = router.fit_.embedder.encode(["What does the red kettle cost?"])[0]
    with pytest.raises(InvalidDataError, match="of a prompt with its documents; give those that its encode makes"):
        router.route("What does the red kettle cost?", vector=vector)


def test_fitting_takes_documents_or_vectors_and_needs_some(table):
    prompts, unfitted = table.prompts[:20], UniRouter(n_regions=2)
    with pytest.raises(InvalidDataError, match="Vectors are learned as they are"):
        unfitted.fit(prompts, documents=table.documents[:20], vectors=np.eye(20))
    with pytest.raises(InvalidDataError, match="None of the prompts has a document"):
        unfitted.fit(prompts, documents=[[]] * 20)


def test_documents_are_frozen_and_equal_by_content():
    assert Documents(["a"], [1]) == Documents(("a",), (1.0,))
    with pytest.raises(dataclasses.FrozenInstanceError):
        Documents(["a"]).texts = ()
