"""What processes that tests start have loaded before they are forked: LiteLLM, which takes seconds."""

import tests.plugins.onboarding.killing
from unirouter_plugins.litellm.failures import open_litellm

__all__ = ["tests"]

open_litellm()
