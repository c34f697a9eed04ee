"""A shop's questions with documents: which model is right depends on whether the answer is in what was retrieved."""

import numpy as np

from unirouter_core import Documents, Evaluation, Outcomes, UniRouter

KINDS = ("red", "blue", "tall", "small", "old", "new", "round", "soft", "folding", "heavy")
WARES = ("lamp", "tent", "chair", "kettle", "jacket", "table", "rope", "stove", "bottle", "map")
ASKED = (
    ("What does the {} cost?", "The {} costs {} dollars in all of our shops."),
    ("How heavy is the {}?", "The weight of the {} is {} grams without its box."),
    ("How long is the warranty of the {}?", "Warranty: the {} is covered for {} months."),
    ("In which sizes is the {} sold?", "The {} is sold in {} sizes."),
)
N_FIT, N_MEASURED = 160, 120  # the other 120 prompts judge
N_FOUND = 3


def shop(*, seed=0, with_scores=True):
    """400 questions, each with three documents, which hold its answer or are of other wares.

    The reader is wrong unless the answer is in the documents, the knower if it is: there it trusts itself. The router
    learns from the other three alone: one like the reader, one like the knower, one that is nearly always wrong.
    """
    rng = np.random.default_rng(seed)
    things = [f"{kind} {ware}" for kind in KINDS for ware in WARES]
    asked = [(thing, form) for thing in things for form in ASKED]
    prompts, documents, holds = [], [], []
    for row in rng.permutation(len(asked)):
        thing, (question, answer) = asked[row]
        others = [other for other in rng.choice(things, N_FOUND + 1, replace=False) if other != thing]
        texts = [ASKED[rng.integers(len(ASKED))][1].format(other, rng.integers(10, 90)) for other in others[:N_FOUND]]
        scores = rng.uniform(0.3, 0.7, N_FOUND)
        if rng.random() < 0.5:
            texts[0], scores[0] = answer.format(thing, rng.integers(10, 90)), rng.uniform(0.5, 0.9)
        prompts.append(question.format(thing))
        documents.append(Documents(texts, scores if with_scores else None))
        holds.append(thing in texts[0])
    held = np.array(holds)
    often = np.where(np.stack([held, ~held, held, ~held, held & ~held], axis=1), 0.08, 0.85)
    errors = rng.random(often.shape) < often
    costs = np.tile([1e-4, 4e-4, 2e-4, 5e-4, 5e-5], (len(prompts), 1))
    return Outcomes(prompts, ["reader", "knower", "a", "b", "c"], errors, costs, documents=documents)


def without_documents(table):
    return Outcomes(table.prompts, table.models, table.errors, table.costs)


def routing(table):
    """A router fitted on the first prompts, its two models measured on the next."""
    router = UniRouter(n_regions=8).fit(table.rows(range(N_FIT)).of(["a", "b", "c"]))
    for model in ("reader", "knower"):
        router.onboard(Evaluation.recorded(model, table.rows(range(N_FIT, N_FIT + N_MEASURED))))
    return router


def judged(table):
    return table.rows(range(N_FIT + N_MEASURED, len(table)))
