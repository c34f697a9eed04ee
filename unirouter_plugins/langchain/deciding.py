"""A conversation to a decision: what the router is told of it, and when a model is kept."""

from __future__ import annotations

from unirouter_core.decision import Decision
from unirouter_plugins.langchain.configurable import PerCall
from unirouter_plugins.langchain.messages import Conversation
from unirouter_plugins.litellm.XXX import Served


def decision_on(conversation: Conversation, served: Served, per_call: PerCall, cost_weight: float) -> Decision:
    """Return the decision on a conversation: the rule of `UniRouter.route`, with the price of lost prompt caches.

    Model m was sent k_m of the T tokens before (0 for most), and charges its price for cached tokens for them. So the
    rule is the least of ::

        error_m + cost_weight * ((T - k_m) * input_m + k_m * cached_input_m + answer_m)

    and a conversation leaves model c for m only when what is gained at list prices is more than what is lost::

        (error_c + cost_weight * cost_c) - (error_m + cost_weight * cost_m)
            > cost_weight * (k_c * (input_c - cached_input_c) - k_m * (input_m - cached_input_m))

    where k_m is 0 for a model that has not answered in the conversation. The prices are those of the profiles, which
    are LiteLLM's or those of `pool.toml`; where no price for cached tokens is known, nothing is lost.

    Parameters
    ----------
    conversation : Conversation
    served : Served
    per_call : PerCall
    cost_weight : float

    Raises
    ------
    NoCandidateError, UnknownModelError, InvalidDataError
        As `UniRouter.route` does.
    """
    chat, tokens_in, cached = conversation.chat, None, {}
    if not conversation.is_bare:
        tokens, known = conversation.tokens(served.router.token_counter)
        tokens_in = served.sent(tokens)
        cached = {model: count for model, count in known.items() if model in served.pool}
    knows_documents = served.router.document_features is not None
    return served.router.route(
        conversation.asked if knows_documents else conversation.text,
        cost_weight=cost_weight,
        documents=conversation.documents if knows_documents else None,
        models=per_call.candidates,
        requires=chat.requires,
        tokens_in=tokens_in,
        cached_tokens=cached,
    )
