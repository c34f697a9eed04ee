"""The commands that route a prompt: route chooses its model, ask calls it too."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from unirouter_core.exceptions import InvalidDataError, NoCandidateError, UniRouterError
from unirouter_core.router import UniRouter
from unirouter_core.rule import Decisions
from unirouter_plugins.cli import options, show

if TYPE_CHECKING:
    from unirouter_plugins.litellm import Stream

SLICE = 8_192  # prompts routed between two steps of the progress bar


def route(
    router: options.RouterOrExample,
    prompt: Annotated[str | None, typer.Argument(metavar="PROMPT", help="The prompt; - reads it from stdin.")] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Many prompts: one a line, or .jsonl with a prompt each.")
    ] = None,
    cost_weight: options.CostWeight = None,
    models: options.Models = None,
    requires: Annotated[str | None, typer.Option(metavar="A,B", help="Capabilities: tools, vision, json…")] = None,
    explain: Annotated[bool, options.flag("Show what the choice rests on.", "--explain")] = False,
    as_json: Annotated[
        bool, options.flag("Print JSON on stdout and nothing else; with --file, a line each.", "--json")
    ] = False,
) -> None:
    """Choose the model for a prompt: the lowest expected error + cost weight * USD."""
    if (prompt is None) == (file is None):
        raise InvalidDataError("Give ROUTER and one of: a prompt, - for stdin, --file with many prompts.")
    prompts = [options.prompt_of(str(prompt))] if file is None else options.read_prompts(file)
    chosen_by, needs = options.load(router), options.split(requires) or ()
    how: dict[str, Any] = {"cost_weight": cost_weight, "models": options.split(models), "requires": needs}
    if file is not None and not explain:
        made = _in_slices(chosen_by, prompts, how)
        if as_json:
            for row in show.decision_rows(prompts, made):
                show.emit(row, line=True)
        else:
            show.decisions(prompts, made)
        return
    with show.each(prompts, "Explaining") as texts:
        for text in texts:
            why = chosen_by.explain(text, **how) if explain else None
            decision = chosen_by.route(text, **how) if why is None else why.decision
            if not as_json:
                show.decision(decision, "" if file is None else text, why)
                continue
            row = {"prompt": text, "error": decision.error, "cost": decision.cost, **(why or decision).as_dict()}
            show.emit(row if file is not None else {"router": options.named(router), **row}, line=file is not None)


def _in_slices(router: UniRouter, prompts: Sequence[str], how: dict[str, Any]) -> Decisions:
    """Return the decisions of one `route_batch`, made slice by slice."""
    parts = []
    with show.each(range(0, len(prompts), SLICE), f"Routing {len(prompts):,} prompts") as starts:
        for start in starts:
            try:
                parts.append(router.route_batch(prompts[start : start + SLICE], **how))
            except NoCandidateError as failed:
                raise NoCandidateError(f"Counted from prompt {start:,}: {failed}" if start else str(failed)) from failed
    names = ("chosen", "errors", "costs", "regions", "far")
    arrays: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return Decisions(parts[0].pool_models, **arrays, decide=lambda at: parts[at // SLICE][at % SLICE])


def ask(
    router: options.Router,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The prompt; - reads it from stdin.")],
    pool: options.PoolFile = None,
    trust: options.Trust = False,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="A system prompt.")] = None,
    cost_weight: options.CostWeight = None,
    models: options.Models = None,
    max_tokens: Annotated[int | None, typer.Option(metavar="N", min=1, help="Maximum tokens of the answer.")] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, help="Per-call timeout; after it the next model is called.")
    ] = 300,
    as_json: options.Json = False,
) -> None:
    """Route a prompt and stream the answer to stdout; model, reason and cost go to stderr."""
    folder, text = options.existing(router), options.prompt_of(prompt)
    with show.working("Loading"):
        from unirouter_plugins.litellm import load_router, stream
        from unirouter_plugins.litellm.failures import open_litellm

        open_litellm()  # takes seconds, which are not the model's

        table = load_router(folder, options.members(folder, pool), trust=trust)
        system_message = [] if system is None else [{"role": "system", "content": system}]
        messages = [*system_message, {"role": "user", "content": text}]
        how: dict[str, Any] = {} if max_tokens is None else {"max_tokens": max_tokens}
        how |= {"cost_weight": cost_weight, "models": options.split(models), "timeout": timeout}
        with _in_a_sentence():
            answer = stream(table, messages, **how)
    with _in_a_sentence(), answer:
        said = _streamed(answer, quietly=as_json)
    if answer.record is None:
        raise options.ProviderError("The answer ended before its last chunk; ask again.")
    if as_json:
        dearest = show.dearest(answer.record)
        show.emit({"router": str(folder), "answer": said, **answer.record.as_dict(), "dearest": dearest})
    else:
        show.call(answer.record)


@contextmanager
def _in_a_sentence() -> Iterator[None]:
    """Raise a provider's error as a `ProviderError` of one sentence, models with the same failure together."""
    from unirouter_plugins.litellm.redaction import described

    try:
        yield
    except (UniRouterError, OSError):
        raise
    except Exception as failed:  # of any kind: LiteLLM's, and what a provider of the user's own may raise
        failures: dict[str, str] = getattr(failed, "failures_by_model", {})
        if not failures:
            raise options.ProviderError(described(failed)) from None
        told = "; ".join(f"{', '.join(models)}: {why.rstrip('. ')}" for models, why in show.grouped(failures))
        raise options.ProviderError(f"No model could answer. {told}.") from None


def _streamed(answer: Stream, *, quietly: bool) -> str:
    """Print the answer as it comes, unless `quietly`, and return it; a pipe gets it as it is."""
    parts, to_terminal = [], sys.stdout.isatty()
    for chunk in answer:
        part = (chunk.choices[0].delta.content or "") if chunk.choices else ""
        parts.append(part)
        if not quietly:
            sys.stdout.write(show.without_control(part) if to_terminal else part)
            sys.stdout.flush()
    if not quietly:
        sys.stdout.write("\n")
    return "".join(parts)
