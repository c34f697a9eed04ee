"""One small world: sums and poems; a cheap poet that cannot add, a dear sage that can, and six between them."""

import contextlib
import signal
import sys
import threading

import hypothesis
import numpy as np
import pytest

from unirouter_core import Evaluation, InvalidDataError, Outcomes, Prices, UniRouter
from unirouter_core.embedding import HashingEmbedder
from unirouter_core.estimators import (
    DefaultEstimator,
    KnownModelsEstimator,
    LowRankEstimator,
    ShrunkenClustersEstimator,
)

hypothesis.settings.register_profile("unirouter", deadline=None)  # machines are shared: a pause is no failure
hypothesis.settings.load_profile("unirouter")

N_FIT = 160  # the rest, 80 prompts, is what models are measured on

# How often each is wrong on sums and on poems, its USD per million tokens in and out, and its usual answer's length.
SKILLS = {
    "poet": (1.00, 0.00, Prices(0.1, 0.4), 20),
    "sage": (0.00, 0.00, Prices(5.0, 20.0, cached_input=0.5), 40),
    "clerk": (0.30, 0.90, Prices(0.2, 0.8), 10),
    "bard": (0.90, 0.10, Prices(0.4, 1.6), 60),
    "tutor": (0.20, 0.40, Prices(0.8, 3.2), 30),
    "coder": (0.10, 0.60, Prices(1.0, 4.0), 30),
    "editor": (0.50, 0.10, Prices(1.5, 6.0), 40),
    "scholar": (0.05, 0.10, Prices(3.0, 12.0), 50),
}
THINGS = ("the sea", "the moon", "an old tree", "the rain", "my cat", "a train", "the city", "first snow")


def is_sum(prompt):
    return prompt.startswith("What is")


def make_world(seed=0):
    rng = np.random.default_rng(seed)
    sums = [f"What is {a} plus {b}?" for a in range(11, 23) for b in range(31, 41)]
    poems = [f"Write a poem of {n} lines about {thing}." for n in range(2, 17) for thing in THINGS]
    prompts = [(sums + poems)[row] for row in rng.permutation(len(sums) + len(poems))]
    kinds = np.array([0 if is_sum(prompt) else 1 for prompt in prompts])
    wrong = np.array([[SKILLS[model][kind] for model in SKILLS] for kind in kinds])
    usual = np.array([skill[3] for skill in SKILLS.values()])
    tokens_in = np.repeat([[len(prompt) // 4 + 5.0] for prompt in prompts], len(SKILLS), axis=1)
    tokens_out = np.round(usual * (1 + 2 * kinds[:, None]) * rng.uniform(0.5, 1.5, wrong.shape))
    prices = {model: skill[2] for model, skill in SKILLS.items()}
    costs = [
        [p.cost(i, o) for p, i, o in zip(prices.values(), *row, strict=True)]
        for row in zip(tokens_in, tokens_out, strict=True)
    ]
    errors = rng.random(wrong.shape) < wrong
    return Outcomes(prompts, list(SKILLS), errors, costs, tokens_in, tokens_out, prices)


def small_default():
    """The default estimator with fewer clusters, so that it fits in milliseconds."""
    clusters = ShrunkenClustersEstimator(grid=(4, 8))
    return DefaultEstimator((clusters, LowRankEstimator(), KnownModelsEstimator()))


def fitted(world, estimator=None, **settings):
    """A router fitted on the first prompts of the world, its pool empty."""
    estimator = small_default() if estimator is None else estimator
    settings = {"embedder": HashingEmbedder(dims=32), "n_regions": 4, **settings}
    return UniRouter(estimator=estimator, **settings).fit(world.rows(range(N_FIT)))


def evaluation(world, model, **changes):
    """What the model did on the last prompts of the world."""
    return Evaluation.recorded(model, world.rows(range(N_FIT, len(world))), **changes)


@pytest.fixture(autouse=True)
def all_models_are_well():
    """What one test makes fail is no reason for another to avoid it."""
    yield
    if (module := sys.modules.get("unirouter_plugins.litellm.health")) is not None:
        module.HEALTH.store.clear()


@pytest.fixture(scope="session")
def world():
    """240 prompts and what eight models did on them; see `SKILLS`."""
    return make_world()


def onboarded(world):
    """A fresh router with poet, sage, tutor and scholar in its pool."""
    router = fitted(world)
    for model in ("poet", "sage", "tutor", "scholar"):
        router.onboard(evaluation(world, model))
    return router


@pytest.fixture
def router(world):
    """A fresh router with poet, sage, tutor and scholar in its pool."""
    return onboarded(world)


@pytest.fixture(scope="session")
def asked_router(world):
    """The same router for all tests that only ask it and change nothing."""
    return onboarded(world)


@contextlib.contextmanager
def refused(case, match):
    """Expect an `InvalidDataError`, in a loop over cases: a failure names the case."""
    try:
        with pytest.raises(InvalidDataError, match=match):
            yield
    except (AssertionError, pytest.fail.Exception) as failed:
        pytest.fail(f"{case}: {failed}")


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # run in the background: Ctrl-C must still reach children


SLOW = ("test_cookbook", "test_demo", "test_live_commands", "test_readme")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slowest files, so that no process ends with one while the others have nothing to do."""
    items.sort(key=lambda item: item.path.stem not in SLOW)
