"""Selectors: of several query engines, retrievers or tools, the one whose model is picked, or that an LLM selects."""

import pytest
from llama_index.core.objects import ObjectIndex
from llama_index.core.query_engine import RouterQueryEngine, ToolRetrieverRouterQueryEngine
from llama_index.core.retrievers import RouterRetriever
from llama_index.core.schema import QueryBundle
from llama_index.core.tools import FunctionTool, QueryEngineTool, RetrieverTool, ToolMetadata
from llama_index.core.workflow import StartEvent, StopEvent, Workflow, step

from tests.plugins.scripted_llm import (
    PLACES,
    POEM,
    SUM,
    index,
    scripted,
    settings,  # noqa: F401 - a fixture
)
from unirouter_core import InvalidDataError, UnknownModelError
from unirouter_plugins.llamaindex import UniRouterLLM, UniRouterSelector

pytestmark = pytest.mark.usefixtures("settings")

MODELS = ("sage", "poet", "tutor")


@pytest.fixture
def llms(asked_router):
    return scripted(asked_router)


@pytest.fixture
def selector(asked_router):
    """Sums go to the tutor, poems to the poet."""
    return UniRouterSelector(asked_router, cost_weight=300)


@pytest.fixture
def engines(llms):
    """Three query engines, each named as its model."""
    whole = index()
    return [QueryEngineTool.from_defaults(whole.as_query_engine(llms[m]), name=m, description="Shops.") for m in MODELS]


def choices(*names):
    return [ToolMetadata(name=name, description=f"{name}.") for name in names]


def test_the_choice_is_the_one_whose_model_the_router_picks(selector, asked_router):
    for prompt in (SUM, POEM):
        result = selector.select(choices(*MODELS), prompt)
        decision = asked_router.route(prompt, cost_weight=300, models=MODELS)
        assert MODELS[result.ind] == decision.model
        assert f"{decision.model} is expected to err by {decision.error:.3f} for ${decision.cost:.3g}" in result.reason
        assert f"cluster {decision.region}" in result.reason


async def test_the_order_of_the_choices_changes_nothing(selector):
    for names in (MODELS, MODELS[::-1]):
        assert names[selector.select(choices(*names), POEM).ind] == "poet"
        assert names[(await selector.aselect(choices(*names), QueryBundle(POEM))).ind] == "poet"


async def test_a_router_query_engine_asks_the_engine_of_the_picked_model(selector, engines, llms):
    engine = RouterQueryEngine(selector, engines, llm=llms["sage"])
    for prompt, model in ((SUM, "tutor"), (POEM, "poet")):
        for response in (engine.query(prompt), await engine.aquery(prompt)):
            assert response.response.startswith(f"{model} heard: Context information is below.")
            assert response.metadata["selector_result"].ind == MODELS.index(model)
    assert not llms["sage"].asked  # nobody was asked to select


async def test_a_router_retriever_asks_the_retriever_of_the_picked_model(selector, llms):
    tools = [
        RetrieverTool.from_defaults(index().as_retriever(similarity_top_k=n + 1), name=model, description="Shops.")
        for n, model in enumerate(MODELS)
    ]
    retriever = RouterRetriever(selector, tools, llm=llms["sage"])
    assert len(retriever.retrieve(SUM)) == len(await retriever.aretrieve(SUM)) == 3
    assert len(retriever.retrieve(POEM)) == 2


async def test_a_step_of_a_workflow_goes_on_with_the_choice(selector, engines):
    class Asking(Workflow):
        @step
        async def ask(self, event: StartEvent) -> StopEvent:
            result = await selector.aselect([engine.metadata for engine in engines], event.query)
            return StopEvent(str(await engines[result.ind].query_engine.aquery(event.query)))

    for prompt, model in ((SUM, "tutor"), (POEM, "poet")):
        assert (await Asking().run(query=prompt)).startswith(f"{model} heard")


async def test_tools_that_were_retrieved_are_narrowed_to_the_one_of_the_picked_model(selector, engines, llms):
    retriever = selector.narrow(ObjectIndex.from_objects(engines).as_retriever(similarity_top_k=3))
    assert [tool.metadata.name for tool in retriever.retrieve(POEM)] == ["poet"]
    assert [tool.metadata.name for tool in await retriever.aretrieve(SUM)] == ["tutor"]
    engine = ToolRetrieverRouterQueryEngine(retriever, llm=llms["sage"])
    assert engine.query(POEM).response.startswith("poet heard")
    assert (await engine.aquery(SUM)).response.startswith("tutor heard")


def test_choices_may_be_bound_to_models_under_other_names(asked_router):
    bound = UniRouterSelector(asked_router, models={"arithmetic": "tutor", "verse": "poet"}, cost_weight=300)
    assert bound.select(choices("verse", "arithmetic"), SUM).ind == 1


def test_a_selector_goes_by_the_llm_s_cost_weight(asked_router, llms):
    llm = UniRouterLLM(asked_router, llms, cost_weight=float("inf"))
    assert MODELS[UniRouterSelector(llm).select(choices(*MODELS), SUM).ind] == "poet"


# --- Then an LLM selects ----------------------------------------------------------------------------------------------

WHERE = [ToolMetadata(name=f"shops_{place.lower()}", description=f"Shops in {place}.") for place in PLACES]


def asking(router, answer, **how):
    """A selector that asks LLMs without tools, all of which give the same answer."""
    said = {"calls_tools": False, "says": {"Some choices are given below": answer}, **how}
    return UniRouterSelector(UniRouterLLM(router, scripted(router, said), cost_weight=300), then_select_tool=True)


def chosen(number):
    return f'```json\n[{{"choice": {number}, "reason": "It is there."}}]\n```'


async def test_the_picked_llm_selects_by_the_descriptions(asked_router):
    selector = asking(asked_router, chosen(3))
    for result in (selector.select(WHERE, SUM), await selector.aselect(WHERE, SUM)):
        assert result.ind == 2
        assert result.reason == "tutor selected it: It is there."
    assert selector.select(WHERE, POEM).reason == "poet selected it: It is there."


def test_the_picked_llm_may_select_by_a_tool_call(asked_router):
    selector = UniRouterSelector(
        UniRouterLLM(asked_router, scripted(asked_router), cost_weight=300), then_select_tool=True
    )
    result = selector.select(WHERE, "What is 14 plus 37?")
    assert 0 <= result.ind < len(WHERE)
    assert result.reason.startswith("tutor selected it: ")


def test_the_engine_that_was_selected_answers_with_the_same_model(asked_router):
    selector = asking(asked_router, chosen(1))
    engine = QueryEngineTool.from_defaults(index().as_query_engine(selector.llm), name="shops", description="Shops.")
    response = RouterQueryEngine(selector, [engine], llm=selector.llm).query(SUM)
    assert [(call["model"], call["why"]) for call in response.metadata["unirouter_calls"]] == [
        ("tutor", "routed"),
        ("tutor", "query"),
    ]


@pytest.mark.parametrize("number", [0, 5])
def test_a_choice_that_is_not_there_is_refused(asked_router, number):
    with pytest.raises(InvalidDataError, match=f"'tutor' selected choice {number} of 4"):
        asking(asked_router, chosen(number)).select(WHERE, SUM)


# --- Bad input -------------------------------------------------------------------------------------------------------


def test_bad_input_is_one_clear_sentence(asked_router, selector, llms):
    no_tool = FunctionTool.from_defaults(lambda: None, name="gpt-9", description="?").metadata
    for make, kind, match in [
        (lambda: UniRouterSelector("my.router"), InvalidDataError, "neither a UniRouter nor a UniRouterLLM"),
        (lambda: UniRouterSelector(asked_router, then_select_tool=True), InvalidDataError, "give a UniRouterLLM"),
        (lambda: UniRouterSelector(asked_router, cost_weight="low"), InvalidDataError, "cost_weight='low'"),
        (lambda: selector.select([*choices("poet"), no_tool], SUM), UnknownModelError, "'gpt-9' is bound to no model"),
        (lambda: selector.select(["Shops in Rome."], SUM), InvalidDataError, "'Shops in Rome.' has no name"),
        (lambda: selector.select(choices("poet", "poet"), SUM), InvalidDataError, "Two choices are bound to 'poet'"),
        (lambda: selector.select([], SUM), InvalidDataError, "at least one choice"),
        (lambda: selector.select(choices("poet"), " "), InvalidDataError, "empty"),
    ]:
        with pytest.raises(kind, match=match) as raised:
            make()
        assert str(raised.value).count("\n") == 0
