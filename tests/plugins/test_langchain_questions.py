"""Chains that put question and context in one message: they are routed on the question, and the record says so."""

import warnings

import pytest
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda, RunnablePassthrough

from tests.plugins.scripted_chat import ScriptedChat, chats, record
from unirouter_core import InvalidDataError
from unirouter_plugins.langchain import RouterRunnable, UniRouterMiddleware, model_selector, record_decisions
from unirouter_plugins.langchain.questions import INPUTS

SUM, POEM = "What is 14 plus 37?", "Write a poem of 3 lines about the rain."
PAGES = [f"Write a poem of {n} lines about the wind, the sea and the rain in town number {n}." for n in range(9)]
RAG = ChatPromptTemplate.from_template("Answer only from the context:\n{context}\n\nQuestion: {question}")


class Pages(BaseRetriever):
    def _get_relevant_documents(self, query, *, run_manager):
        return [Document(page) for page in PAGES]


def as_text(documents):
    return "\n".join(document.page_content for document in documents)


@pytest.fixture
def llm(asked_router):
    return RouterRunnable(asked_router, chats(asked_router), cost_weight=300)


def named(text):
    return {"configurable": {"unirouter_question": text}}


def stuffed(question=SUM):
    return RAG.invoke({"context": "\n".join(PAGES), "question": question})


def errors_of(made):
    return made["routed_on"], made["expected_error"]


def test_a_message_with_its_context_is_routed_on_the_question_that_is_named(llm, asked_router):
    direct = record(llm.invoke(SUM))
    assert direct["routed_on"] == "prompt"
    answer = record(llm.invoke(stuffed(), named(SUM)))
    assert (answer["routed_on"], answer["model"]) == ("question", direct["model"])
    assert answer["expected_error"] == direct["expected_error"] != record(llm.invoke(stuffed()))["expected_error"]
    assert answer["expected_usd"] > direct["expected_usd"]  # the context is sent, and paid for
    named_one = model_selector(asked_router, cost_weight=300).invoke(stuffed(), named(SUM))
    assert named_one == f"litellm:{direct['model']}"


CHAINS = {
    "a template in a chain": lambda llm: (
        {"context": Pages() | as_text, "question": RunnablePassthrough()} | RAG | llm,
        lambda question: question,
    ),
    "assigned documents": lambda llm: (
        RunnablePassthrough.assign(context=lambda given: as_text(Pages().invoke(given["input"])))
        | ChatPromptTemplate.from_template("{context}\n\n{input}")
        | llm,
        lambda question: {"input": question},
    ),
    "a message made by hand": lambda llm: (
        RunnableLambda(lambda given: "\n".join(PAGES) + "\n\n" + given["question"]) | llm,
        lambda question: {"question": question},
    ),
    "documents in the chain's input": lambda llm: (
        RunnableLambda(lambda given: as_text(given["pages"]) + given["query"]) | llm,
        lambda question: {"query": question, "pages": [Document(page) for page in PAGES]},
    ),
}


@pytest.mark.parametrize("kind", CHAINS)
async def test_a_chain_is_routed_on_the_question_that_it_was_given(llm, kind):
    (chain, given), direct = CHAINS[kind](llm), record(llm.invoke(SUM))
    expected = "question", direct["expected_error"]
    assert errors_of(record(chain.invoke(given(SUM)))) == expected
    assert errors_of(record(await chain.ainvoke(given(SUM)))) == expected
    with record_decisions() as decisions:
        list(chain.stream(given(SUM)))
        [_ async for _ in chain.astream(given(SUM))]
        chain.batch([given(SUM), given(SUM)])
    assert [errors_of(made) for made in decisions] == [expected] * 4
    assert not INPUTS._runs  # nothing is remembered of a chain that has ended


def test_questions_of_a_batch_are_not_mixed_up(llm):
    chain, given = CHAINS["a template in a chain"](llm)
    answers = chain.batch([given(SUM), given(POEM)] * 10)
    assert [record(answer)["model"] for answer in answers] == [record(llm.invoke(q))["model"] for q in (SUM, POEM)] * 10


@pytest.mark.parametrize(
    ("template", "given"),
    [
        ("Translate into French: {input}", {"input": SUM}),
        ("Translate into {language}, in a kind tone and without any slang:\n{input}", {"input": SUM, "language": "it"}),
        ("Write a poem about this question: {question}", {"question": SUM}),
        ("{context}", {"context": "\n".join(PAGES), "question": SUM}),
        ("{task}\n{context}", {"context": "\n".join(PAGES), "task": SUM}),
    ],
)
def test_what_may_be_a_whole_task_is_routed_on_as_it_is(llm, template, given):
    prompt = ChatPromptTemplate.from_template(template)
    made = record((prompt | llm).invoke(given))
    assert errors_of(made) == ("prompt", record(llm.invoke(prompt.invoke(given)))["expected_error"])


def test_an_empty_question_is_the_whole_message(llm):
    chain, given = CHAINS["a template in a chain"](llm)
    assert record(chain.invoke(given(SUM), named("")))["routed_on"] == "prompt"
    with pytest.raises(InvalidDataError, match=r"\['a'\] is no question; give a text"):
        llm.invoke(SUM, named(["a"]))


def test_an_agent_is_routed_on_the_question_that_is_named(llm):
    agents = [
        create_agent(llm, []),
        create_agent(ScriptedChat(model_name="none"), [], middleware=[UniRouterMiddleware(llm)]),
    ]
    for agent in agents:
        asked = {"messages": [("user", "\n".join([*PAGES, SUM]))]}
        answer = record(agent.invoke(asked, named(SUM))["messages"][-1])
        assert errors_of(answer) == ("question", record(llm.invoke(SUM))["expected_error"])


def test_texts_that_repeat_are_warned_of_once_with_the_cure(llm):
    def ask(question, config=None):
        llm.invoke("\n".join([*PAGES, question]), config)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for n in range(4):
            llm.invoke("\n".join(PAGES))  # one text again and again is no template
            llm.invoke(f"What is {n} plus {n}?")
            ask(f"What is {n} plus 1?", named(f"What is {n} plus 1?"))
    ask("What is 2 plus 2?")
    ask("What is 3 plus 3?")
    with pytest.warns(UserWarning, match=r"\d\d% of the text .* same in 3 calls.*unirouter_question"):
        ask("What is 4 plus 4?")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ask("What is 5 plus 5?")
