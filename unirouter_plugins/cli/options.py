"""What the commands share: their common options, the router they name, and JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from unirouter_core.exceptions import ArtifactError, InvalidDataError
from unirouter_core.router import UniRouter

Router = Annotated[Path, typer.Argument(metavar="ROUTER", help="The router's folder.")]
MaybeRouter = Annotated[
    Path | None,
    typer.Option("--router", "-r", metavar="ROUTER", help="The router's folder; recorded examples when not given."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]
NoTexts = Annotated[
    bool,
    typer.Option("--no-text", "--no-texts", help="Keep only digests of prompts and answers, not their text."),
]
Data = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="What the models did on other prompts; the router's own when not given."),
]
PoolFile = Annotated[
    Path | None,
    typer.Option("--pool", metavar="FILE", help="How models are called; pool.toml beside the router when not given."),
]


def existing(folder: Path) -> Path:
    """Return the router's folder; raise `ArtifactError` when there is none."""
    if not folder.exists():
        raise ArtifactError(f"{folder} does not exist; make it with: unirouter fit DATA --router {folder}")
    return folder


def pool_file(folder: Path, given: Path | None) -> Path | None:
    """Return the table of models that was given, or the one beside the router, if there is one."""
    beside = folder.resolve().parent / "pool.toml"
    return given if given is not None else beside if beside.is_file() else None


def load(folder: Path | None) -> UniRouter:
    """Return the router in `folder`, or the starter's with its examples, and say so."""
    if folder is None:
        router = UniRouter.starter(examples=True)
        dates = [str(profile.provenance.get("date", "date unknown")) for profile in router.pool.values()]
        typer.echo(
            f"No --router given: these are recorded example models (released {min(dates)} to {max(dates)}; list prices "
            "typed by hand, so costs are rough). For your own models: unirouter fit --help",
            err=True,
        )
        return router
    return UniRouter.load(existing(folder))


def split(names: str | None) -> list[str] | None:
    """Return the names in "a,b", or None when none were given."""
    if names is None:
        return None
    given = [name.strip() for name in names.split(",") if name.strip()]
    if not given:
        raise InvalidDataError(f"{names!r} holds no name; write names with commas between them, such as a,b.")
    return given


def emit(document: object, *, line: bool = False) -> None:
    """Print JSON on stdout, ASCII so that any terminal and pipe takes it."""
    typer.echo(json.dumps(document, indent=None if line else 2, allow_nan=False))


def named(folder: Path | None) -> str:
    """Return what JSON calls the router in `folder`."""
    return "starter" if folder is None else str(folder)
