"""What a check says of the answers that are in the store: no model is called."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unirouter_core.data import digests
from unirouter_core.documents import Documents
from unirouter_core.embedding import Array
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.pool import ModelProfile
from unirouter_core.router import UniRouter
from unirouter_plugins.litellm.chat import Messages
from unirouter_plugins.litellm.checks import AnswerCheck, Context
from unirouter_plugins.litellm.pool_file import Member
from unirouter_plugins.onboarding.ask import settings_digest
from unirouter_plugins.onboarding.questions import Question
from unirouter_plugins.onboarding.store import Answer, AnswerStore


def stored_answers(store: AnswerStore, profile: ModelProfile) -> dict[tuple[str, int], Answer]:
    """Return the answers, with their texts, that a profile was measured by, by the question's digest and repeat.

    Raises `InvalidDataError` for a model that was onboarded from recorded results.
    """
    name, limit = profile.model, profile.provenance.get("max_tokens")
    if not isinstance(limit, int):
        raise InvalidDataError(
            f"{name!r} was onboarded from recorded results, so its answers are not in the store; evaluate it with "
            "unirouter onboard, or give the signals of your own check to router.add_check."
        )
    found = store.answers(name, settings_digest(Member.of(profile), limit))
    return {key: answer for key, answer in found.items() if answer.text is not None}


def check_stored(
    router: UniRouter, model: str, check: AnswerCheck, questions: Sequence[Question], store: AnswerStore
) -> tuple[Array, float]:
    """Return what a check says of a model's stored answers, as `UniRouter.add_check` takes it, and its mean USD.

    A check that calls members is given their stored answers; where there is none, its signal is not known. `questions`
    are those that the model was evaluated on.
    """
    profile = router.pool[model]
    kept = {model: stored_answers(store, profile)}
    if not (first := {question: row for question, row in kept[model].items() if not question[1]}):
        raise InvalidDataError(
            f"{store.shown} holds no answers of {model!r} with texts as it was evaluated; name their place "
            "(--store), or evaluate it again."
        )

    def ask(name: str, messages: Messages, sample: int) -> tuple[str, float]:
        if name not in kept:
            kept[name] = stored_answers(store, router.pool[name])
        answer = kept[name].get((Question(messages=messages).digest, sample))
        if answer is None or answer.text is None:
            raise LookupError(f"the store has no answer of {name!r} to this")
        return answer.text, answer.usd or 0.0

    rows = {name: row for row, name in enumerate(profile.measured.digests)}
    signals, spent = np.full(len(rows), np.nan), list[float]()
    documents = [Documents.of(question.documents or ()) for question in questions]
    named = digests([question.prompt for question in questions], documents)
    for question, name in zip(questions, named, strict=True):
        if name in rows and (answer := first.get((question.digest, 0))) is not None:
            told = {"content": [{"logprob": each} for each in answer.logprobs or ()]}
            response = {"choices": [{"logprobs": told}]}
            context = Context(
                model, question.messages, documents=question.documents or (), response=response, ask=ask
            )
            found = check(question.prompt, answer.text or "", context)
            if found.signal is not None:
                signals[rows[name]] = found.signal
                spent.append(found.usd)
    if not spent:
        why = check.failure or "it gave no signal; is the validation file the one that the model was evaluated on?"
        raise InvalidDataError(
            f"The check {check.name!r} says nothing of {model!r}'s stored answers: {why.rstrip('.')}."
        )
    return signals, float(np.mean(spent))
