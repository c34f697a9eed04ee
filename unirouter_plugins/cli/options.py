"""What the commands share: ROUTER as the first argument or as an option, the common options, prompts from files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from unirouter_core.exceptions import ArtifactError, InvalidDataError, UniRouterError
from unirouter_core.reading import LONGEST_LINE, parse_json, readable
from unirouter_core.router import UniRouter
from unirouter_plugins.cli import show

if TYPE_CHECKING:
    from unirouter_plugins.litellm.pool_file import Members
    from unirouter_plugins.onboarding.bill import Spread

EXAMPLES = Path(":examples:")  # what ROUTER is with --example
BAD_INPUT, NOT_MET, PROVIDERS_FAILED, INTERRUPTED = 2, 3, 4, 130  # exit codes, see docs/reference/exit-codes.md
FLAG = " "  # the metavar of an option without a value; typer writes <bool> there


class ProviderError(UniRouterError, RuntimeError):
    """No model could answer: exit code 4."""


def flag(text: str, *names: str, **how: Any) -> Any:
    """Return an option without a value, with its help."""
    return typer.Option(*names, metavar=FLAG, help=text, **how)


Router = Annotated[
    Path, typer.Argument(metavar="ROUTER", help="Router folder; --router ROUTER, anywhere, does the same.")
]
RouterOrExample = Annotated[
    Path,
    typer.Argument(
        metavar="ROUTER",
        help="Router folder; --router ROUTER, anywhere, does the same. --example in its place takes recorded "
        "example models.",
    ),
]
Json = Annotated[bool, flag("Print JSON on stdout and nothing else.", "--json")]
NoTexts = Annotated[bool, flag("Keep digests of prompts and answers, no text.", "--no-texts", "--no-text")]
Data = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Recorded outcomes to judge by; the router's own by default.")
]
PoolFile = Annotated[
    Path | None,
    typer.Option("--pool", metavar="FILE", help="How models are called; pool.toml beside the router by default."),
]
Trust = Annotated[
    bool, flag("Call models at the addresses, and with the keys, that the router's folder names.", "--trust")
]
CostWeight = Annotated[
    float | None, typer.Option(metavar="W", help="The error that one USD is worth; inf takes the cheapest model.")
]
Models = Annotated[str | None, typer.Option(metavar="A,B", help="Choose among these models only.")]


class RouterCommand(TyperCommand):
    """A command whose first argument is ROUTER; ``--router ROUTER`` and ``-r ROUTER`` put it there as well."""

    takes_example = False

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, ROUTER first."""
        try:
            return super().parse_args(ctx, _router_first(args, self.takes_example))
        except typer.BadParameter as wrong:
            if getattr(wrong.param, "name", None) != "router":
                raise
            example = ", or give --example for recorded example models" * self.takes_example
            missing = f"ROUTER is missing; name its folder: unirouter {self.name} ROUTER{example}."
            raise InvalidDataError(missing) from wrong


class ExampleCommand(RouterCommand):
    """A command that also takes ``--example`` in the place of ROUTER."""

    takes_example = True


def _router_first(args: list[str], takes_example: bool) -> list[str]:
    for place, word in enumerate(args):
        name, has_value, value = word.partition("=")
        if word == "--":
            break
        if takes_example and word == "--example":
            return [str(EXAMPLES), *args[:place], *args[place + 1 :]]
        if name in ("--router", "-r") and (has_value or args[place + 1 :]):
            value, end = (value, place + 1) if has_value else (args[place + 1], place + 2)
            return [value, *args[:place], *args[end:]]
    return args


def existing(folder: Path) -> Path:
    """Return the router's folder; raise `ArtifactError` when there is none."""
    if not folder.exists():
        raise ArtifactError(f"{folder} does not exist; make it with: unirouter fit {show.quoted(folder)} DATA")
    return folder


def load(folder: Path) -> UniRouter:
    """Return the router in `folder`; for `EXAMPLES` the starter's with its recorded models, and a note that says so."""
    if folder != EXAMPLES:
        return UniRouter.load(existing(folder))
    router = UniRouter.starter(examples=True)
    dates = [str(profile.provenance.get("date", "date unknown")) for profile in router.pool.values()]
    show.note(
        f"recorded example models (released {min(dates)} to {max(dates)}; list prices typed by hand, so costs are "
        "rough). For your own models: unirouter fit --help"
    )
    return router


def named(folder: Path) -> str:
    """Return the router's name in JSON."""
    return "starter" if folder == EXAMPLES else str(folder)


def members(folder: Path, given: Path | None) -> Members:
    """Return the models of the given pool.toml, or of the one beside the router, if there is one."""
    from unirouter_plugins.litellm.pool_file import BESIDE, members_for

    return members_for(folder, BESIDE if given is None else given)


def confirm(cost: Spread, *, as_json: bool) -> None:
    """Ask on the terminal whether to go on at this cost; raise `InvalidDataError` where there is none."""
    if as_json or not sys.stdin.isatty():
        about = f"about {show.usd(cost.expected)} ({show.between(cost)})"
        raise InvalidDataError(f"The expected cost is {about}; confirm with --yes, or set a limit with --budget.")
    typer.confirm("Go on?", abort=True, err=True)


def split(names: str | None) -> list[str] | None:
    """Return the names in "a,b", or None when none were given."""
    if names is None:
        return None
    given = [name.strip() for name in names.split(",") if name.strip()]
    if not given:
        raise InvalidDataError(f"{names!r} holds no name; separate names by commas, such as a,b.")
    return given


def prompt_of(argument: str) -> str:
    """Return the prompt of the command line; ``-`` reads it from stdin."""
    if argument != "-":
        given = argument.encode("utf-8", "surrogateescape")
    elif sys.stdin is None:
        raise InvalidDataError("stdin is closed; give the prompt as an argument, or pipe it in.")
    else:
        given = sys.stdin.buffer.read()
    try:
        return given.decode("utf-8-sig").strip()
    except UnicodeDecodeError as failure:
        raise InvalidDataError(f"the prompt is not UTF-8 (byte {failure.start}); send it as UTF-8.") from failure


def read_prompts(path: Path) -> list[str]:
    """Return the prompts of a file or pipe: one a line; in ``.jsonl``, a string or an object with ``prompt``."""
    prompts, is_json = list[str](), path.suffix == ".jsonl"
    try:
        with readable("it cannot be read", "give a file that can"), path.open(encoding="utf-8-sig", newline="") as text:
            for place, raw in enumerate(iter(lambda: text.readline(LONGEST_LINE + 1), ""), 1):
                if len(raw) > LONGEST_LINE:
                    raise InvalidDataError(f"line {place}: it has more than {LONGEST_LINE:,} characters; split it.")
                if raw.isspace():
                    continue
                with readable(f"line {place}: {raw[:60]!r} is not JSON", "write one object a line"):
                    line = parse_json(raw) if is_json else raw.rstrip("\r\n")
                prompt = line.get("prompt") if isinstance(line, dict) else line
                if not isinstance(prompt, str) or not prompt.strip():
                    raise InvalidDataError(f'line {place}: {line!r:.60} holds no prompt; write {{"prompt": "..."}}.')
                prompts.append(prompt.rstrip("\r\n"))
        if not prompts:
            raise InvalidDataError("it holds no prompts; give at least one a line.")
    except InvalidDataError as failure:
        raise InvalidDataError(f"{path}: {failure}") from failure
    return prompts
