"""The decision model in LangChain's own `ModelRouterMiddleware`: measured choices, and no run that it ends."""

import asyncio

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

pytest.importorskip("langchain_core.decisions", reason="Decision models came with langchain-core 1.8.")
from langchain.agents.middleware import ModelChoice, ModelRouterMiddleware
from langchain_core.decisions import Choice, Noul

from tests.plugins.scripted_chat import ScriptedChat, chats
from tests.plugins.test_langchain_agents import plus
from unirouter_core import InvalidDataError, UnknownModelError
from unirouter_plugins.langchain import UniRouterDecision

SUM, POEM = "What is 14 plus 37?", "Write a poem of 3 lines about the rain."
IMAGE = {"type": "image", "url": "https://example.org/a.png"}

pytestmark = pytest.mark.filterwarnings("ignore:.*beta:langchain_core._api.LangChainBetaWarning")


def agent_of(router, classifier, labels):
    """An agent whose models are those that the labels stand for."""
    models = chats(router)
    choices = {label: ModelChoice(model=models[model], criteria="") for label, model in labels.items()}
    routing = ModelRouterMiddleware(choices=choices, instructions="Which?", classifier=classifier)
    return create_agent(ScriptedChat(model_name="none"), [plus], middleware=[routing])


def answered(run):
    """The models that answered in an agent's run."""
    return [m.response_metadata["model_name"] for m in run["messages"] if isinstance(m, AIMessage)]


def asked(classifier, state, *labels):
    question = Choice(instructions="Which?", criteria=dict.fromkeys(labels or ("poet", "sage", "tutor")))
    return classifier.invoke({"state": state, "questions": {"model": question}}).choices["model"]


@pytest.fixture
def classifier(asked_router):
    return UniRouterDecision(asked_router, cost_weight=300)


@pytest.mark.parametrize(("prompt", "model", "calls"), [(SUM, "tutor", 2), (POEM, "poet", 1)])
def test_an_agent_s_run_goes_to_the_model_that_the_router_picks(asked_router, classifier, prompt, model, calls):
    agent = agent_of(asked_router, classifier, {name: name for name in asked_router.pool})
    asking = {"messages": [("user", prompt)]}
    for run in (agent.invoke(asking), asyncio.run(agent.ainvoke(asking))):
        assert answered(run) == [model] * calls
        assert run["model_route"].choice == asked_router.route(prompt, cost_weight=300).model == model


def test_labels_stand_for_models_of_the_pool(asked_router):
    labels = {"fast": "poet", "exact": "tutor"}
    classifier = UniRouterDecision(asked_router, models=labels, cost_weight=300)
    agent = agent_of(asked_router, classifier, labels)
    assert answered(agent.invoke({"messages": [("user", SUM)]})) == ["tutor", "tutor"]
    assert asked(classifier, POEM, "exact", "fast").choice == "fast"


def test_the_probabilities_are_of_being_the_best_given_what_was_measured(asked_router, classifier):
    answer = asked(classifier, SUM)
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    assert list(answer.probabilities) == ["poet", "sage", "tutor"]
    assert answer.confidence == answer.probabilities["tutor"] > 0.7
    assert asked(UniRouterDecision(asked_router, cost_weight=float("inf")), SUM).probabilities["poet"] == 1


def test_the_same_question_has_the_same_answer(classifier):
    assert asked(classifier, POEM) == asked(classifier, POEM) == asked(classifier, {"messages": [HumanMessage(POEM)]})


@pytest.mark.parametrize(
    "state",
    ["", " \n", HumanMessage(""), HumanMessage([IMAGE]), "word " * 200_000, {"ticket": {"n": 1, "text": SUM}}, [], 7],
    ids=["empty", "blank", "empty message", "image", "endless", "JSON", "no message", "a number"],
)
def test_no_input_ends_a_run(classifier, state):
    answer = asked(classifier, state)
    assert answer.choice in ("poet", "sage", "tutor")
    assert answer.probabilities[answer.choice] == answer.confidence


def test_messages_are_routed_on_the_newest_of_the_user(classifier):
    assert asked(
        classifier, [SystemMessage(POEM), HumanMessage(POEM), AIMessage("Rain."), HumanMessage(SUM)]
    ).choice == ("tutor")


def test_a_label_of_no_model_is_never_chosen(classifier):
    with pytest.warns(UserWarning, match="'other' stands for no model of the pool"):
        assert asked(classifier, SUM, "other", "poet", "tutor").probabilities["other"] == 0
    with pytest.raises(UnknownModelError, match="give models="):
        asked(classifier, SUM, "fast", "exact")


def test_two_labels_may_stand_for_one_model(asked_router):
    answer = asked(UniRouterDecision(asked_router, models={"a": "tutor", "b": "tutor"}), SUM, "a", "b")
    assert (answer.choice, answer.probabilities) == ("a", {"a": 1.0, "b": 0.0})


def test_a_question_that_is_no_choice_is_refused(classifier):
    with pytest.raises(InvalidDataError, match="'urgent' is a noul; UniRouterDecision answers a Choice"):
        classifier.invoke({"state": SUM, "questions": {"urgent": Noul(instructions="Is it urgent?")}})
