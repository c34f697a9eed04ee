import dataclasses
import threading

import numpy as np
import pytest

from tests.conftest import N_FIT, evaluation, fitted, is_sum, small_default
from unirouter_core.costs import Prices
from unirouter_core.data import Evaluation, Outcomes, ValidationSet
from unirouter_core.embedding import HashingEmbedder, embed
from unirouter_core.estimators import KMeansEstimator, LowRankEstimator, Prediction, ShrunkenClustersEstimator
from unirouter_core.evaluate import tune
from unirouter_core.exceptions import (
    EmbedderMismatchError,
    InvalidDataError,
    MissingOutcomesError,
    NoCandidateError,
    NotFittedError,
    UniRouterError,
    UnknownModelError,
    UnknownPriceError,
)
from unirouter_core.pool import Capabilities
from unirouter_core.router import CHUNK, UniRouter

SUM, POEM = "What is 14 plus 33?", "Write a poem of 5 lines about the moon."


def fit_on(world, n=N_FIT, **how):
    return UniRouter(HashingEmbedder(dims=16), ShrunkenClustersEstimator(grid=(4,)), n_regions=3).fit(
        world.rows(range(n)), **how
    )


# --- It does its work -------------------------------------------------------------------------------------------------


def test_sums_go_to_the_sage_and_poems_to_the_poet(world, asked_router):
    rest = world.prompts[N_FIT:]
    models = asked_router.route_batch(rest, cost_weight=100, models=["poet", "sage"]).models
    right = [model == ("sage" if is_sum(prompt) else "poet") for prompt, model in zip(rest, models, strict=True)]
    assert np.mean(right) > 0.9


def test_the_routers_own_cost_weight_is_used_where_none_is_given(world):
    router = fitted(world, cost_weight=np.inf)
    for model in ("poet", "sage"):
        router.onboard(evaluation(world, model))
    assert router.route(SUM).model == "poet"
    assert router.route(SUM, cost_weight=0).model == "sage"
    assert router.route_batch([SUM]).models == ["poet"]


def test_one_decision_is_one_prompts_of_the_batch(world, asked_router):
    prompts = world.prompts[:40]
    batch = asked_router.route_batch(prompts, cost_weight=300)
    single = [asked_router.route(prompt, cost_weight=300) for prompt in prompts]
    assert [one.model for one in single] == batch.models
    assert np.allclose([one.error for one in single], batch.errors, atol=1e-5)
    assert np.allclose([one.cost for one in single], batch.costs, rtol=1e-9)
    assert [one.region for one in single] == batch.regions.tolist()


def test_a_batch_beyond_the_size_of_a_chunk_is_whole(world, asked_router):
    once = asked_router.route_batch(world.prompts, cost_weight=300)
    many = asked_router.route_batch(world.prompts * 40, cost_weight=300)
    assert len(many) > CHUNK
    assert many.models == once.models * 40
    assert np.allclose(many.errors, np.tile(once.errors, 40), atol=1e-6)


def test_vectors_given_are_the_embedders(world, asked_router):
    X = embed(asked_router.fit_.embedder, world.prompts)
    plain = asked_router.route_batch(world.prompts, cost_weight=300)
    assert asked_router.route_batch(world.prompts, cost_weight=300, vectors=X).models == plain.models
    assert asked_router.route_batch(world.prompts, cost_weight=300, vectors=(5 * X).tolist()).models == plain.models
    assert (
        asked_router.route(SUM, vector=list(X[0])).model
        == asked_router.route(SUM, vector=X[0].astype(np.float64)).model
    )
    assert asked_router.route_batch(world.prompts[:3], vectors=X[:3])[1].error == pytest.approx(
        asked_router.route(world.prompts[1]).error, abs=1e-6
    )


def test_prompts_may_come_in_any_collection(world, asked_router):
    for prompts in (
        lambda prompts: (prompt for prompt in prompts),
        np.array,
        tuple,
        lambda prompts: [np.str_(prompt) for prompt in prompts],
        lambda prompts: dict.fromkeys(prompts).keys(),
    ):
        decisions = asked_router.route_batch(prompts(world.prompts[:5]), cost_weight=300)
        assert decisions.models == asked_router.route_batch(world.prompts[:5], cost_weight=300).models
        assert decisions[4].model == decisions.models[4]
        assert len(fit_on(world).fit(prompts(world.prompts[:20])).fit_.id) == 16


def test_no_prompts_make_no_decisions(asked_router):
    decisions = asked_router.route_batch([])
    assert (len(decisions), decisions.models, sum(decisions.shares.values())) == (0, [], 0)


def test_a_very_long_prompt_is_routed(asked_router):
    assert asked_router.route("What is 14 plus 33? " * 50_000).model == "sage"


def test_tokens_in_are_what_the_cost_is_of(world, asked_router):
    # The ratio of the provider's tokens to ours is the same for all prompts of a model, so cost is linear in tokens.
    few, some, many = (asked_router.route(SUM, models=["sage"], tokens_in=n).cost for n in (0, 1000, 3000))
    assert many - few == pytest.approx(3 * (some - few))
    assert some > few > 0


def test_cached_tokens_cost_what_cached_tokens_cost(asked_router):
    # The sage's cached tokens cost a tenth; the poet's have no price of their own.
    for model, share in (("sage", 0.1), ("poet", 1.0)):
        none, all_, fresh = (
            asked_router.route(SUM, models=[model], tokens_in=n, cached_tokens=c).cost
            for n, c in ((0, 0), (1000, 1000), (1000, 0))
        )
        assert all_ - none == pytest.approx(share * (fresh - none))
    batch = asked_router.route_batch([SUM] * 2, models=["sage"], tokens_in=[1000, 1000], cached_tokens=[1000, 0])
    assert batch.costs[0] < batch.costs[1]
    assert batch[0].cost == pytest.approx(batch.costs[0])


def test_each_model_may_have_cached_other_tokens(asked_router):
    def costs(**how):
        return {row.model: row.cost for row in asked_router.route(SUM, tokens_in=1000, **how).ranking}

    alone, all_ = costs(), costs(cached_tokens=800)
    for given in ({"sage": 800}, {"sage": 800.0, "poet": 0}):
        assert costs(cached_tokens=given) == {**alone, "sage": all_["sage"]}
    sent = {model: 1000 if model == "sage" else 10 for model in asked_router.pool}
    by_model = asked_router.route(SUM, tokens_in=sent, cached_tokens={"sage": 800}).ranking
    assert {row.model: row.cost for row in by_model}["sage"] == all_["sage"]


def test_mean_costs_are_those_of_the_evaluation_whatever_the_prompt(world):
    router = fitted(world, cost="mean")
    router.onboard(evaluation(world, "sage"))
    expected = world.costs[N_FIT:, world.column("sage")].mean()
    assert router.route(SUM).cost == pytest.approx(router.route(POEM, tokens_in=10**6).cost) == pytest.approx(expected)


def test_models_known_by_usd_alone_cost_what_their_region_costs(world, router):
    given = evaluation(world, "sage")
    router.onboard(Evaluation("by usd", given.validation, given.errors, costs=given.costs))
    assert router.route(POEM, models=["by usd"]).cost == pytest.approx(
        router.route(POEM, models=["sage"]).cost, rel=0.3
    )


def test_a_model_of_0_usd_is_the_cheapest(world, router):
    given = evaluation(world, "clerk")
    router.onboard(
        Evaluation("local", given.validation, given.errors, tokens_out=given.tokens_out, prices=Prices(0, 0))
    )
    assert router.route(SUM, cost_weight=np.inf).model == "local"
    assert router.route(SUM, cost_weight=np.inf).cost == 0


def test_fit_needs_no_outcomes(world):
    with pytest.warns(
        UserWarning, match="Fitted without LowRankEstimator, KnownModelsEstimator: training models' outcomes"
    ):
        router = fitted(world).fit(world.prompts[:N_FIT])
    router.onboard(evaluation(world, "poet"))
    assert router.fit_.training_models == ()
    assert router.route(SUM).error > router.route(POEM).error


def test_fit_leaves_out_training_models_without_answers(world):
    table = world.rows(range(N_FIT))
    errors = table.errors.copy()
    errors[:, 2] = np.nan
    router = fit_on(world).fit(Outcomes(table.prompts, table.models, errors, table.costs))
    assert "clerk" not in router.fit_.training_models
    assert len(router.fit_.training_models) == 7


def test_the_same_fit_has_the_same_id_and_another_another(world):
    assert fitted(world).fit_.id == fitted(world).fit_.id
    ids = {fitted(world).fit_.id, fitted(world, n_regions=5).fit_.id, fitted(world, cost="mean").fit_.id}
    assert len(ids) == 3


def test_fitting_again_empties_the_pool(world):
    router = fitted(world)
    router.onboard(evaluation(world, "sage"))
    assert router.fit(world.rows(range(N_FIT))).pool == {}
    assert router.fit_.id == fitted(world).fit_.id


def test_vectors_of_another_embedder_are_not_learned(world):
    router = fitted(world, embedder=HashingEmbedder(dims=32).fit(world.prompts))
    router.onboard(evaluation(world, "sage"))
    X = np.random.default_rng(0).normal(size=(len(world), 5))
    with pytest.raises(EmbedderMismatchError, match="vectors given have 5 numbers, but HashingEmbedder gives 32"):
        router.fit(world, vectors=X)
    assert list(router.pool) == ["sage"]


@pytest.mark.parametrize("make", [KMeansEstimator, small_default])
def test_two_routers_of_one_estimator_and_one_embedder_are_independent(world, make):
    estimator, embedder = make(), HashingEmbedder(dims=32)
    first = fitted(world, estimator, embedder=embedder)
    first.onboard(evaluation(world, "sage"))
    before = first.route(SUM).as_dict()
    fitted(world.rows(range(200, 40, -1)), estimator, embedder=embedder)
    assert first.route(SUM).as_dict() == before
    assert not any(name.endswith("_") for part in (estimator, embedder) for name in vars(part))


def test_a_router_on_vectors_alone_never_embeds(world):
    X = np.random.default_rng(0).normal(size=(len(world), 5))
    router = UniRouter(estimator=small_default(), n_regions=4)
    for _ in range(2):
        router.fit(world.rows(range(N_FIT)), vectors=X[:N_FIT])
    router.onboard(evaluation(world, "sage"), vectors=X[N_FIT:])
    assert router.route("anything", vector=X[0]).model == "sage"
    with pytest.raises(NotFittedError, match="give the prompts' vectors"):
        router.route("anything")


# --- Models come and go -----------------------------------------------------------------------------------------------


def test_onboarding_a_model_leaves_the_others_as_they_were(world, router):
    before = router.expect(world.prompts)
    router.onboard(evaluation(world, "bard"))
    after = router.expect(world.prompts)
    others = [j for j, model in enumerate(router.pool) if model != "bard"]
    assert np.array_equal(after.prediction.errors[:, others], before.prediction.errors)
    assert np.array_equal(after.costs[:, others], before.costs)


def test_a_model_is_replaced_only_with_replace(world, router):
    with pytest.raises(InvalidDataError, match="'sage' is in the pool already; pass replace=True to replace it"):
        router.onboard(evaluation(world, "sage"))
    given = evaluation(world, "poet")
    router.onboard(Evaluation("sage", given.validation, given.errors, given.costs), replace=True)
    assert router.pool["sage"].error == router.pool["poet"].error


class CountedName(str):
    """A model's name that counts how often names are compared."""

    compared = 0

    def __lt__(self, other):
        CountedName.compared += 1
        return super().__lt__(other)


def test_onboarding_many_models_sorts_the_pool_once(world):
    router, given = fitted(world), evaluation(world, "sage")
    names = [CountedName(f"sage {n:02}") for n in range(60)]
    for name in names:
        router.onboard(dataclasses.replace(given, model=name))
    for name in names[:30]:
        router.reprice(name, Prices(1.0, 2.0))
        router.retire(name)
    assert list(router.pool) == names[30:]
    assert CountedName.compared < 100


def test_a_message_about_a_large_pool_is_short(world, router):
    given = evaluation(world, "sage")
    for n in range(30):
        router.onboard(dataclasses.replace(given, model=f"sage {n:02}"), capabilities=Capabilities(tools=False))
    with pytest.raises(UnknownModelError, match="'sage 17', and 14 more"):
        router.retire("wizard")
    with pytest.raises(NoCandidateError, match="sage 17: lacks tools; and 14 more"):
        router.route(SUM, models=[f"sage {n:02}" for n in range(30)], requires=["tools"])


def test_profile_changes_nothing(world, router):
    profile = router.profile(evaluation(world, "bard"))
    assert (profile.model, profile.n, "bard" in router.pool) == ("bard", 80, False)
    assert repr(profile) == f"ModelProfile('bard', error={profile.error:.3f}, n=80)"


def test_the_pool_given_out_never_changes(world, router):
    before = router.pool
    router.retire("sage")
    assert (len(before), len(router.pool)) == (4, 3)
    assert not hasattr(before, "clear")


def test_failed_and_truncated_answers_are_counted_separately(world, router):
    validation = ValidationSet(world.prompts[N_FIT : N_FIT + 4])
    given = Evaluation(
        "novice", validation, [0, 1, np.nan, 0], costs=[1, 1, np.nan, 1], failed=[0, 0, 1, 0], truncated=[0, 1, 0, 0]
    )
    profile = router.onboard(given)
    assert (profile.n, profile.error) == (3, pytest.approx(1 / 3))
    assert (profile.provenance["failed"], profile.provenance["truncated"]) == (1, 1)


def test_models_that_lack_something_are_left_out(world, router):
    router.onboard(evaluation(world, "coder"), capabilities=Capabilities(vision=False))
    for model in ("poet", "sage", "tutor", "scholar"):
        router.retire(model)
    assert router.route(SUM, requires=["tools"]).model == "coder"
    with pytest.raises(NoCandidateError, match=r"No model may answer this prompt \(coder: lacks vision\)"):
        router.route(SUM, requires=("tools", "vision"))


def test_a_prompt_beyond_the_context_window_goes_to_another_model(world):
    router = fitted(world)
    router.onboard(evaluation(world, "sage"))
    router.onboard(evaluation(world, "poet"), capabilities=Capabilities(context_window=100))
    tokens = [100, 101]
    assert router.route_batch([POEM] * 2, cost_weight=np.inf, tokens_in=tokens).models == ["poet", "sage"]
    assert [router.route(POEM, cost_weight=np.inf, tokens_in=n).model for n in tokens] == ["poet", "sage"]
    with pytest.raises(
        NoCandidateError, match=r"Prompt 1: .*poet: its context window of 100 tokens is less than .* 101"
    ):
        router.route_batch([POEM] * 2, models=["poet"], tokens_in=tokens)


def test_candidates_may_come_from_a_generator(world, router):
    requires = (name for name in ["tools", "vision"])
    decisions = router.route_batch([SUM, POEM], models=(name for name in ["poet", "tutor"]), requires=requires)
    assert set(decisions.models) <= {"poet", "tutor"}
    assert decisions[0].model == decisions.models[0]
    router.onboard(evaluation(world, "coder"), capabilities=Capabilities(vision=False), replace=True)
    router.onboard(evaluation(world, "bard"), capabilities=Capabilities(vision=False))
    excluded = router.route(SUM, requires=(name for name in ["vision"])).ranking[-2:]
    assert [row.model for row in excluded] == ["bard", "coder"]


# --- Bad input --------------------------------------------------------------------------------------------------------


def test_a_prompt_is_a_string_with_text(world, asked_router):
    for prompt, message in (
        ("", "Prompt 0 is empty; remove it or give it text"),
        (" \n", "Prompt 0 is empty"),
        (None, "Prompt 0 is NoneType None, not a string"),
        (3, "Prompt 0 is int 3, not a string"),
        (b"sum", "Prompt 0 is bytes"),
        (["a"], "Prompt 0 is list"),
    ):
        for use in (
            asked_router.route,
            asked_router.explain,
            lambda prompt: asked_router.route_batch([prompt]),
            lambda p: asked_router.expect([p]),
        ):
            with pytest.raises(InvalidDataError, match=message):
                use(prompt)
        with pytest.raises(InvalidDataError, match=message):
            fit_on(world).fit([prompt] * 20)


def test_one_string_is_no_list_of_prompts(asked_router):
    with pytest.raises(InvalidDataError, match="must be a list of strings, not one string 'What is"):
        asked_router.route_batch(SUM)


def test_few_prompts_are_too_few_to_learn_from(world):
    with pytest.raises(InvalidDataError, match="9 prompts are too few to learn from; give at least 10"):
        UniRouter().fit(world.prompts[:9])


def test_a_router_that_is_not_fitted_says_so(world, tmp_path):
    for use in ["route", "explain", "save", "onboard", "expect"]:
        argument = {"save": tmp_path / "a", "onboard": evaluation(world, "sage"), "expect": [SUM]}.get(use, SUM)
        with pytest.raises(NotFittedError, match=r"This router is not fitted; call fit\(outcomes\) first"):
            getattr(UniRouter(), use)(argument)


def test_an_empty_pool_says_so(world):
    for use in (fitted(world).route, fitted(world).explain, lambda prompt: fitted(world).route_batch([prompt])):
        with pytest.raises(NoCandidateError, match="The pool holds no model; onboard one first"):
            use(SUM)


def test_an_unknown_model_is_named_with_those_known(world, asked_router):
    known = "'wizard' is not in the pool; the pool holds 'poet', 'sage', 'scholar', 'tutor'. Onboard it first"
    for use in (lambda: asked_router.retire("wizard"), lambda: asked_router.route(SUM, models=["sage", "wizard"])):
        with pytest.raises(UnknownModelError, match=known):
            use()
    with pytest.raises(UnknownModelError, match="'sage' is not in the pool; the pool holds no model"):
        fitted(world).retire("sage")


def test_what_route_cannot_use_is_named(asked_router):
    for how, message in (
        ({"cost_weight": float("nan")}, "cost_weight=nan must be a number >= 0"),
        ({"cost_weight": -0.1}, "cost_weight=-0.1 must be a number >= 0"),
        ({"models": "sage"}, "'sage' is one name, not a list of names; put it in a list"),
        ({"requires": "tools"}, "'tools' is one name, not a list"),
        ({"requires": ["magic"]}, "'magic' is no capability; require one of tools, vision, json"),
        ({"tokens_in": -1}, "tokens_in=-1 must be"),
        ({"tokens_in": float("nan")}, "tokens_in=nan must be"),
        ({"tokens_in": "many"}, "tokens_in='many' must be"),
        ({"cached_tokens": -1}, "cached_tokens=-1 must be"),
        ({"tokens_in": 5, "cached_tokens": 6}, "cached_tokens=6 are part of tokens_in=5 and cannot be more"),
        ({"tokens_in": 5, "cached_tokens": {"sage": 6}}, "cached_tokens=6 are part of tokens_in=5 and cannot be more"),
        ({"tokens_in": 5, "cached_tokens": {"sage": -1}}, "cached_tokens=.* must be 4 finite numbers"),
        ({"vector": [1.0, 2.0]}, "vectors given have 2 numbers, but the router was fitted on 32"),
        ({"vector": [float("nan")] * 32}, "NaN or infinity"),
        ({"vector": ["a"] * 32}, "type <U1 for 1 prompts; give one row of numbers"),
        ({"vector": [[1.0] * 32]}, r"shape \(1, 1, 32\)"),
        ({"vector": 3.0}, r"shape \(1,\)"),
    ):
        for use in (asked_router.route, asked_router.explain):
            with pytest.raises(InvalidDataError, match=message):
                use(SUM, **how)


def test_what_route_batch_cannot_use_is_named(asked_router):
    for how, message in (
        ({"vectors": np.ones((1, 32))}, r"shape \(1, 32\) and type float64 for 2 prompts"),
        ({"vectors": np.ones((2, 31))}, "have 31 numbers, but the router was fitted on 32"),
        ({"vectors": [[1.0], [2.0, 3.0]]}, "vectors given differ in length"),
        ({"tokens_in": [1]}, "tokens_in=.1. must be 2 finite numbers"),
        ({"tokens_in": 7}, "tokens_in=7 must be 2 finite numbers"),
        ({"tokens_in": ["a", "b"]}, "tokens_in=.'a', 'b'. must be 2 finite numbers"),
        ({"cached_tokens": [1, np.inf]}, "cached_tokens=.1, inf. must be"),
        ({"tokens_in": [9, 9], "cached_tokens": [9, 10]}, "cached_tokens=10 are part of tokens_in=9"),
        ({"models": []}, "not among the models asked for"),
    ):
        with pytest.raises(UniRouterError, match=message):
            asked_router.route_batch([SUM, POEM], **how)


def test_what_fit_cannot_use_is_named_and_changes_nothing(world, router):
    before = router.route(SUM).as_dict()
    for vectors, message in (
        (np.ones((3, 2)), r"shape \(3, 2\)"),
        ([[1.0], [1.0, 2.0]], "differ in length"),
        (np.full((len(world), 2), np.nan), "prompt 0 holds NaN"),
    ):
        with pytest.raises(InvalidDataError, match=message):
            router.fit(world, vectors=vectors)
    assert router.route(SUM).as_dict() == before


def test_a_fit_that_fails_while_it_learns_changes_nothing(world):
    router = fitted(world, LowRankEstimator())
    router.onboard(evaluation(world, "sage"))
    before = router.route(SUM).as_dict()
    with pytest.raises(MissingOutcomesError, match="LowRankEstimator needs training models' outcomes"):
        router.fit(world.prompts[:50])
    assert router.route(SUM).as_dict() == before


def test_an_embedder_that_changes_its_dimension_is_refused(world):
    class Growing:
        dims = 3

        def encode(self, prompts):
            return [[len(prompt) + i * i for i in range(self.dims)] for prompt in prompts]

    router = fitted(world, embedder=(embedder := Growing()))
    router.onboard(evaluation(world, "sage"))
    embedder.dims = 4
    with pytest.raises(EmbedderMismatchError, match="Growing gives 4 numbers a prompt, but the router was fitted on 3"):
        router.route(SUM)


def test_vectors_of_validation_prompts_are_checked(world, router):
    with pytest.raises(InvalidDataError, match=r"shape \(2, 32\) and type float64 for 80 prompts"):
        router.onboard(evaluation(world, "bard"), vectors=np.ones((2, 32)))
    with pytest.raises(InvalidDataError, match="prompt 0 holds NaN"):
        router.onboard(evaluation(world, "bard"), vectors=np.full((80, 32), np.nan))
    assert "bard" not in router.pool


def test_a_model_of_unknown_price_is_not_taken_as_free(world, router):
    given = evaluation(world, "sage")
    with pytest.raises(UnknownPriceError, match="What 'new' costs is not known; give prices="):
        router.onboard(Evaluation("new", given.validation, given.errors))
    assert "new" not in router.pool


def test_settings_are_checked_when_given():
    for settings, message in (
        ({"cost_weight": -1}, "cost_weight=-1 must be a number >= 0"),
        ({"cost": "dear"}, "cost='dear' must be 'expected' or 'mean'"),
        ({"n_regions": 0}, "n_regions=0 must be a whole number, at least 1"),
        ({"n_regions": 2.5}, "n_regions=2.5 must be a whole number"),
        ({"estimator": KMeansEstimator}, "KMeansEstimator'> is not an estimator; give an object of a dataclass"),
        ({"estimator": "k-means"}, "'k-means' is not an estimator"),
        ({"embedder": "minilm"}, "'minilm' is not an embedder"),
    ):
        with pytest.raises(InvalidDataError, match=message):
            UniRouter(**settings)


def test_capabilities_are_checked_when_given():
    for wrong in ({"context_window": 0}, {"context_window": "8k"}, {"tools": "yes"}):
        with pytest.raises(InvalidDataError, match=f"{next(iter(wrong))}="):
            Capabilities(**wrong)


def test_a_number_that_no_float_holds_is_refused_as_any_other_wrong_number(asked_router):
    for wrong in (10**400, -(10**400), 10**5000, float("nan")):
        for use in (
            lambda n: UniRouter(cost_weight=n),
            lambda n: asked_router.route(SUM, cost_weight=n),
            lambda n: asked_router.route(SUM, tokens_in=n),
            lambda n: asked_router.route(SUM, tokens_in=dict.fromkeys(asked_router.pool, n)),
            lambda n: asked_router.route(SUM, tokens_in=9, cached_tokens=n),
            lambda n: asked_router.route_batch([SUM], tokens_in=[n]),
            lambda n: Capabilities(context_window=n),
            lambda n: Prices(1.0, n),
            lambda n: KMeansEstimator(k=n),
            lambda n: tune(asked_router, usd_per_1000=n),
        ):
            with pytest.raises(InvalidDataError, match="must be"):
                use(wrong)


def test_an_estimator_that_predicts_no_errors_is_refused_when_onboarding(world):
    class Wild(KMeansEstimator):
        def predict(self, X, features):
            return Prediction(2 + super().predict(X, features).errors, lambda: np.ones((len(X), len(features))))

    router = fitted(world, Wild(k=2))
    with pytest.raises(InvalidDataError, match=r"Wild predicts errors outside \[0, 1\] for 'sage'"):
        router.onboard(evaluation(world, "sage"))


# --- Many threads -----------------------------------------------------------------------------------------------------


def test_threads_that_route_see_a_whole_pool_while_models_come_and_go(world, router):
    vectors = embed(router.fit_.embedder, world.prompts)
    profiles = [evaluation(world, model) for model in ("bard", "coder")]
    stop, failures = threading.Event(), []

    def keep_routing():
        try:
            while not stop.is_set():
                decisions = router.route_batch(world.prompts, cost_weight=50, vectors=vectors)
                assert set(decisions.models) <= set(decisions.pool_models)
                decision = router.route(SUM, vector=vectors[0])
                assert len(decision.ranking) in (4, 5, 6)
                assert decisions[3].model == decisions.models[3]
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=keep_routing) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(40):
        for profile in profiles:
            router.onboard(profile)
        for profile in profiles:
            router.retire(profile.model)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []


def test_threads_that_onboard_at_once_lose_nothing(world):
    router = fitted(world)
    threads = [threading.Thread(target=router.onboard, args=[evaluation(world, model)]) for model in world.models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(router.pool) == set(world.models)


def test_a_far_prompt_is_never_surer_than_a_near_one(asked_router):
    strange = ["zzz", "What is a poem?", "Bonjour le monde", "What is 14 plus 33?"]
    expected = asked_router.expect(strange)
    near = asked_router.fit_.estimator.predict(asked_router.encode(strange), asked_router.pool.features)
    assert expected.far.max() > 0
    assert (expected.prediction.stderrs >= near.stderrs - 1e-7).all()


def test_all_the_tokens_that_will_be_sent_are_charged_at_the_list_price(world):
    table = world.rows(range(160, 240))
    padded = Outcomes(
        table.prompts, table.models, table.errors, None, table.tokens_in + 1000, table.tokens_out, table.prices
    )
    router = fitted(world)
    router.onboard(Evaluation.recorded("sage", padded))
    price = world.prices["sage"].input / 1e6
    costs = [router.route(SUM, tokens_in=tokens).cost for tokens in (0, 4000)]
    assert costs[1] - costs[0] == pytest.approx(4000 * price)


def test_models_that_are_sent_different_things_are_charged_for_their_own(asked_router):
    sent = {"poet": 100, "sage": 2000, "tutor": 100, "scholar": 100}
    alike = asked_router.route(SUM, tokens_in=100)
    apart = asked_router.route(SUM, tokens_in=sent)
    costs = [{row.model: row.cost for row in decision.ranking} for decision in (alike, apart)]
    assert costs[1]["sage"] - costs[0]["sage"] == pytest.approx(1900 * 5.0 / 1e6)
    assert costs[1]["poet"] == costs[0]["poet"]
    with pytest.raises(InvalidDataError, match="no count for 'sage'"):
        asked_router.route(SUM, tokens_in={"poet": 1, "tutor": 1, "scholar": 1})


def test_a_window_is_compared_with_what_its_own_model_is_sent(world):
    router = fitted(world)
    for model in ("poet", "sage"):
        router.onboard(evaluation(world, model), capabilities=Capabilities(context_window=1000))
    decision = router.route(POEM, cost_weight=np.inf, tokens_in={"poet": 1001, "sage": 999})
    assert decision.model == "sage"
    assert "1,001" in str(decision.ranking[-1].excluded)


# --- Prices change ----------------------------------------------------------------------------------------------------


def test_a_new_price_gives_the_profile_that_it_would_have_given_when_it_was_measured(world):
    dearer = Prices(50.0, 40.0, cached_input=1.0)
    measured, repriced = fitted(world), fitted(world)
    measured.onboard(evaluation(world, "sage", prices=dearer))
    repriced.onboard(evaluation(world, "sage"))
    repriced.reprice("sage", dearer)
    for prompt in (SUM, POEM):
        assert repriced.route(prompt).cost == pytest.approx(measured.route(prompt).cost)
        cached = {"tokens_in": 1000, "cached_tokens": 900}
        assert repriced.route(prompt, **cached).cost == pytest.approx(measured.route(prompt, **cached).cost)
    assert repriced.pool["sage"].usd.mean() == pytest.approx(measured.pool["sage"].usd.mean(), rel=1e-6)


def test_a_price_that_has_not_changed_changes_nothing(router):
    before = router.pool["sage"]
    assert router.reprice("sage", before.prices) is before


def test_costs_known_in_usd_alone_cannot_follow_a_price(world):
    table = world.rows(range(N_FIT, 240))
    router = fitted(world)
    router.onboard(Evaluation("sage", ValidationSet(table.prompts), table.errors[:, 1], costs=table.costs[:, 1]))
    with pytest.raises(UnknownPriceError, match="onboard it again"):
        router.reprice("sage", Prices(1.0, 2.0))
    with pytest.raises(UnknownModelError, match="not in the pool"):
        router.reprice("unknown", Prices(1.0, 2.0))


def test_a_new_price_is_saved_and_loaded(router, tmp_path):
    router.save(tmp_path / "my.router")
    router.reprice("sage", Prices(50.0, 40.0))
    router.save(tmp_path / "my.router")
    again = UniRouter.load(tmp_path / "my.router")
    assert again.pool["sage"].prices == Prices(50.0, 40.0)
    assert again.route(SUM).ranking == router.route(SUM).ranking
