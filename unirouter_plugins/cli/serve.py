"""The command that serves a router through LiteLLM's proxy."""

from __future__ import annotations

import ipaddress
import os
import socket
import tempfile
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from unirouter_core.exceptions import InvalidDataError, missing_package
from unirouter_plugins.cli import options, show


def serve(
    router: options.Router,
    pool: options.PoolFile = None,
    trust: options.Trust = False,
    host: Annotated[str, typer.Option(metavar="HOST", help="Address to listen at; this machine alone by default.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(metavar="PORT", min=1, max=65535, help="Port to listen at.")] = 4000,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, help="Per-call timeout; after it the next model is called.")
    ] = 300,
    config_only: Annotated[bool, options.flag("Print the proxy's config, and start nothing.", "--config-only")] = False,
) -> None:
    """Serve OpenAI's and Anthropic's APIs: model="unirouter" routes, "unirouter/NAME" calls that model."""
    folder = options.existing(router)
    if not os.environ.get("LITELLM_MASTER_KEY", "").strip():
        os.environ.pop("LITELLM_MASTER_KEY", None)  # with an empty one LiteLLM refuses every request
    needs_key = config_only or "LITELLM_MASTER_KEY" in os.environ
    if not (needs_key or _is_loopback(host)):
        raise InvalidDataError(
            f"At --host {host} others can call your models; set LITELLM_MASTER_KEY to the key that clients send."
        )
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        if not config_only and probe.connect_ex((host, port)) == 0:  # LiteLLM would take another port
            raise InvalidDataError(f"Something listens at {host} port {port} already; name another: --port {port + 1}.")
    with show.working("Loading"):
        from unirouter_plugins.litellm import load_router, open_litellm
        from unirouter_plugins.serving import proxy_config

        open_litellm()
        try:
            import yaml

            if not config_only:
                from litellm.proxy import proxy_cli, proxy_server  # the latter needs what is missing
        except ImportError as missing:
            raise missing_package("LiteLLM's proxy", "serve") from missing
        loaded = load_router(folder, options.members(folder, pool), trust=trust)
        config = proxy_config(loaded, folder, pool, trust=trust, timeout=timeout, needs_key=needs_key)
    text = yaml.safe_dump(config, sort_keys=False)
    if config_only:
        typer.echo(text, nl=False)
        return
    if not needs_key:
        proxy_server.app.add_middleware(LocalOnly)
    with tempfile.TemporaryDirectory(prefix="unirouter-") as place:
        file = Path(place, "config.yaml")
        file.write_text(text)
        show.say(f"http://{host}:{port}/v1 serves {', '.join(loaded.pool)}; model is unirouter, or unirouter/NAME.")
        proxy_cli.run_server.main(
            ["--config", str(file), "--host", host, "--port", str(port), "--telemetry", "False"], standalone_mode=False
        )


class LocalOnly:
    """ASGI middleware of a proxy without a key: refuses pages of other sites, and names that are not this machine's."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Pass the request on, or refuse it with status 403."""
        told = dict(scope.get("headers") or ())
        hosts = [f"//{told[b'host'].decode('latin-1')}"] if b"host" in told else []
        hosts += [told[b"origin"].decode("latin-1")] if b"origin" in told else []
        if scope["type"] == "lifespan" or all(_is_loopback(_host_of(each)) for each in hosts):
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            body = b'{"error": {"message": "Set LITELLM_MASTER_KEY to serve pages of other sites, or other names."}}'
            start = {"status": 403, "headers": [(b"content-type", b"application/json")]}
            await send({"type": "http.response.start", **start})
            await send({"type": "http.response.body", "body": body})
        else:
            await send({"type": "websocket.close", "code": 1008})


def _is_loopback(host: str) -> bool:
    """Return whether a host is this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
