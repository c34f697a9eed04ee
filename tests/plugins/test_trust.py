"""What a router's folder and a file beside it may decide, and that a key which was sent is shown nowhere."""

import base64
import html
import json
import pickle
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

import httpx
import pytest

from tests.conftest import evaluation
from unirouter_core import ArtifactError, InvalidDataError, UniRouter
from unirouter_plugins.litellm import complete, load_router
from unirouter_plugins.litellm.failures import open_litellm
from unirouter_plugins.litellm.pool_file import SERVED_AS, Member, Members, members_for, read_members
from unirouter_plugins.litellm.programs import register
from unirouter_plugins.litellm.redaction import described, redacted, without_keys
from unirouter_plugins.litellm.routed import Attempts

HOME = {"model": "openai/home", "api_base": "http://127.0.0.1:9/v1", "api_key_env": "HOME_SERVER"}
KEY = "planted and without a shape"


@pytest.fixture
def folder(world, router, tmp_path):
    """A function that saves a router whose bard is served as told, in a folder of its own."""

    def save(**served):
        router.onboard(evaluation(world, "bard", provenance={SERVED_AS: served}), replace=True)
        router.save(tmp_path / "down" / "my.router")
        return tmp_path / "down" / "my.router"

    return save


def write(file, text):
    file.write_text(text)
    return file


TABLE = '[models.other]\nmodel = "openai/home"\napi_base = "http://127.0.0.1:9/v1"\napi_key_env = "HOME_SERVER"\n'


# --- A router's folder is data ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "served",
    [HOME, {"model": "openai/m", "api_base": "http://h/v1"}, {"model": "openai/m", "api_key_env": "AWS_SECRET"}],
)
def test_an_address_or_a_key_that_only_the_folder_names_is_refused_with_both_cures(folder, served):
    with pytest.raises(
        ArtifactError, match=r"'bard' called .*pool.toml \(--pool FILE, .*or trust .* \(--trust"
    ) as refused:
        load_router(folder(**served))
    assert all(str(told) in str(refused.value) for name, told in served.items() if name != "model")


@pytest.mark.parametrize("served", [{"model": "openai/m"}, {"model": "openai/m", "api_key_env": "OPENAI_API_KEY"}])
def test_a_provider_with_its_usual_key_needs_no_consent(folder, served):
    assert Member.of(load_router(folder(**served)).pool["bard"]).arguments is not None


def test_what_the_user_names_is_consent(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME_SERVER", KEY)
    place, named = folder(**HOME), write(tmp_path / "named.toml", TABLE)
    routers = [load_router(place, named), load_router(place, read_members(named)), load_router(place, trust=True)]
    write(place.parent / "pool.toml", TABLE)
    for router in [*routers, load_router(place)]:
        assert Member.of(router.pool["bard"]).arguments()["api_key"] == KEY
    other = write(tmp_path / "other.toml", TABLE.replace("HOME_SERVER", "OTHER"))
    with pytest.raises(ArtifactError, match="HOME_SERVER, which you have not named"):
        load_router(place, other)  # the address with another key


def test_a_router_loaded_without_a_table_calls_no_address_of_its_folder(folder):
    with pytest.raises(ArtifactError, match=r"http://127.0.0.1:9/v1 .* you have not named"):
        complete(UniRouter.load(folder(**HOME)), "What is 14 plus 33?", models=["bard"])


HOSTILE = [
    *({"settings": {name: "x"}} for name in ("model", "stream", "mock_response", "num_retries", "api_key", "api_base")),
    *(
        {"settings": {name: "x"}}
        for name in ("base_url", "azure_endpoint", "ssl_verify", "success_callback", "fallbacks")
    ),
    {"settings": {"region": "os.environ/AWS_SECRET_ACCESS_KEY"}},
    *({"settings": {name: "evil.com/#"}} for name in ("vertex_location", "aws_region_name", "vertex_project")),
    *({"settings": wrong} for wrong in ({"litellm_params": {}}, {"kwargs": {}}, {"extra_body": {"model": "dear"}})),
    *({"settings": wrong} for wrong in ("x", [], {"a": {"api_key": "x"}})),
    *({"model": wrong} for wrong in (3, "", "huggingface/https://h/v1", None, ["a"], {})),
    *({"api_base": wrong} for wrong in ("file:///etc/passwd", "http://me:pass@h", 3, [])),
    *({"api_key_env": wrong} for wrong in ("sk-planted-123456", 3, "A B")),
    *({"examples": wrong} for wrong in ([1], [["a"]], [["a", 3]], "ab")),
    *({"votes": wrong} for wrong in (3, {"samples": 10**9, "same": "text"}, {"same": "text"}, {"samples": 2, "x": 1})),
    *({"template": wrong} for wrong in (3, "no place")),
    {"system": 3},
]


@pytest.mark.parametrize("given", [False, True], ids=["folder", "pool.toml"])
def test_what_a_pool_toml_may_not_hold_a_folder_may_not_either(folder, tmp_path, given):
    for changed in HOSTILE:
        served = {"model": "openai/m", **changed}
        if given and "examples" not in changed and served["model"] is not None:
            text = "[models.a]\n" + "".join(f"{n} = {_toml(v)}\n" for n, v in served.items())
            with pytest.raises(InvalidDataError, match=r"models\.a"):
                read_members(write(tmp_path / "pool.toml", text))
        elif not given:
            with pytest.raises(ArtifactError, match="served_as of 'bard'"):
                load_router(folder(**served), trust=True)


def _toml(value):
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_toml(inner)}" for name, inner in value.items()) + " }"
    return json.dumps(value)


@pytest.mark.parametrize("kept", [3, "x", [], None, {"votes": 3}])
def test_a_provenance_of_another_form_is_refused(world, router, tmp_path, kept):
    router.onboard(evaluation(world, "bard", provenance={SERVED_AS: kept, "measured_as": kept}))
    router.save(tmp_path / "my.router")
    if kept is None:
        assert Member.of(load_router(tmp_path / "my.router").pool["bard"]).model == "bard"
    else:
        with pytest.raises(ArtifactError, match="served_as of 'bard'"):
            load_router(tmp_path / "my.router")


# --- Custom providers are programs ------------------------------------------------------------------------------------


def test_providers_of_a_file_beside_the_router_are_not_imported_until_it_is_named(folder, monkeypatch):
    place = folder(model="openai/m")
    write(place.parent / "planted_module.py", "import litellm\nclass Own(litellm.CustomLLM):\n    pass\n")
    beside = write(place.parent / "pool.toml", '[providers]\nplanted = "planted_module:Own"\n')
    monkeypatch.syspath_prepend(place.parent)
    with pytest.raises(InvalidDataError, match=r"pool.toml names providers of its own \(planted\), .* add --pool"):
        load_router(place)
    assert "planted_module" not in sys.modules
    assert members_for(place).providers  # reading alone runs nothing
    load_router(place, beside)
    assert "planted_module" in sys.modules


@pytest.mark.parametrize("what", ["os:abort", "sys:exit", "pdb:main", "faulthandler:_sigsegv", "os:environ"])
def test_nothing_but_a_provider_is_called_to_make_one(what):
    with pytest.raises(InvalidDataError, match=r"it must be a litellm.CustomLLM, a class of them"):
        register(Members({}, {"mine": what}))


# --- A key that was sent ----------------------------------------------------------------------------------------------


def refusal(key, headers, url="http://127.0.0.1:9/v1/chat"):
    """What LiteLLM raises where openai's client got a 401 that repeats the key."""
    import openai

    request = httpx.Request("POST", url, headers=headers, json={"model": "m"})
    said = {"error": {"message": f"No {key}!"}}
    response = httpx.Response(401, json=said, request=request, headers={"x-seen": key, "retry-after": "7"})
    cause = openai.AuthenticationError(f"Error code: 401 - {said}", response=response, body=said)
    try:
        raise open_litellm().AuthenticationError(f"No {key}!", "openai", "m", response=response) from cause
    except Exception as failed:
        failed.add_note(f"It was {key}.")
        return failed


@pytest.mark.parametrize("name", ["Authorization", "x-api-key", "api-key", "x-goog-api-key", "X-Home"])
def test_a_key_is_redacted_because_it_was_sent(name):
    sent = f"Bearer {KEY}" if name == "Authorization" else KEY
    failed = refusal(KEY, {name: sent, "x-stainless-lang": "python"})
    assert KEY not in described(failed)
    clean = without_keys(failed)
    assert KEY.encode() not in pickle.dumps([clean.args, vars(clean.__cause__)["body"], clean.__notes__])
    for link in (clean, clean.__cause__):
        assert KEY not in f"{link} {link.args} {vars(link)} {link.response.text} {link.response.headers}"
        assert dict(link.response.request.headers).keys() <= {
            "host",
            "content-type",
            "content-length",
            "x-stainless-lang",
        }
        assert link.response.headers["retry-after"] == "7"
        assert link.response.status_code == 401


def test_a_key_in_an_address_is_redacted():
    failed = without_keys(refusal(KEY.replace(" ", "-"), {}, f"http://127.0.0.1:9/v1?key={KEY.replace(' ', '-')}"))
    assert KEY.replace(" ", "-") not in f"{failed} {failed.response.request.url} {failed.__cause__.request.url}"


def test_a_key_of_a_member_is_in_no_failure_of_a_call_that_succeeds(world, router, monkeypatch):
    from unirouter_plugins.litellm import configured, record_of

    monkeypatch.setenv("HOME_SERVER", KEY)
    litellm = open_litellm()
    router.cost_weight = 300
    first = router.route("What is 14 plus 33?").model
    echo = litellm.AuthenticationError(f"No {KEY}!", "openai", "m")
    said = {name: {"mock_response": echo if name == first else "Yes."} for name in router.pool}
    members = {n: Member(n, f"openai/{n}", api_key_env="HOME_SERVER", settings=how) for n, how in said.items()}
    record = record_of(complete(configured(router, Members(members)), "What is 14 plus 33?"))
    assert first in record.failures
    assert KEY not in str(record)


def test_a_key_of_the_last_model_is_not_in_the_context_of_the_first_failure_that_is_raised(router):
    attempts = Attempts(router.route("What is 14 plus 37?"))

    def fail():
        for _ in router.pool:
            try:
                raise TimeoutError(f"{attempts.model} refused plantedvalue-{attempts.model}")
            except TimeoutError as failed:
                attempts.note(failed, [f"plantedvalue-{attempts.model}"])

    with pytest.raises(TimeoutError) as raised:
        fail()
    assert raised.value.__context__ is not None
    assert "plantedvalue" not in str(raised.value) + str(raised.value.__context__) + "".join(raised.value.__notes__)


@pytest.mark.parametrize("before", ["", "me:", "user:", "admin:"])
def test_a_key_is_redacted_however_it_is_written(before):
    key = 'pl/an+ted="and=more é'
    basic = base64.b64encode(f"{before}{key}".encode()).decode()
    forms = [key, quote(key), quote(key, safe=""), json.dumps(key), json.dumps(json.dumps(key)), repr(key.encode())]
    for form in [*forms, html.escape(key), basic, basic.translate(str.maketrans("+/", "-_"))]:
        shown = redacted(f"No {form}!", [key])
        assert "[key]" in shown
        assert len(shown) < 25, shown
    assert redacted("No 1a2, 1a2b", ["1a2"]) == "No [key], 1a2b"


def test_a_password_that_was_sent_as_basic_is_redacted():
    sent = {"Authorization": f"Basic {base64.b64encode(f'me:{KEY}'.encode()).decode()}"}
    assert KEY not in described(refusal(KEY, sent))


def test_a_pool_toml_that_is_slow_to_read_is_refused_at_once(tmp_path):
    for text in ("a." * 500_000 + "b = 1", "[" + "a . " * 40_000 + "b]", 'x = { "a".' + "'b'." * 90_000 + "c = 1 }"):
        with pytest.raises(InvalidDataError, match="a key has more than 30 parts"):
            read_members(write(tmp_path / "pool.toml", text))
    for size in ("0x" + "f" * 50_000, "1" + "0" * 13):
        table = f'[models.a]\nmodel = "m"\ncapabilities = {{ context_window = {size} }}\n'
        with pytest.raises(InvalidDataError, match=r"context_window must be at most 1e\+12, not"):
            read_members(write(tmp_path / "pool.toml", table))


# --- Redirects: what LiteLLM's clients do with a key, as docs/reference/pool-toml.md says -----------------------------


class Redirecting(BaseHTTPRequestHandler):
    """Sends the caller to the same server under another name, which notes the headers that come there."""

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        if is_there := self.headers["host"].startswith("localhost"):
            self.server.arrived.append({name.lower() for name, value in self.headers.items() if KEY in value})
        self.send_response(500 if is_there else 307)
        self.send_header("location", f"http://localhost:{self.server.server_port}/there")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.contract
@pytest.mark.parametrize(
    ("model", "resent"),
    [
        ("openai/gpt-4.1-nano", set()),
        ("azure/nano", set()),
        ("mistral/mistral-small-latest", set()),
        ("anthropic/claude-sonnet-4-5", {"x-api-key"}),
        ("gemini/gemini-2.5-flash", {"x-goog-api-key"}),
    ],
)
def test_a_redirect_to_another_host_takes_only_a_key_in_a_header_of_the_provider_s_own_along(model, resent):
    with ThreadingHTTPServer(("127.0.0.1", 0), Redirecting) as server:
        server.arrived = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        own = {"api_version": "2024-02-01"} if model.startswith("azure") else {}
        with suppress(Exception):  # the 500
            open_litellm().completion(
                model, [{"role": "user", "content": "Hi."}], api_base=address, api_key=KEY, max_retries=0, **own
            )
        server.shutdown()
    assert server.arrived == [resent]
