"""The failure of a first call as one sentence that ends in its cure."""

from __future__ import annotations

from unirouter_core.exceptions import UniRouterError
from unirouter_plugins.litellm.failures import Failure, open_litellm
from unirouter_plugins.litellm.pool_file import Member
from unirouter_plugins.onboarding.ask import CallFailedError, NoGradeError


class PreflightError(UniRouterError, RuntimeError):
    """The one call that is made before all others failed; what is wrong is said, and what to do."""


def check_first(failed: CallFailedError | NoGradeError | None) -> None:
    """Raise `PreflightError` when a first call failed for a reason that the others would share.

    A prompt that is too long is no such reason, nor is a judge that gives no verdict: whether it gives any is seen when
    it is tried.
    """
    cause = failed.__cause__ if isinstance(failed, NoGradeError) else failed
    if isinstance(cause, CallFailedError) and cause.failure is not Failure.OVERFLOW:
        raise PreflightError(f"{cause.member.name}: {_plain(str(cause))}; {_cure(cause)}.")


def _plain(said: str) -> str:
    return said.rstrip(". ;")


def _cure(failed: CallFailedError) -> str:
    """Return what to do about a failure of this kind."""
    member, said = failed.member, str(failed).lower()
    place = f"at {member.api_base}" if member.api_base else "and the network"
    if "provider not provided" in said:
        return "write the model with its provider, as LiteLLM does: openai/gpt-4.1-mini"
    if "connection" in said and failed.failure is Failure.SERVER:
        return f"check that the server runs {place}" if member.api_base else f"check the model's name {place}"
    if "quota" in said or "credit" in said or failed.status == 402:
        return "the account has no quota left: add credit, or use another key"
    if "missing credentials" in said or "api_key" in said:
        return f"set its key: {_variables(member)}"
    if failed.kind == "UnsupportedParamsError":  # LiteLLM's own, before it calls
        return "take the setting out of pool.toml"
    cures = {
        400: "check the model's name, its region and its settings in pool.toml",
        401: f"check the key in {_variables(member)}",
        403: f"check that the account of the key in {_variables(member)} may use this model, and its region",
        404: "check the model's name, and its region or address",
        408: "give a longer timeout, or a smaller max_tokens",
        422: "check the model's name, its region and its settings in pool.toml",
        429: "wait, then run the same again with a smaller concurrency",
    }
    return cures.get(failed.status, "when this has passed, run the same again")


def _variables(member: Member) -> str:
    """Return the environment variables that hold the key."""
    if member.api_key_env is not None:
        return member.api_key_env
    litellm = open_litellm()
    try:
        if missing := litellm.validate_environment(member.model)["missing_keys"]:
            return " and ".join(missing)
        return f"{litellm.get_llm_provider(member.model)[1].upper()}_API_KEY"
    except Exception:  # of any kind: it does not know the provider
        return "the environment"
