"""What a call tells those who watch an application: lines of a log, and attributes of OpenTelemetry's span."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any

LOG = logging.getLogger("unirouter")
LOG.addHandler(logging.NullHandler())  # silent until the application sets logging up


def log_fallback(model: str, failed: BaseException, failure: str, following: str | None) -> None:
    """Log that a model failed and which one is next: never what the provider said, which may quote the prompt."""
    then = "no other model may answer" if following is None else f"{following} is next"
    LOG.warning("%s failed with %s (%s); %s", model, type(failed).__name__, failure.lower().replace("_", " "), then)


def tell(picked: str, record: Mapping[str, Any]) -> None:
    """Log a call that has ended, and set OpenTelemetry's attributes where a span is recording."""
    usd, tokens = record["usd"], [record["tokens_in"], record["tokens_out"]]
    LOG.info(
        "%s answered (%s, routed on the %s): %s, %s tokens in, %s out, %.2f s%s",
        *(record["model"], record["why"], record["routed_on"]),
        *("cost not known" if usd is None else f"${usd:.6f}", *("?" if n is None else f"{n:.0f}" for n in tokens)),
        record["seconds"],
        f", after {', '.join(record['failures'])}" if record["failures"] else "",
    )
    if (otel := sys.modules.get("opentelemetry.trace")) is None:  # no span can have begun
        return
    span = otel.get_current_span()
    if span.is_recording():
        span.set_attributes(attributes(picked, record))


def attributes(picked: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as attributes of OpenTelemetry's GenAI conventions; those that it has no name for are ours."""
    named = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": picked,
        "gen_ai.response.model": record["model"],
        "gen_ai.usage.input_tokens": record["tokens_in"],
        "gen_ai.usage.output_tokens": record["tokens_out"],
        "unirouter.failures": list(record["failures"]),
    }
    ours = ("why", "routed_on", "expected_error", "expected_usd", "usd", "seconds", "cost_weight", "region")
    named |= {f"unirouter.{name}": record[name] for name in ours}
    return {name: value for name, value in named.items() if value is not None}
