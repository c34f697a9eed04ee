"""Our classifier in LiteLLM's own Auto Router: tiers by what was measured, in its `Router` and in its proxy."""

import dataclasses
import json
import urllib.request

import pytest

from tests.plugins.servers import KEY, missing_of_extra, serve_proxy
from unirouter_core import InvalidDataError
from unirouter_core.pool import Pool
from unirouter_plugins.litellm import open_litellm, snapshot_of
from unirouter_plugins.litellm.classifier import UniRouterClassifier

SUM, POEM = "What is 14 plus 37?", "Write a poem of 3 lines about the rain."
NAMES = {"cheap": "poet", "exact": "tutor", "dear": "sage"}  # in the config, and in the pool
TIERS = {"SIMPLE": "cheap", "MEDIUM": ["exact"], "COMPLEX": "dear", "REASONING": {"model_name": "dear"}}


def deployments(classifier, **settings):
    """Three models whose answers tell their names, and the Auto Router over them."""
    models = {name: {"model": f"openai/{model}", "mock_response": f"{model} answers"} for name, model in NAMES.items()}
    config = {"tiers": TIERS, "classifier_type": "custom", "classifier_plugin": classifier, **settings}
    return {**models, "auto": {"model": "auto_router/complexity_router", "complexity_router_config": config}}


async def answered(classifier, *prompts, **settings):
    """The models of the pool that answer prompts through LiteLLM's `Router`."""
    listed = [
        {"model_name": name, "litellm_params": {"api_key": "unused", **how}}
        for name, how in deployments(classifier, **settings).items()
    ]
    router = open_litellm().Router(model_list=listed, num_retries=0)
    asked = [[{"role": "user", "content": prompt}] for prompt in prompts]
    answers = [await router.acompletion(model="auto", messages=messages) for messages in asked]
    return [answer.choices[0].message.content.removesuffix(" answers") for answer in answers]


IN_TIERS = {"SIMPLE": "poet", "MEDIUM": ["tutor", "unmeasured"], "COMPLEX": "sage"}


async def test_requests_go_to_the_tier_of_the_model_that_the_router_picks(asked_router):
    classifier = UniRouterClassifier(asked_router, IN_TIERS, cost_weight=300)
    picked = [
        asked_router.route(prompt, cost_weight=300, models=["poet", "tutor", "sage"]).model for prompt in (SUM, POEM)
    ]
    assert await answered(classifier, SUM, POEM) == picked == ["tutor", "poet"]


async def test_tiers_of_the_user_s_own_are_chosen_by_their_names(asked_router):
    own = {"verse": "cheap", "sums": "exact"}
    definitions = [{"name": name, "description": name} for name in own]
    classifier = UniRouterClassifier(asked_router, {"verse": "poet", "sums": "tutor"}, cost_weight=300)
    settings = {"tiers": own, "tier_definitions": definitions, "fallback_tier": "verse"}
    assert await answered(classifier, SUM, POEM, **settings) == ["tutor", "poet"]


@pytest.mark.parametrize(
    ("tiers", "folder", "why"),
    [(None, "no.router", "tiers of the Auto Router are not known"), (IN_TIERS, None, "set UNIROUTER_ROUTER")],
)
async def test_a_classifier_that_cannot_decide_leaves_it_to_litellm(monkeypatch, caplog, tiers, folder, why):
    monkeypatch.setenv("UNIROUTER_ROUTER", folder or "")
    settings = {"classifier_fallback": "default_model", "default_model": "dear"}
    with caplog.at_level("WARNING"):
        assert await answered(UniRouterClassifier(None, tiers), SUM, **settings) == ["sage"]
    assert why in caplog.text


def test_bad_input_is_one_clear_sentence():
    with pytest.raises(InvalidDataError, match="router=7 is no UniRouter"):
        UniRouterClassifier(7)
    with pytest.raises(InvalidDataError, match="cost_weight=-1"):
        UniRouterClassifier(cost_weight=-1)


def test_one_line_of_the_proxy_s_config_is_enough(router, tmp_path, monkeypatch):
    if missing := missing_of_extra("litellm", "proxy"):
        pytest.skip(f"LiteLLM's proxy needs {', '.join(missing)}: pip install 'litellm[proxy]'.")
    router.cost_weight = 300
    named = {
        f"openai/{name}": dataclasses.replace(profile, model=f"openai/{name}") for name, profile in router.pool.items()
    }
    router.with_pool(Pool(named)).save(tmp_path / "my.router")
    monkeypatch.setenv("UNIROUTER_ROUTER", str(tmp_path / "my.router"))
    with serve_proxy(deployments("unirouter_plugins.litellm.classifier.measured")) as url:
        assert [ask(url, prompt) for prompt in (SUM, POEM)] == ["tutor answers", "poet answers"]


def ask(url, prompt):
    body = {"model": "auto", "messages": [{"role": "user", "content": prompt}]}
    headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)["choices"][0]["message"]["content"]


def test_the_pool_is_read_once_until_it_changes(router):
    first = snapshot_of(router)
    assert snapshot_of(router) is first
    router.retire("sage")
    assert set(snapshot_of(router).members) == {"poet", "tutor", "scholar"}
