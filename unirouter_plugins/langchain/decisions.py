"""LangChain's decision model that answers which model suits a message: as measured, without a call."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

try:
    from langchain_core.decisions import (
        Answer,
        BaseDecisionModel,
        Choice,
        ChoiceAnswer,
        ClassifierResponse,
        Question,
        State,
    )
except ImportError as missing:
    raise ImportError("UniRouterDecision needs newer decision models: pip install 'langchain-core>=1.8'.") from missing
from langchain_core.messages import BaseMessage, HumanMessage
from pydantic import ConfigDict, Field

from unirouter_core.exceptions import InvalidDataError, NoCandidateError, UnknownModelError
from unirouter_core.router import UniRouter
from unirouter_core.rule import Decision, check_cost_weight
from unirouter_plugins.langchain.pool_models import chat_of
from unirouter_plugins.litellm import opened, snapshot_of

_DRAWS = 2_000  # probabilities to about one percent


class UniRouterDecision(BaseDecisionModel):
    """Chooses among labels by the model that each stands for, offline: the classifier of a `ModelRouterMiddleware`.

    The label is that of the model that the router picks. The probabilities are how likely each model is the best by the
    rule, given the standard errors of what was measured. Instructions and criteria are not read.

    Parameters
    ----------
    router : UniRouter or path
    models : mapping of str to str, optional
        The model of the pool that each label stands for; a label that is not in it is its model's name.
    cost_weight : float, optional
        The error that one USD is worth; the router's own when not given.

    Examples
    --------
    ::

        choices = {name: ModelChoice(model=f"litellm:{name}", criteria=None) for name in router.pool}
        classifier = UniRouterDecision(router)
        middleware = ModelRouterMiddleware(choices=choices, instructions="", classifier=classifier)
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    model: str = "unirouter"
    router: UniRouter = Field(repr=False)
    models: Mapping[str, str] = Field(default_factory=dict)
    cost_weight: float | None = None

    def __init__(
        self,
        router: UniRouter | str | os.PathLike[str],
        *,
        models: Mapping[str, str] | None = None,
        cost_weight: float | None = None,
        **fields: Any,
    ) -> None:
        weight = None if cost_weight is None else check_cost_weight(cost_weight)
        own: dict[str, Any] = {
            "router": opened(router, None, object, ""),
            "models": models or {},
            "cost_weight": weight,
        }
        super().__init__(**own, **fields)

    @property
    def _provider(self) -> str:
        return "unirouter"

    def _classify(self, state: State, questions: dict[str, Question]) -> ClassifierResponse:
        answers: dict[str, Answer] = {}
        for name, question in questions.items():
            if not isinstance(question, Choice):
                raise InvalidDataError(
                    f"The question {name!r} is a {question.type}; UniRouterDecision answers a Choice among models only."
                )
            answers[name] = self._choice(state, list(question.criteria))
        return ClassifierResponse(model=self.model, answers=answers)

    def _choice(self, state: State, labels: Sequence[str]) -> ChoiceAnswer:
        models = {label: self.models.get(label, label) for label in labels}
        unknown = [label for label, model in models.items() if model not in self.router.pool]
        if unknown:
            message = (
                f"The label {unknown[0]!r} stands for no model of the pool {list(self.router.pool)}; name it as its "
                "model, or give models={label: model}."
            )
            if len(unknown) == len(labels):
                raise UnknownModelError(message)
            warnings.warn(f"{message} It is never chosen.", stacklevel=2)
        label_of = {model: label for label, model in reversed(models.items()) if label not in unknown}
        decision = self._decide(_messages(state), list(label_of))
        shares = dict.fromkeys(labels, 0.0) | {label_of[m]: share for m, share in _shares(decision).items()}
        chosen = label_of[decision.model]
        return ChoiceAnswer(type="choice", choice=chosen, probabilities=shares, confidence=shares[chosen])

    def _decide(self, messages: Sequence[BaseMessage], models: Sequence[str]) -> Decision:
        """Return the decision on a message; where it is empty, or no model can take it, by what is left of it."""
        chat, text = chat_of(messages), "an empty message"
        try:
            text = chat.text
            return snapshot_of(self.router).decide(chat, cost_weight=self.cost_weight, models=models)
        except (InvalidDataError, NoCandidateError):  # a failure would end the agent's run
            return self.router.route(text, cost_weight=self.cost_weight, models=models, tokens_in=0)


def _messages(state: Any) -> list[BaseMessage]:
    """Return the messages of a state: a text, a message, messages, or what holds them as JSON."""
    state = state.get("messages", state) if isinstance(state, Mapping) else state
    each = list(state) if isinstance(state, Sequence) and not isinstance(state, str) else [state]
    if each and all(isinstance(message, BaseMessage) for message in each):
        return each
    return [HumanMessage(state if isinstance(state, str) else json.dumps(state, default=str, ensure_ascii=False))]


def _shares(decision: Decision) -> dict[str, float]:
    """Return how likely each eligible model has the least score, its error spread by its standard error."""
    able = [row for row in decision.ranking if row.excluded is None]
    spread = 0.0 if np.isinf(decision.cost_weight) else np.array([row.stderr for row in able])
    noise = np.random.default_rng(0).standard_normal((_DRAWS, len(able)))
    best = np.argmin([row.score for row in able] + noise * spread, axis=1)  # the first of those that tie
    shares = np.bincount(best, minlength=len(able)) / _DRAWS
    return {row.model: float(share) for row, share in zip(able, shares, strict=True)}
