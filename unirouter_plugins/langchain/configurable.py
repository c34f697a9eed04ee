"""What a caller may set for one call, under "configurable" in LangChain's config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.runnables import ConfigurableFieldSpec

from unirouter_core.exceptions import InvalidDataError

PREFIX = "unirouter_"
"""Other parts of a graph read the same config."""

SPECS = [
    ConfigurableFieldSpec(
        id=f"{PREFIX}cost_weight",
        annotation=float | None,
        name="Cost weight",
        description="The error that one USD is worth: 0 is quality at any price, inf the cheapest model.",
        default=None,
    ),
    ConfigurableFieldSpec(
        id=f"{PREFIX}model",
        annotation=str | None,
        name="Model",
        description="The model of the pool that answers, whatever the router would choose.",
        default=None,
    ),
    ConfigurableFieldSpec(
        id=f"{PREFIX}models",
        annotation=Sequence[str] | None,
        name="Candidates",
        description="The models of the pool to choose among.",
        default=None,
    ),
    ConfigurableFieldSpec(
        id=f"{PREFIX}documents",
        annotation=Sequence[str],
        name="Pinned documents",
        description="Texts, or LangChain documents, that the router reads before the newest prompt; they are not sent.",
        default=(),
    ),
]


@dataclass(frozen=True)
class PerCall:
    """What one call asks of the router.

    Parameters
    ----------
    cost_weight : float, optional
    model : str, optional
        The model to ask, whatever the router would choose.
    models : sequence of str, optional
        The candidates.
    documents : tuple of str
        Texts to route on, before the newest prompt; they are not sent.
    """

    cost_weight: float | None = None
    model: str | None = None
    models: Sequence[str] | None = None
    documents: tuple[str, ...] = ()

    @classmethod
    def of(cls, configurable: Mapping[str, Any]) -> PerCall:
        """Return what "configurable" holds for the router.

        Raises
        ------
        InvalidDataError
            When it holds a name that the router does not know, or one document in the place of a list.
        """
        given = {name.removeprefix(PREFIX): value for name, value in configurable.items() if name.startswith(PREFIX)}
        if unknown := sorted(given.keys() - cls.__dataclass_fields__.keys()):
            known = ", ".join(spec.id for spec in SPECS)
            raise InvalidDataError(f"{PREFIX}{unknown[0]} is not known under 'configurable'; there are {known}.")
        documents = given.pop("documents", None) or ()
        if isinstance(documents, str):
            raise InvalidDataError(f"{documents!r:.60} is one document; put it in a list.")
        return cls(**given, documents=tuple(_text(document) for document in documents))

    def weight(self, *otherwise: float | None) -> float:
        """Return the cost_weight of the call: its own, else the first of `otherwise` that is given."""
        return next(weight for weight in (self.cost_weight, *otherwise) if weight is not None)

    @property
    def candidates(self) -> Sequence[str] | None:
        """The models to choose among; None is the whole pool."""
        return self.models if self.model is None else [self.model]


def _text(document: Any) -> str:
    """Return the text of a document: itself, or that of a LangChain `Document`."""
    text = getattr(document, "page_content", document)
    if not isinstance(text, str):
        raise InvalidDataError(f"{document!r:.60} is no document; give texts, or LangChain documents.")
    return text
