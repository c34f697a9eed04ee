"""The one door to LiteLLM: loaded when the first call is made, offline and quiet."""

from __future__ import annotations

import os
from functools import cache
from typing import Any


@cache
def open_litellm() -> Any:
    """Return the `litellm` module.

    Before its first import, its price map is set to the one it ships, and reading `.env` from the current folder is
    turned off, unless the environment says otherwise; after it, advertising on failures and downloads of tokenizers
    are.

    Raises
    ------
    ImportError
        When LiteLLM is not installed.
    """
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the network
    os.environ.setdefault("LITELLM_MODE", "PRODUCTION")  # else it loads .env into the environment
    try:
        import litellm
    except ImportError as missing:
        raise ImportError("LiteLLM is missing: pip install 'unirouter[litellm]'.") from missing
    litellm.suppress_debug_info = True
    litellm.disable_hf_tokenizer_download = True
    return litellm
