"""What `unirouter serve` tells the proxy, and how a request of any of its APIs is read; no proxy is needed."""

import dataclasses
import socket

import pytest
import yaml
from typer.testing import CliRunner

from tests.plugins.test_members import TABLE
from unirouter_core import InvalidDataError, UnknownPriceError
from unirouter_core.exceptions import ArtifactError
from unirouter_core.pool import Pool
from unirouter_plugins.cli import app
from unirouter_plugins.litellm import configured, read_members
from unirouter_plugins.litellm.pool_file import SERVED_AS
from unirouter_plugins.serving import proxy_config
from unirouter_plugins.serving.requests import ProxyRequest

SAYS = [{"role": "user", "content": "What is 2 plus 2?"}]


@pytest.fixture
def served(tmp_path, router):
    """A folder with a router of the models of `TABLE`, and that table."""
    names = {"sage": "fast", "tutor": "llama 3.1/8b", "scholar": "careful"}
    profiles = {n: dataclasses.replace(router.pool[m], model=n, provenance={}) for m, n in names.items()}
    router.with_pool(Pool(profiles)).save(tmp_path / "my.router")
    (tmp_path / "pool.toml").write_text(TABLE.partition("[providers]")[0])
    return tmp_path


def run(*arguments, **variables):
    return CliRunner().invoke(app, ["serve", *map(str, arguments)], env={"LITELLM_MASTER_KEY": "", **variables})


def test_the_config_names_variables_and_holds_no_key(served, monkeypatch):
    monkeypatch.setenv("HOME_KEY", "sk-home-9d31f0c2")
    done = run(served / "my.router", "--config-only", "--timeout", "20", LITELLM_MASTER_KEY="sk-master-5f2a")
    config = yaml.safe_load(done.stdout)
    assert "sk-home" not in done.stdout
    assert "sk-master" not in done.stdout
    each = {one["model_info"]["id"].rpartition("@")[0]: one["litellm_params"] for one in config["model_list"]}
    assert {one["model_name"] for one in config["model_list"]} == {"unirouter"}
    home, fast = each["llama 3.1/8b"], each["fast"]
    assert (home["api_base"], home["api_key"]) == ("http://127.0.0.1:8080/v1", "os.environ/HOME_KEY")
    assert (fast["model"], fast["max_tokens"], fast["extra_body"]) == ("openai/gpt-4.1-nano", 600, {"top_k": 3})
    assert "input_cost_per_token" not in fast  # the list price: LiteLLM knows it
    assert each["careful"]["input_cost_per_token"] == pytest.approx(3e-6)  # as it was measured
    assert each["careful"]["model"].startswith("unirouter/careful@")  # a program
    assert config["environment_variables"]["UNIROUTER_ROUTER"] == str(served / "my.router")
    assert config["router_settings"]["timeout"] == 20
    assert config["general_settings"] == {"master_key": "os.environ/LITELLM_MASTER_KEY"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org"])
def test_others_cannot_call_models_without_a_key(served, host):
    done = run(served / "my.router", "--host", host)
    assert done.exit_code == 2
    assert "set LITELLM_MASTER_KEY" in " ".join(done.stderr.split())


def test_a_port_that_is_taken_is_not_exchanged_for_another(served):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run(served / "my.router", "--port", taken.getsockname()[1])
    assert (done.exit_code, "name another: --port" in " ".join(done.stderr.split())) == (2, True)


def test_a_folder_s_own_addresses_need_trust_as_everywhere(served, router):
    router = configured(router, read_members(served / "pool.toml"))
    kept = {SERVED_AS: {"model": "openai/x", "api_base": "http://evil.example/v1"}}
    profile = dataclasses.replace(router.pool["sage"], provenance=kept)
    with pytest.raises(ArtifactError, match="which you have not named"):
        proxy_config(router.with_pool(Pool({"sage": profile})), served)


def test_what_litellm_cannot_call_or_price_is_refused_before_the_start(served, router):
    with pytest.raises(InvalidDataError, match="how to call it"):
        proxy_config(router, served)
    unpriced = dataclasses.replace(router.pool["sage"], provenance={SERVED_AS: {"model": "openai/x"}}, prices=None)
    with pytest.raises(UnknownPriceError, match="give its prices"):
        proxy_config(router.with_pool(Pool({"sage": unpriced})), served)


def test_headers_win_over_metadata_and_names_are_checked():
    headers = {"x-unirouter-cost-weight": "30", "x-unirouter-candidates": "a, b"}
    given = {
        "metadata": {"unirouter": {"cost_weight": 5, "question": "Why?"}},
        "proxy_server_request": {"headers": headers},
    }
    assert ProxyRequest.of(given, SAYS).options == {"cost_weight": 30, "candidates": ["a", "b"], "question": "Why?"}
    with pytest.raises(InvalidDataError, match="'temperature' is nothing that a request sets"):
        ProxyRequest.of({"metadata": {"unirouter": {"temperature": 1}}}, SAYS)
    with pytest.raises(InvalidDataError, match="must be a number"):
        ProxyRequest.of({"metadata": {"unirouter": {"cost_weight": "nan"}}}, SAYS)


def test_a_responses_request_is_read_as_a_chat():
    tool = {"type": "function", "name": "add", "parameters": {"type": "object", "properties": {}}}
    given = {"instructions": "Be brief.", "input": "What is 2 plus 2?", "tools": [tool], "max_output_tokens": 9}
    request = ProxyRequest.of(given, None)
    assert [message["role"] for message in request.chat.messages] == ["system", "user"]
    assert (request.chat.text, request.chat.requires) == ("What is 2 plus 2?", ("tools",))
    assert request.parameters["max_tokens"] == 9


def test_a_conversation_is_known_by_what_its_client_sent():
    turns = [*SAYS, {"role": "assistant", "content": "4"}, {"role": "user", "content": "And 3 plus 3?"}]
    first, later = (ProxyRequest.of({}, messages) for messages in (SAYS, turns))
    assert later.digests[0] == first.digests[-1] != later.digests[-1]
    dated = [{"role": "system", "content": "It is noon."}, *turns[:1], {"role": "assistant", "content": "Four."}]
    assert ProxyRequest.of({}, dated).digests[0] == first.digests[-1]
    assert later.written_by(["sage"]).chat.answered_by == [None, "sage", None]
