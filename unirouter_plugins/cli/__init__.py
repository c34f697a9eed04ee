"""The command line: `unirouter COMMAND ROUTER ...`, each command a few calls of the library."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from unirouter_core.exceptions import UniRouterError
from unirouter_plugins.cli import bench, check, demo, evaluate, onboard, options, pool, route, route_file, serve, show
from unirouter_plugins.cli.options import ExampleCommand, ProviderError, RouterCommand, flag

_UNUSABLE = (UniRouterError, ImportError, OSError, UnicodeDecodeError)


class _Commands(TyperGroup):
    """The commands; an error ends in one sentence on stderr and an exit code."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **options: Any) -> Any:
        """Run the command line; `args` are the words after the program's name."""
        show.reset(sys.argv[1:] if args is None else args)
        return super().main(args, *more, **options)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a pipe that is not UTF-8 loses a bar, not the answer
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always", UserWarning)
                warnings.filterwarnings("ignore", module=r"pydantic\.")  # of LiteLLM's own classes
                warnings.filterwarnings("ignore", "coroutine .* was never awaited")  # LiteLLM's, when interrupted
                warnings.showwarning = lambda message, *_, **__: show.note(str(message))
                return super().invoke(ctx)
        except BrokenPipeError:
            raise  # the reader has had enough; typer ends quietly
        except _UNUSABLE as failed:
            show.say(f"Error: {_sentence(failed)}", err=True, wrap=show.console(err=True).is_terminal)
            raise typer.Exit(
                options.PROVIDERS_FAILED if isinstance(failed, ProviderError) else options.BAD_INPUT
            ) from failed


def _sentence(failed: BaseException) -> str:
    if isinstance(failed, OSError) and failed.filename is not None:
        return f"{failed.filename}: {failed.strerror}."
    if isinstance(failed, UnicodeDecodeError):
        return f"the input is not UTF-8 ({failed}); save it as UTF-8."
    return " ".join(str(failed).split())


app = typer.Typer(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Send each prompt to the cheapest model that will answer it well.",
    epilog="Every command takes --json. Exit codes: 0 fine; 2 usage or bad input; 3 a goal that cannot be met (tune), "
    "routing that does not pay (report), or a model that was not added (onboard); 4 no model answered (ask, onboard); "
    "130 interrupted.",
)

for _cls, _command, _example in (
    (RouterCommand, evaluate.fit, "fit my.router answers.jsonl"),
    (RouterCommand, onboard.onboard, "onboard my.router openai/gpt-4.1-mini --validation mine.jsonl --budget 2"),
    (ExampleCommand, pool.list_models, "models my.router"),
    (RouterCommand, pool.retire, "retire my.router openai/gpt-4.1-mini"),
    (ExampleCommand, route.route, 'route my.router "What is 17 times 23?" --explain'),
    (RouterCommand, route_file.route_file, "route-file my.router prompts.parquet routed.parquet"),
    (RouterCommand, route.ask, 'ask my.router "What is 17 times 23?"'),
    (RouterCommand, serve.serve, "serve my.router"),
    (ExampleCommand, evaluate.tune, "tune my.router --save-cost 0.4 --save"),
    (ExampleCommand, evaluate.report, "report my.router --png curve.png"),
    (RouterCommand, check.check, "check my.router openai/gpt-4.1-mini json_schema"),
    (RouterCommand, pool.prices, "prices my.router --refresh"),
    (TyperCommand, bench.bench, "bench answers.jsonl --trials 40"),
    (TyperCommand, demo.demo, "demo --folder unirouter-demo"),
):
    app.command(_example.split()[0], cls=_cls, epilog=f"Example: unirouter {_example}")(_command)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        try:
            typer.echo(f"unirouter {metadata.version('unirouter')}")
        except metadata.PackageNotFoundError:
            typer.echo("unirouter, version unknown: it runs from its source and is not installed")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, flag("Show the version and exit.", "--version", "-V", callback=_show_version, is_eager=True)
    ] = False,
) -> None: ...
