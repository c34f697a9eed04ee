"""Servers on loopback, each started once for all the tests that ask it."""

from tests.plugins.servers import llama_server, proxy_server, scripted_server

__all__ = ["llama_server", "proxy_server", "scripted_server"]
