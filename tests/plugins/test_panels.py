"""Panels: who is asked what, a budget that is never exceeded, and calls in every way like those of any model."""

import asyncio
import dataclasses
import json
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import evaluation, fitted, onboarded
from tests.plugins.onboarding.killing import SUMS
from unirouter_core import InvalidDataError, NoCandidateError, Prices
from unirouter_core.pool import Pool
from unirouter_plugins.langchain import RouterRunnable
from unirouter_plugins.litellm import acomplete, astream, complete, configured, load_router, record_of, stream
from unirouter_plugins.litellm.checks import asking, named_checks
from unirouter_plugins.litellm.failures import open_litellm
from unirouter_plugins.litellm.panels import PANEL, Inside, convene, inside, planned
from unirouter_plugins.litellm.pool_file import Member, Members, read_members
from unirouter_plugins.litellm.pool_schema import Panel, Votes
from unirouter_plugins.litellm.prices import PROFILE, Quote
from unirouter_plugins.litellm.programs import VOTES, enter_provider, register
from unirouter_plugins.llamaindex import UniRouterLLM
from unirouter_plugins.onboarding import OnboardingOptions, plan_onboarding, run_onboarding
from unirouter_plugins.onboarding.ask import PreflightError
from unirouter_plugins.onboarding.questions import Questions

ASKED = "Which is more, 14 plus 37 or 20 plus 31?"
FIRST, SECOND = "What is 14 plus 37?", "What is 20 plus 31?"
MODELS = ("poet", "sage", "tutor", "scholar")
USD = Prices(1.0, 2.0).cost(10, 5)  # of each scripted answer
OTHERS = {name: Member(name, f"panelists/{name}", prices=Prices(1.0, 2.0)) for name in MODELS}
ONLY = {"models": ["panel"]}


def plan(*questions):
    return json.dumps({"questions": questions})


class Script:
    """What each model answers: a text, an exception, or a function of the prompt; and what it was sent."""

    says, calls = {}, []

    def answer(self, model, messages, **how):
        litellm, prompt = open_litellm(), messages[-1]["content"]
        self.calls.append((model, prompt, how["optional_params"]))
        said = self.says[model](prompt) if callable(self.says[model]) else self.says[model]
        if isinstance(said, Exception):
            raise said
        choices = [{"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}]
        return litellm.ModelResponse(model=model, choices=choices, usage=litellm.Usage(10, 5))

    def sent(self, model):
        return [prompt for name, prompt, _ in self.calls if name == model]


SCRIPT = Script()


def provider():
    class Told(open_litellm().CustomLLM):
        def completion(self, model, messages, **how):
            return SCRIPT.answer(model, messages, **how)

        async def acompletion(self, model, messages, **how):
            return SCRIPT.answer(model, messages, **how)

    return Told()


@pytest.fixture
def script():
    """The poet plans, the tutor is the last to answer, and the sage answers all questions: it is never wrong."""
    enter_provider("panelists", f"{__name__}:provider", provider)
    SCRIPT.says = {"poet": plan(FIRST, SECOND), "sage": "It is 51.", "tutor": "They are equal.", "scholar": "Hm."}
    SCRIPT.calls = []
    return SCRIPT


@pytest.fixture(scope="module")
def measured(world):
    """A router whose pool has a panel, measured to be as an editor, and with costs of whole calls only."""
    router = onboarded(world)
    router.onboard(dataclasses.replace(evaluation(world, "editor"), model="panel", prices=None))
    return router


@pytest.fixture
def panel(script, measured):
    """A function that returns that router, its models called by the script."""

    def make(pool=None, **how):
        own = Panel(**{"planner": "poet", "aggregator": "tutor", "budget": 1.0} | how)
        table = Members({**OTHERS, "panel": Member("panel", "panelists/tutor", panel=own)})
        register(table)
        return configured(measured if pool is None else measured.with_pool(pool), table)

    return make


def text(response):
    return response.choices[0].message.content


def roles(record):
    return [(call["role"], call["model"]) for call in record["inner"]]


# --- Who is asked what ------------------------------------------------------------------------------------------------


def test_the_router_s_choice_answers_each_question_and_the_aggregator_reads_the_answers(panel, script):
    router = panel()
    assert text(complete(router, ASKED, **ONLY)) == "They are equal."
    assert "> user: " + ASKED in script.sent("poet")[0]
    assert sorted(script.sent(router.route(FIRST, models=MODELS).model)) == [FIRST, SECOND]
    (told,) = script.sent("tutor")
    assert told.startswith(ASKED)
    assert told.count("Answer: It is 51.") == 2


def test_each_inner_call_is_in_the_record_and_their_sum_is_the_price(panel):
    response = complete(panel(), ASKED, **ONLY)
    record = record_of(response)
    expected = [("planner", "poet"), ("question", "sage"), ("question", "sage"), ("aggregator", "tutor")]
    assert roles(record.as_dict()) == expected
    assert record.usd == pytest.approx(4 * USD)
    assert response._hidden_params["response_cost"] == pytest.approx(4 * USD)
    assert response._hidden_params[PANEL]["calls"] == list(record.inner)
    assert (response.usage.prompt_tokens, response.usage.completion_tokens) == (40, 20)


NO_PLANS = ["", "I would rather not.", "[]", "{}", '{"questions": 3}', plan(), plan("", " "), "[" * 100_000, '{"que']


def test_without_a_usable_plan_the_question_is_answered_directly(panel, script):
    for said in [*NO_PLANS, plan("x" * 3_000), RuntimeError("down")]:
        script.says["poet"], script.calls = said, []
        record = record_of(complete(panel(), ASKED, **ONLY)).as_dict()
        assert roles(record) == [("planner", "poet"), ("aggregator", "tutor")]
        assert script.sent("tutor") == [ASKED]


@pytest.mark.parametrize(
    ("said", "questions"),
    [
        (f"<think>{plan('No?')}</think>\n```json\n{plan('Yes?')}\n```", ["Yes?"]),
        ('["A?", {"question": "B?"}, 7, null, "A?"]', ["A?", "B?"]),
        (plan(*(f"{n}?" for n in range(9))), ["0?", "1?", "2?", "3?"]),
        (plan("Known?", "New?"), ["New?"]),
    ],
)
def test_plans_are_read_tolerantly(said, questions):
    assert planned(said, ["Known?"]) == questions


@given(st.text(max_size=200))
def test_whatever_a_planner_says_a_plan_is_a_short_list_of_texts(said):
    questions = planned(said)
    assert len(questions) <= 4
    assert all(isinstance(question, str) and question for question in questions)


def test_further_rounds_read_what_is_known_and_end_when_the_planner_asks_no_more(panel, script):
    script.says["poet"] = lambda prompt: plan(SECOND) if "It is 51." in prompt else plan(FIRST)
    record = record_of(complete(panel(rounds=3), ASKED, **ONLY)).as_dict()
    assert [role for role, _ in roles(record)] == ["planner", "question"] * 2 + ["planner", "aggregator"]


def test_a_question_whose_model_fails_is_left_out(panel, script):
    script.says["sage"] = lambda prompt: RuntimeError("down") if prompt == FIRST else "It is 51."
    record = record_of(complete(panel(), ASKED, **ONLY))
    assert [("failed" in call) for call in record.inner] == [False, True, False, False]
    assert FIRST not in script.sent("tutor")[0]
    assert SECOND in script.sent("tutor")[0]


def test_when_the_aggregator_fails_the_next_model_answers_and_all_is_paid_for(panel, script):
    script.says["tutor"] = open_litellm().RateLimitError("Slow down.", "panelists", "tutor")
    record = record_of(complete(panel(), ASKED, models=["panel", "poet"]))
    assert (record.model, list(record.failures)) == ("poet", ["panel"])
    assert [call["usd"] for call in record.inner] == [pytest.approx(USD)] * 3 + [0.0]
    assert record.usd == pytest.approx(4 * USD)


def test_panels_are_no_models_for_questions(panel):
    from unirouter_plugins.litellm import snapshot_of

    asks = snapshot_of(panel()).inside()
    assert not asks.decide(FIRST).is_eligible("panel")


def test_a_panel_of_a_panel_is_refused_in_one_sentence(panel):
    with pytest.raises(open_litellm().NotFoundError, match="planner of the panel 'panel' is 'panel', a panel itself;"):
        complete(panel(planner="panel"), ASKED, **ONLY)
    with pytest.raises(open_litellm().NotFoundError, match="is 'absent', which is neither in the pool nor in pool"):
        complete(panel(aggregator="absent"), ASKED, **ONLY)


def test_a_panel_outside_of_a_router_is_refused_in_one_sentence(panel):
    member = Member.of(panel().pool["panel"])
    with pytest.raises(open_litellm().BadRequestError, match="'panel' is a panel, which asks a router's models; call"):
        open_litellm().completion(model=member.called, messages=[{"role": "user", "content": ASKED}])


def test_in_a_tool_loop_the_aggregator_alone_is_asked(panel, script):
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    loop = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    loop += [{"role": "tool", "tool_call_id": "1", "content": "51"}]
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    record = record_of(complete(panel(), loop, tools=tools, **ONLY)).as_dict()
    assert roles(record) == [("aggregator", "tutor")]
    assert script.calls[-1][2]["tools"] == tools


def test_several_answers_and_logprobs_are_not_asked_of_a_panel(panel):
    with pytest.raises(NoCandidateError, match="Votes and panels give one answer"):
        complete(panel(), ASKED, n=2, **ONLY)


# --- Onboarding -------------------------------------------------------------------------------------------------------

RIGHT = {question.prompt: question.reference for question in SUMS}


@pytest.fixture
def begin(panel, script, world, tmp_path):
    """A function that makes the plan to onboard the panel into a router that has the other models, or none."""
    script.says["tutor"] = lambda prompt: RIGHT[prompt.split("\n\n")[0]]
    table = Members({**OTHERS, "panel": Member.of(panel(budget=0.02).pool["panel"])})

    def made(into, **more):
        options = {"pool": table, "store": tmp_path / "answers.sqlite", "replace": True, **more}
        return plan_onboarding(into, ["panel"], OnboardingOptions(validation=Questions(SUMS), **options))

    return made


def test_a_panel_is_onboarded_like_any_model_and_called_from_the_folder(begin, script, world, tmp_path):
    router = onboarded(world)
    plan = begin(router)
    assert plan.bill.usd_longest == pytest.approx(0.02 * len(SUMS))
    (one,) = run_onboarding(plan, folder=tmp_path / "my.router")
    assert one.profile.error < 0.1
    assert one.profile.prices is None
    assert one.profile.usd == pytest.approx(4 * USD)
    script.calls = []
    loaded = load_router(tmp_path / "my.router", pool=Members(OTHERS))
    record = record_of(complete(loaded, SUMS[0].prompt, **ONLY))
    assert record.usd == pytest.approx(4 * USD)
    assert loaded.route(SUMS[0].prompt, models=["panel"]).expected("panel")[1] == pytest.approx(4 * USD, rel=0.1)


def test_what_a_panel_s_calls_cost_counts_where_its_last_one_fails(begin, script, world):
    script.says["tutor"] = open_litellm().RateLimitError("Slow down.", "panelists", "tutor")
    plan = begin(onboarded(world), retry_pause=0.001)
    with pytest.raises(PreflightError, match=r"panel: .*Slow down"):
        run_onboarding(plan)
    assert len(script.sent("tutor")) == 3
    assert plan.spent_usd == pytest.approx((len(script.calls) - 3) * USD)


def test_a_panel_needs_other_models_in_the_router_first(begin, world):
    with pytest.raises(InvalidDataError, match="'panel' is a panel, which asks the models of the router, and there is"):
        begin(fitted(world))


# --- The budget -------------------------------------------------------------------------------------------------------


def test_a_budget_below_the_price_of_one_call_is_refused_in_one_sentence(panel, script):
    with pytest.raises(open_litellm().UnsupportedParamsError, match=r"The budget of \$1e-06 .* is below the price of"):
        complete(panel(budget=1e-6), ASKED, **ONLY)
    assert script.calls == []


def test_a_budget_for_one_call_is_spent_on_the_answer(panel, script):
    record = record_of(complete(panel(budget=0.003), ASKED, **ONLY))
    assert roles(record.as_dict()) == [("aggregator", "tutor")]


def test_the_budget_is_for_all_retries_of_a_prompt_together(panel, script):
    script.says["tutor"] = open_litellm().Timeout("late", "tutor", "panelists")
    with pytest.raises(
        open_litellm().UnsupportedParamsError, match=r"panel 'panel', of which attempts before took up to \$0.002"
    ):
        complete(panel(budget=0.003), ASKED, num_retries=3, **ONLY)
    assert script.sent("tutor") == [ASKED]


def test_calls_that_are_cut_off_are_in_the_record_and_count_at_their_worst(script):
    asks = Inside(None, OTHERS, lambda m: Quote(m.prices, PROFILE), lambda m: {"model": m.model})
    own, chat = Panel("poet", "tutor", 0.005), [{"role": "user", "content": ASKED}]
    with inside(asks):
        calls = convene(Member("panel", "tutor", panel=own), chat, {})
        assert next(calls)[0]["model"] == "panelists/poet"
        calls.close()
        assert asks.calls == [{"role": "planner", "model": "poet", "usd": None}]
        (last,) = next(convene(Member("panel", "tutor", panel=own), chat, {}))
    assert last["model"] == "panelists/tutor"


@pytest.mark.parametrize(
    "more",
    [
        {"service_tier": "priority"},
        {"web_search_options": {"search_context_size": "high"}},
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
    ],
)
def test_what_a_budget_cannot_bound_is_refused_before_any_call(panel, script, more):
    with pytest.raises(open_litellm().UnsupportedParamsError, match="whose cost no budget bounds; leave it out"):
        complete(panel(), ASKED, **more, **ONLY)
    assert script.calls == []


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"max_tokens": 10**6}, r"The budget of .* is below the price of one call"),
        ({"max_tokens": -1}, "has max_tokens=-1, whose cost no budget bounds"),
        ({"service_tier": "priority"}, "has service_tier='priority', whose cost no budget bounds"),
    ],
)
def test_what_a_member_s_extra_body_says_counts(script, body, why):
    tutor = dataclasses.replace(OTHERS["tutor"], settings={"max_tokens": 7, "extra_body": body})
    asks = Inside(None, {**OTHERS, "tutor": tutor}, lambda m: Quote(m.prices, PROFILE), lambda m: {"model": m.model})
    panel = Member("panel", "tutor", panel=Panel("poet", "tutor", 1.0))
    with inside(asks), pytest.raises(open_litellm().UnsupportedParamsError, match=why):
        next(convene(panel, [{"role": "user", "content": ASKED}], {"max_completion_tokens": 9}))


def test_of_two_limits_of_an_answer_the_larger_counts(script):
    asks = Inside(None, OTHERS, lambda m: Quote(m.prices, PROFILE), lambda m: {"model": m.model})
    panel, limits = Member("panel", "tutor", panel=Panel("poet", "tutor", 1.0)), {"max_tokens": 7}
    with (
        inside(asks),
        pytest.raises(open_litellm().UnsupportedParamsError, match=r"The budget of .* is below the price"),
    ):
        next(convene(panel, [{"role": "user", "content": ASKED}], {**limits, "max_completion_tokens": 10**6}))


@pytest.mark.parametrize(("kind", "usd"), [("ContentPolicyViolationError", None), ("RateLimitError", 0.0)])
def test_a_failure_that_may_be_billed_is_not_recorded_as_free(panel, script, kind, usd):
    script.says["tutor"] = getattr(open_litellm(), kind)("No.", "tutor", "panelists")
    record = record_of(complete(panel(), ASKED, models=["panel", "poet"], content_policy=True))
    assert record.model == "poet"
    assert record.as_dict()["inner"][-1]["usd"] == usd


def test_a_panel_reads_no_images_whatever_its_table_says(panel, script, tmp_path):
    table = tmp_path / "pool.toml"
    table.write_text(
        '[models.a]\nmodel = "openai/gpt-4.1"\n[models.p]\ncapabilities = { vision = true }\n'
        'panel = { planner = "a", aggregator = "a", budget = 0.1 }\n'
    )
    with pytest.raises(InvalidDataError, match=r"models.p.capabilities.vision is true, but a panel cannot bound its"):
        read_members(table)
    image = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}
    with pytest.raises(open_litellm().UnsupportedParamsError, match="'panel' is a panel, which reads no vision"):
        complete(panel(), [{"role": "user", "content": [{"type": "text", "text": ASKED}, image]}], **ONLY)
    assert script.calls == []


def test_checks_cannot_ask_a_panel(panel):
    members = Members({"panel": Member.of(panel().pool["panel"])})
    with pytest.raises(InvalidDataError, match="check 'second' asks 'panel', a panel, which checks cannot ask; name a"):
        named_checks({"second": {"check": "agreement", "member": "panel"}}, members)
    with pytest.raises(InvalidDataError, match="'panel' is a panel, which checks cannot ask; name a model"):
        asking(members)("panel", [{"role": "user", "content": ASKED}], 0)


USD_PER_M = st.sampled_from([0.0, 0.05, 1.0, 15.0, 600.0])
PLANS = st.lists(st.sampled_from(["A?", "B?", "ü" * 900, "C?" * 700, ""]), max_size=6).map(lambda q: plan(*q))


@settings(max_examples=150)
@given(st.data())
def test_a_prompt_never_costs_more_than_its_budget(data):
    draw, litellm = data.draw, open_litellm()
    prices = {name: Prices(draw(USD_PER_M), draw(USD_PER_M)) for name in MODELS}
    names = ("max_tokens", "max_completion_tokens")
    limit = st.dictionaries(st.sampled_from(names), st.sampled_from([7, 3000]))
    limit |= limit.map(lambda given: {**given, "extra_body": {"max_tokens": 5000}})
    votes = st.sampled_from([None, None, Votes(3, "text")])
    members = {name: Member(name, name, settings=draw(limit), votes=draw(votes), system="s") for name in MODELS}
    budget = draw(st.sampled_from([1e-5, 1e-3, 0.01, 0.1, 3.0]))
    own = Panel("poet", "tutor", budget, rounds=draw(st.integers(1, 3)))
    order = draw(st.permutations(MODELS))
    decision = SimpleNamespace(model=order[0], fallbacks=lambda: iter(order[1:]))
    asks = Inside(
        lambda _: decision, members, lambda m: Quote(prices[m.name], PROFILE), lambda m: {"model": m.name, **m.settings}
    )
    chat, paid = [{"role": "user", "content": draw(st.text(min_size=1, max_size=300))}], 0.0
    kinds = [litellm.Timeout, litellm.ContentPolicyViolationError, litellm.RateLimitError]
    for _ in range(draw(st.integers(1, 3))):  # LiteLLM's retries
        before = paid
        with inside(asks):
            calls, outcomes = convene(Member("panel", "tutor", panel=own), chat, draw(limit)), None
            try:
                while True:
                    step = calls.send(outcomes)
                    outcomes = []
                    for call in step:
                        member = members[call["model"]]
                        limits = [most for name in names for most in (call.get(name),) if most]
                        most = draw(st.sampled_from([*limits, *call.get("extra_body", {}).values()]))
                        sent = [message["content"].encode() for message in [*call["messages"], {"content": "s"}]]
                        tokens_in = int(draw(st.sampled_from([0, 0.3, 1])) * (sum(map(len, sent)) + 4 * len(sent)))
                        tokens_out = int(draw(st.sampled_from([0, 0.5, 1])) * most)
                        failed = draw(st.sampled_from([None, None, None, ValueError("unreadable"), *kinds]))
                        if failed in kinds:
                            failed = failed("late", member.name, "x")
                        if not isinstance(failed, litellm.RateLimitError) or member.votes:  # others may be billed
                            paid += member.samples * prices[member.name].cost(tokens_in, tokens_out)
                        message = {"role": "assistant", "content": draw(PLANS | st.just("text " * 5_000))}
                        answered = draw(st.integers(1, member.samples))  # the other votes are billed, and failed
                        usage = litellm.Usage(answered * tokens_in, answered * tokens_out)
                        answer = litellm.ModelResponse(choices=[{"message": message}], usage=usage)
                        if member.votes:
                            answer._hidden_params[VOTES] = {"samples": member.samples, "answered": answered}
                        outcomes.append(failed or answer)
            except StopIteration as ended:
                told = ended.value._hidden_params["response_cost"]
                assert told is None or told == pytest.approx(paid - before)
            except (ValueError, *kinds, litellm.UnsupportedParamsError):
                pass
    assert paid <= budget * (1 + 1e-9)


# --- Every way to call ------------------------------------------------------------------------------------------------


def test_a_proxy_calls_a_panel_in_the_task_in_which_its_hook_has_picked_it(panel, monkeypatch):
    from unirouter_plugins.serving.hook import RoutingHook
    from unirouter_plugins.serving.watch import Deployments

    router, litellm = panel(), open_litellm()
    hook = RoutingHook(SimpleNamespace(router=router, models=Deployments(), redis=None, start=lambda: None))
    logged = SimpleNamespace(call_type="acompletion", model_call_details={})
    request = {"litellm_logging_obj": logged, "metadata": {"unirouter": {"candidates": ["panel"]}}}
    chat, there = [{"role": "user", "content": ASKED}], [{"model_info": {"id": f"{name}@1"}} for name in router.pool]

    async def served():
        await hook.async_filter_deployments("unirouter", there, chat, request)
        response = await litellm.acompletion(model=Member.of(router.pool["panel"]).called, messages=chat)
        logged.unirouter_call.price(response)
        return response, logged.unirouter_call.end(response)

    response, record = asyncio.run(served())
    assert text(response) == "They are equal."
    assert response._hidden_params["response_cost"] == record.usd == pytest.approx(4 * USD)
    assert record.as_dict()["inner"][0]["role"] == "planner"


async def collected(chunks):
    return [chunk async for chunk in chunks]


def joined(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def test_sync_async_and_streams_give_the_same_answer_and_bill(panel):
    router, streams = panel(), []

    async def asynchronous():
        streams.append(await astream(router, ASKED, **ONLY))
        return await acomplete(router, ASKED, **ONLY), await collected(streams[0])

    response, chunks = asyncio.run(asynchronous())
    streams.append(stream(router, ASKED, **ONLY))
    assert [text(response), joined(chunks), joined(streams[1])] == ["They are equal."] * 3
    for record in (record_of(response), *(each.record for each in streams)):
        assert record.usd == pytest.approx(4 * USD)
        assert len(record.inner) == 4


def test_langchain_calls_a_panel_like_any_model(panel):
    chat = RouterRunnable(panel(), models=None, cost_weight=0)
    only = {"configurable": {"unirouter_models": ["panel"]}}
    answer = chat.invoke(ASKED, only)
    assert answer.content == "They are equal."
    told = answer.response_metadata["unirouter"]
    assert told["usd"] == pytest.approx(4 * USD)
    assert len(told["inner"]) == 4
    assert "".join(part.content for part in chat.stream(ASKED, only)) == "They are equal."
    assert asyncio.run(chat.ainvoke(ASKED, only)).content == "They are equal."


def test_llama_index_calls_a_panel_like_any_model(panel, measured, script):
    llm = UniRouterLLM(panel(Pool({name: measured.pool[name] for name in ("panel", "poet")})))
    script.says["poet"] = lambda prompt: plan(FIRST) if "conversation" in prompt else "It is 51."
    answer = llm.complete(ASKED)
    assert answer.text == "They are equal."
    told = answer.additional_kwargs["unirouter"]
    assert roles(told) == [("planner", "poet"), ("question", "poet"), ("aggregator", "tutor")]
    assert told["usd"] == pytest.approx(3 * USD)
    assert [part.text for part in llm.stream_complete(ASKED)][-1] == "They are equal."
    assert asyncio.run(llm.acomplete(ASKED)).text == "They are equal."
