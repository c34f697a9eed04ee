"""The command that shows it all offline: it runs the README's commands on a real small model, and prints each."""

from __future__ import annotations

import io
import json
import shlex
import shutil
from collections.abc import Iterable, Mapping
from contextlib import chdir, nullcontext, redirect_stdout
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Annotated, Any

import numpy as np
import typer

from unirouter_core.exceptions import InvalidDataError, missing_package
from unirouter_core.router import UniRouter
from unirouter_plugins.cli import show
from unirouter_plugins.cli.options import INTERRUPTED, Json
from unirouter_plugins.local.server import CURE, LocalModel, available, serve_model

MODELS = {  # the pool, as pool.toml calls it
    "smol": "the model, called once",
    "smol-votes": "the same, with worked examples: the majority of five answers",
    "calculator": "a program that only does arithmetic",
}
# Of the packaged prompts: short answers that a model of 135 million parameters sometimes gets right; difficulty 1 to 5.
FAMILIES, EASY = ("arithmetic", "vocabulary", "yes_no", "classification"), (1, 2)
MOCK = LocalModel("yes", "")  # in pool.toml where no model can be served: the provider mock answers "yes"
CHECK = "is_number"  # in pool.toml
DATA = resources.files(__package__) / "demo_data"
_REAL = (
    "A real language model runs on this machine now: SmolLM2-135M-Instruct on llama.cpp, with one thread, no key, no "
    "network. It is among the smallest there are, and mostly wrong: a fine case for routing."
)
_MOCKED = (
    "Until then a mock answers in the model's place, the same to every prompt, under names that begin with mock-. Only "
    "the calculator is real: the quality of the others means nothing."
)
_ENDED = "The model's server has ended, and all of its answers are kept."


def demo(
    context: typer.Context,
    folder: Annotated[Path, typer.Option(metavar="FOLDER", help="Where its files go.")] = Path("unirouter-demo"),
    as_json: Json = False,
) -> None:
    """Route between a real small model, the same one with votes, and a calculator: offline, without a key."""
    if folder.is_dir() and any(folder.iterdir()):
        yours = "is not empty, and what is in it may be yours by now; remove it, or name another folder."
        raise InvalidDataError(f"{folder} {yours}")
    missing = available()
    model: Any = nullcontext(MOCK) if missing else serve_model(slots=2)
    try:
        with redirect_stdout(io.StringIO()) if as_json else nullcontext(), model as served:
            write_files(folder, served)
            with chdir(folder):
                found = _run(_Shell(context.find_root().command, as_json), folder, missing)
    except (KeyboardInterrupt, typer.Abort):
        show.say(f"\nStopped, and so has the model's server. What was made until then is in {folder}.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        show.emit(found)


class _Shell:
    """Runs the command line's own commands, each printed first; as JSON, their output is returned."""

    def __init__(self, unirouter: Any, as_json: bool) -> None:
        self._unirouter, self._as_json = unirouter, as_json

    def run(self, command: str, *, may_fail: bool = False, quiet: bool = False) -> tuple[int, Any]:
        """Return the exit code, and the output where it is JSON; end the demo with a failure."""
        show.say(f"\n$ unirouter {command}", "bold cyan", wrap=False)
        arguments = [*shlex.split(command.replace("\\\n", " ")), *(["--json"] if self._as_json else [])]
        with redirect_stdout(io.StringIO()) if self._as_json or quiet else nullcontext() as out:
            code = self._unirouter.main(arguments, prog_name="unirouter", standalone_mode=False) or 0
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if code and not may_fail:
            raise typer.Exit(code)
        if out is None or not self._as_json:
            return code, None
        text = out.getvalue()
        return code, json.loads(text if text.startswith("{\n") else f"[{','.join(text.splitlines())}]")


def _run(shell: _Shell, folder: Path, missing: str | None) -> dict[str, Any]:
    names = [f"mock-{name}" if missing and name != "calculator" else name for name in MODELS]
    models = "\n".join(f"{name:<18}{what}" for name, what in zip(names, MODELS.values(), strict=True))
    _say("opening", served=f"MOCK: {missing}\n{_MOCKED}" if missing else _REAL, models=models, folder=folder)
    show.say(f"\n$ cd {folder}", "bold cyan", wrap=False)
    shell.run("fit my.router prompts.jsonl")
    evaluate = f"{' '.join(names)} \\\n    --concurrency 2 --yes --pool pool.toml --validation"
    _, onboarded = shell.run(f"onboard my.router {evaluate} validation.jsonl")
    _, tuning = shell.run("tune my.router --usd-per-error 0.001 --save")
    _, routed = shell.run("route my.router --file kept_back.jsonl")
    kept_back = [line["prompt"] for line in _lines(Path("kept_back.jsonl")) if "\n" not in line["prompt"]]
    _, asked = shell.run(f"ask my.router {shlex.quote(kept_back[0])} --pool pool.toml")
    for prompt in (kept_back[1], kept_back[-1]):
        shell.run(f"route my.router --explain {shlex.quote(prompt)}")
    show.say("\nTo judge the routing, every model answers the prompts that were kept back, in a copy of the router:")
    shutil.copytree("my.router", "judge.router")
    shell.run(f"onboard judge.router {evaluate} kept_back.jsonl --replace", quiet=True)
    _write(Path("outcomes.jsonl"), _outcomes(UniRouter.load("judge.router")))
    picture = "" if find_spec("matplotlib") is None else " --png curve.png"
    _, report = shell.run(f"report my.router --data outcomes.jsonl{picture}", may_fail=True)
    if not picture:
        show.say(f"No picture of the curve: {missing_package('matplotlib', 'report')}", wrap=False)
    checked = _checked(shell)
    ended = f"MOCK: two of the three models were none. For the real ones: {CURE}" if missing else _ENDED
    _say("closing", served=ended, pool=folder / "pool.toml")
    made = {"folder": str(folder), "mock": missing, "prices": "assumed", "tuning": tuning, "routed": routed}
    return {**made, "asked": asked, "report": report, **checked, **(onboarded or {})}


def _checked(shell: _Shell) -> dict[str, Any]:
    """Show a draft that a check rejects; return the check and the call, empty where no draft is worth a call."""
    show.say(
        f"\nAn answer may show that it is wrong: no sum gives words. {CHECK} looks at the calculator's answers, at no "
        "cost, and after a draft that it rejects another model is asked:"
    )
    options = "--pool pool.toml --validation validation.jsonl"
    _, judged = shell.run(f"check my.router calculator {CHECK} {options}", may_fail=True)
    router = UniRouter.load("my.router")
    for line in _lines(Path("kept_back.jsonl")):
        is_one_line = "\n" not in line["prompt"] and line["family"] != FAMILIES[0]
        if is_one_line and router.route(line["prompt"], checks=[CHECK]).check is not None:
            return {
                "check": judged,
                "mended": shell.run(f"ask my.router {shlex.quote(line['prompt'])} --pool pool.toml")[1],
            }
    return {"check": judged}


def _say(name: str, **places: Any) -> None:
    show.say(Template((DATA / f"{name}.txt").read_text(encoding="utf-8")).substitute(places).rstrip("\n"))


def write_files(folder: Path, served: LocalModel) -> None:
    """Write pool.toml and the three files of prompts, from which a reader can repeat the demo.

    Models are evaluated on the easy prompts of four families of the packaged validation set, and on 14 sums more, so
    that nearly half are sums. Prompt features are learned from the rest of the packaged set. 20 prompts of the same
    four families are kept back.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = _lines(resources.files("unirouter_core") / "starter" / "validation.jsonl")
    easy = [line for line in lines if line["family"] in FAMILIES and line["difficulty"] in EASY]
    _write(folder / "prompts.jsonl", ({"prompt": line["prompt"]} for line in lines if line not in easy))
    _write(folder / "validation.jsonl", [*easy, *_lines(DATA / "sums.jsonl")])
    _write(folder / "kept_back.jsonl", _lines(DATA / "kept_back.jsonl"))
    pool = (DATA / ("mock.toml" if served is MOCK else "pool.toml")).read_text(encoding="utf-8")
    (folder / "pool.toml").write_text(Template(pool).substitute(name=served.name, url=served.url), encoding="utf-8")


def _lines(place: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in place.read_text(encoding="utf-8").splitlines()]


def _write(place: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    place.write_text("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines), encoding="utf-8")


def _outcomes(router: UniRouter) -> Iterable[dict[str, Any]]:
    """Yield what each model of a router did on the prompts that it was evaluated on."""
    for model, profile in router.pool.items():
        for prompt, error, cost in zip(profile.measured.texts or (), profile.errors, profile.usd, strict=True):
            if not np.isnan(error):
                yield {"prompt": prompt, "model": model, "error": float(error), "cost": float(cost)}
