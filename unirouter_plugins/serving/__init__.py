"""LiteLLM's proxy with the router in it: any OpenAI or Anthropic client routes with `model="unirouter"`."""

from unirouter_plugins.serving.config import GROUP, proxy_config

__all__ = ["GROUP", "proxy_config"]
