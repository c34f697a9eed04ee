"""What is known of a model: its features (Ψ in the paper), its cost, what it can do, and the answers behind that."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from unirouter_core.costs import CallCost, Prices
from unirouter_core.documents import Documents
from unirouter_core.embedding import Array
from unirouter_core.exceptions import InvalidDataError

CAPABILITIES = ("tools", "vision", "json")
"""What a prompt may require of a model."""


@dataclass(frozen=True)
class Capabilities:
    """What a model can do; True where nothing is known, since a wrong no would hide it.

    Parameters
    ----------
    tools, vision, json : bool
        Tool calls, images, answers held to a JSON schema.
    context_window : int, optional
        The most tokens of a prompt, as the router counts them or as `route` is told; None is without limit.

    Raises
    ------
    InvalidDataError
        When one of the first three is neither True nor False, or the window is no int > 0.
    """

    tools: bool = True
    vision: bool = True
    json: bool = True
    context_window: int | None = None

    def __post_init__(self) -> None:
        for name in CAPABILITIES:
            if not isinstance(getattr(self, name), bool):
                raise InvalidDataError(f"{name}={getattr(self, name)!r} must be True or False.")
        window = self.context_window
        if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window < 1):
            raise InvalidDataError(f"context_window={window!r} must be an int > 0, in tokens, or None.")

    def lacks(self, requires: Sequence[str]) -> list[str]:
        """Return those of `requires` that the model cannot do.

        Raises
        ------
        InvalidDataError
            When one of them is no capability.
        """
        unknown = [name for name in requires if name not in CAPABILITIES]
        if unknown:
            raise InvalidDataError(f"{unknown[0]!r} is no capability; require one of {', '.join(CAPABILITIES)}.")
        return [name for name in requires if not getattr(self, name)]


def digest(prompt: str, documents: Documents | None = None) -> str:
    """Return the name that a prompt goes by where its text is left out: its own, then that of its documents, if any."""
    own = _digest(prompt)
    return f"{own}+{_digest(repr((documents.texts, documents.scores)))}" if documents else own


def digests(prompts: Sequence[str], documents: Sequence[Documents] | None) -> list[str]:
    """Return the prompts' names, each with its documents."""
    if documents is None:
        return [digest(prompt) for prompt in prompts]
    return [digest(prompt, found) for prompt, found in zip(prompts, documents, strict=True)]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def number_of(name: str) -> int:
    """Return the digest of a prompt, without that of its documents, as a number."""
    return int(name[:16], 16)


def as_numbers(prompts: Iterable[str]) -> npt.NDArray[np.uint64]:
    """Return the prompts' digests as numbers, (n,)."""
    return np.array([number_of(digest(prompt)) for prompt in prompts], np.uint64)


@dataclass(frozen=True, eq=False)
class MeasuredPrompts:
    """The prompts that profiles were measured on, as a router keeps them.

    Parameters
    ----------
    digests : sequence of str
    texts : sequence of str, optional
        Left out where prompts must not be kept.
    vectors : array (n_prompts, d)
        float16.
    tokens : array (n_prompts,)
        As the router counts them.
    known : array (n_prompts, n_training_models), optional
        The training models' errors on them, float16, NaN where not known.
    """

    digests: tuple[str, ...]
    texts: tuple[str, ...] | None
    vectors: Array
    tokens: Array
    known: Array | None

    @cached_property
    def id(self) -> str:
        """The same for the same prompts with the same known errors."""
        parts = hashlib.sha256("\n".join(self.digests).encode())
        parts.update(b"" if self.known is None else self.known.tobytes())
        return parts.hexdigest()[:16]

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self.digests)


@dataclass(frozen=True, eq=False)
class ModelProfile:
    """What a router knows of one model.

    Parameters
    ----------
    model : str
    features : array
        Ψ(h), as the router's estimator made it.
    error : float
        The mean error on the validation prompts, in [0, 1].
    error_spread : float
        The standard deviation of its error between regions: how wrong `error` may be on an unknown kind of prompt.
    n : int
        The answers behind it.
    cost : CallCost
    prices : Prices, optional
    capabilities : Capabilities
    measured : MeasuredPrompts
    errors, usd : array (n_prompts,)
        On each of them; NaN where not known.
    provenance : mapping
    """

    model: str
    features: Array
    error: float
    error_spread: float
    n: int
    cost: CallCost
    prices: Prices | None
    capabilities: Capabilities
    measured: MeasuredPrompts
    errors: Array
    usd: Array
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"ModelProfile({self.model!r}, error={self.error:.3f}, n={self.n})"
