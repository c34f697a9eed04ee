"""The LLM that routes, in LlamaIndex's engines, with a router that knows the documents: it reads the nodes."""

import asyncio

import pytest
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.response.schema import Response
from llama_index.core.chat_engine import CondensePlusContextChatEngine, ContextChatEngine
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine, SubQuestionQueryEngine
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.question_gen.types import SubQuestion
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.tools import QueryEngineTool, ToolMetadata

from tests.plugins.scripted_llm import memory, scripted, settings  # noqa: F401 - a fixture
from tests.shop import routing, shop
from unirouter_core import Documents
from unirouter_plugins.llamaindex import UniRouterLLM, one_query, record_decisions

pytestmark = pytest.mark.usefixtures("settings")

ASKS = "What does the red kettle cost?"
HOLDS = "The red kettle costs 31 dollars in all of our shops."
OTHERS = ["Warranty: the soft rope is covered for 12 months.", "The old map is sold in 12 sizes."]


@pytest.fixture(scope="module")
def router():
    """The reader answers what the documents hold, the knower the rest."""
    return routing(shop())


@pytest.fixture
def llm(router):
    return UniRouterLLM(router, scripted(router))


class Finds(BaseRetriever):
    """Finds the same for every question."""

    def __init__(self, texts, scores=None):
        super().__init__()
        self.texts, self.scores = texts, scores or [0.8, 0.4, 0.4][: len(texts)]

    def _retrieve(self, query_bundle):
        pairs = zip(self.texts, self.scores, strict=True)
        return [NodeWithScore(node=TextNode(text=text), score=score) for text, score in pairs]


HOLDING, LACKING = Finds([HOLDS, *OTHERS]), Finds([*OTHERS, OTHERS[0]], [0.45, 0.4, 0.4])


def engine(llm, found, **how):
    return RetrieverQueryEngine.from_args(found, llm=llm, **how)


def model_of(response):
    return response.metadata["unirouter"]["model"]


@pytest.mark.parametrize("mode", ["compact", "refine", "tree_summarize", "accumulate"])
def test_a_query_goes_where_the_nodes_say(llm, mode):
    assert model_of(engine(llm, HOLDING, response_mode=mode).query(ASKS)) == "reader"
    assert model_of(engine(llm, LACKING, response_mode=mode).query(ASKS)) == "knower"


async def test_async_and_streamed_queries_go_there_too(llm):
    for found, model in ((HOLDING, "reader"), (LACKING, "knower")):
        assert model_of(await engine(llm, found).aquery(ASKS)) == model
        streamed = engine(llm, found, streaming=True).query(ASKS)
        assert f"{model} heard" in "".join(streamed.response_gen)
        assert model_of(streamed) == model
        streamed = await engine(llm, found, streaming=True).aquery(ASKS)
        assert f"{model} heard" in "".join([part async for part in streamed.response_gen])


def test_the_decision_is_the_router_s_own_on_question_texts_and_scores_at_the_price_of_all_that_is_sent(llm, router):
    response = engine(llm, HOLDING).query(ASKS)
    told = response.metadata["unirouter"]
    found = Documents([HOLDS, *OTHERS], [0.8, 0.4, 0.4])
    sent = llm.models["reader"].asked[-1][0]
    tokens = router.fit_.token_counter.count([message.content for message in sent]).sum()
    decision = router.route(ASKS, documents=found, tokens_in=tokens)
    assert told["expected_error"] == pytest.approx(decision.error)
    assert told["expected_usd"] == pytest.approx(decision.cost)


class WithoutKettles(BaseNodePostprocessor):
    """Puts another node in the place of each that speaks of a kettle."""

    def _postprocess_nodes(self, nodes, query_bundle=None):
        other = NodeWithScore(node=TextNode(text=OTHERS[0]), score=0.4)
        return [other if "kettle" in each.get_content() else each for each in nodes]


def test_the_nodes_that_count_are_those_that_postprocessors_leave(llm):
    cut = engine(llm, HOLDING, node_postprocessors=[WithoutKettles()])
    assert model_of(cut.query(ASKS)) == "knower"
    assert model_of(engine(llm, HOLDING).query(ASKS)) == "reader"


def test_a_synthesizer_on_its_own_reads_the_nodes_it_is_given(llm):
    synthesizer = get_response_synthesizer(llm)
    for found, model in ((HOLDING, "reader"), (LACKING, "knower")):
        assert model_of(synthesizer.synthesize(ASKS, found.retrieve(ASKS))) == model


@pytest.mark.parametrize("kind", [ContextChatEngine, CondensePlusContextChatEngine])
def test_chat_engines_go_where_their_nodes_say(llm, kind):
    for found, model in ((HOLDING, "reader"), (LACKING, "knower")):
        chat = kind.from_defaults(retriever=found, llm=llm, memory=memory())
        with record_decisions() as decisions:
            chat.chat(ASKS)
            "".join(chat.stream_chat(ASKS).response_gen)
        assert decisions[0]["model"] == model
        assert decisions[-1]["model"] == model


class OwnEngine(BaseQueryEngine):
    """Retrieves and asks by hand."""

    def __init__(self, retriever, llm):
        super().__init__(None)
        self.retriever, self.llm = retriever, llm

    def _query(self, query_bundle):
        texts = [node.get_content() for node in self.retriever.retrieve(query_bundle)]
        return Response(self.llm.complete("\n".join([*texts, query_bundle.query_str])).text)

    async def _aquery(self, query_bundle):
        raise NotImplementedError

    def _get_prompt_modules(self):
        return {}


def test_an_engine_of_one_s_own_needs_no_synthesizer(llm):
    assert model_of(OwnEngine(retriever=HOLDING, llm=llm).query(ASKS)) == "reader"
    assert model_of(OwnEngine(retriever=LACKING, llm=llm).query(ASKS)) == "knower"


def test_other_code_may_say_what_it_found(llm):
    for found, model in ((HOLDING, "reader"), (LACKING, "knower")):
        with one_query(ASKS, [*found.texts]), record_decisions() as decisions:
            llm.complete("\n".join([*found.texts, ASKS]))
        assert decisions[0]["model"] == model


@pytest.mark.parametrize("use_async", [False, True])
def test_each_step_of_a_query_has_its_own_nodes(router, use_async):
    llm = UniRouterLLM(router, scripted(router), per_step=True)
    tools = [
        QueryEngineTool(engine(llm, found), ToolMetadata(name=name, description=name))
        for name, found in (("holding", HOLDING), ("lacking", LACKING))
    ]
    whole = SubQuestionQueryEngine.from_defaults(
        tools, llm=llm, question_gen=_Both(), use_async=use_async, response_synthesizer=get_response_synthesizer(llm)
    )
    with record_decisions() as decisions:
        whole.query("How do the kettle's prices compare?")
    assert sorted(decision["model"] for decision in decisions[:2]) == ["knower", "reader"]


class _Both(LLMQuestionGenerator):
    """Asks both tools the same, and no LLM for it."""

    def __init__(self):
        pass

    def generate(self, tools, query):
        return [SubQuestion(sub_question=ASKS, tool_name=tool.name) for tool in tools]

    async def agenerate(self, tools, query):
        return self.generate(tools, query)


def test_a_model_picked_before_anything_was_found_is_picked_anew_once(llm):
    class Rephrases(OwnEngine):
        def _query(self, query_bundle):
            self.llm.complete(f"Rephrase: {query_bundle.query_str}")
            super()._query(query_bundle)
            return super()._query(query_bundle)

    for found, model in ((HOLDING, "reader"), (LACKING, "knower")):
        response = Rephrases(retriever=found, llm=llm).query(ASKS)
        models, why = zip(*((c["model"], c["why"]) for c in response.metadata["unirouter_calls"]), strict=True)
        assert models[1:] == (model, model)
        assert why == ("routed", "routed", "query")


async def test_many_queries_at_once_mix_nothing(llm):
    engines = [(engine(llm, found), model) for found, model in ((HOLDING, "reader"), (LACKING, "knower"))] * 25
    responses = await asyncio.gather(*(each.aquery(ASKS) for each, _ in engines))
    assert [model_of(response) for response in responses] == [model for _, model in engines]


def test_a_router_that_was_not_fitted_with_documents_routes_as_before(asked_router):
    llm = UniRouterLLM(asked_router, scripted(asked_router), cost_weight=300)
    question = "What is 14 plus 37?"
    told = [engine(llm, found).query(question).metadata["unirouter"] for found in (HOLDING, LACKING)]
    assert told[0]["expected_error"] == told[1]["expected_error"]


@pytest.mark.parametrize("score", [None, float("-inf"), float("nan")])
def test_nodes_without_a_score_are_read_by_their_text(llm, score):
    assert model_of(engine(llm, Finds([HOLDS, *OTHERS], [score] * 3)).query(ASKS)) == "reader"
    assert model_of(engine(llm, Finds([*OTHERS, OTHERS[0]], [score] * 3)).query(ASKS)) == "knower"


def test_a_query_that_finds_nothing_is_answered_as_without_a_router(llm):
    for response in (engine(llm, Finds([])).query(ASKS), engine(llm, Finds([]), streaming=True).query(ASKS)):
        assert str(response) == "Empty Response"
        assert "unirouter" not in (response.metadata or {})  # nobody was asked
