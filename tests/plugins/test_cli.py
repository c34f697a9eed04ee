"""The command line as a user and a script see it: what it prints, where, and how it exits."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from importlib import metadata

import numpy as np
import pytest
from typer.testing import CliRunner

from unirouter_core import Prices, UniRouter
from unirouter_core.rule import Neighbour
from unirouter_plugins.cli import app, show

# The sage's $0.0014 for a sum are worth 0.4, less than the poet gets wrong there; $0.0019 for a poem are worth more.
WEIGHED = ("--models", "poet,sage", "--cost-weight", 300)
POOL = ("poet", "sage", "tutor", "scholar")
PROGRAM = [sys.executable, "-m", "unirouter_plugins.cli"]
SUM, POEM = "What is 14 plus 37?", "Write a poem of 3 lines about the rain."


def run(*arguments, stdin=None):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def output(*arguments, code=0, stdin=None):
    """What a command prints, as JSON."""
    done = run(*arguments, "--json", stdin=stdin)
    assert done.exit_code == code, done.stderr
    return json.loads(done.stdout)


def refusal(*arguments, stdin=None, code=2):
    """The one sentence of a command that cannot be done, after the line that says what was read."""
    done = run(*arguments, stdin=stdin)
    assert done.exit_code == code
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    sentence = done.stderr[done.stderr.index("\n") + 1 :] if done.stderr.startswith("Read ") else done.stderr
    assert sentence.startswith("Error: ")
    assert sentence.count("\n") == 1
    return sentence


def write(path, outcomes, *, usd=True, tokens=False):
    """Write outcomes in our own form."""
    lines = []
    for i, prompt in enumerate(outcomes.prompts):
        for j, model in enumerate(outcomes.models):
            line = {"prompt": prompt, "model": model, "error": float(outcomes.errors[i, j])}
            line |= {"cost": float(outcomes.costs[i, j])} if usd else {}
            line |= {"tokens_in": float(outcomes.tokens_in[i, j])} if tokens else {}
            line |= {"tokens_out": float(outcomes.tokens_out[i, j])} if tokens else {}
            lines.append(json.dumps(line))
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def made(world, tmp_path_factory):
    """A folder with what the first two commands of the README make."""
    folder = tmp_path_factory.mktemp("made")
    write(folder / "fit.jsonl", world.rows(range(160)))
    write(folder / "recorded.jsonl", world.rows(range(160, 240)))
    output("fit", folder / "my.router", folder / "fit.jsonl")
    output("onboard", folder / "my.router", *POOL, "--recorded", folder / "recorded.jsonl")
    return folder


@pytest.fixture
def folder(made, tmp_path):
    """A copy of it, to change."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


# --- fit --------------------------------------------------------------------------------------------------------------


def test_fit_says_what_was_learned_from_and_what_comes_next(made, tmp_path):
    done = run("fit", tmp_path / "new.router", made / "fit.jsonl", "--models", "poet, sage")

    assert done.exit_code == 0
    assert "112 prompts and 2 models; 48 prompts held out" in done.stdout
    assert f"unirouter onboard {tmp_path / 'new.router'} --recorded" in done.stdout
    assert UniRouter.load(tmp_path / "new.router").fit_.training_models == ("poet", "sage")


def test_fit_replaces_a_router_that_holds_models_only_with_force(folder):
    sentence = refusal("fit", folder / "my.router", folder / "fit.jsonl")

    assert "holds 4 models" in sentence
    assert "--force" in sentence
    assert set(UniRouter.load(folder / "my.router").pool) == set(POOL)
    output("fit", folder / "my.router", folder / "recorded.jsonl", "--force")
    assert not UniRouter.load(folder / "my.router").pool


def test_models_are_evaluated_on_the_prompts_that_fit_held_out_else_results_are_called_optimistic(made, tmp_path):
    router, recorded = tmp_path / "new.router", ("poet", "sage", "--recorded", made / "fit.jsonl")
    output("fit", router, made / "fit.jsonl")
    assert "evaluated on the 48 of 160 prompts" in run("onboard", router, *recorded).stderr
    assert UniRouter.load(router).pool["poet"].n == 48

    output("fit", router, made / "fit.jsonl", "--hold-out", "0", "--force")
    assert "optimistic" in run("onboard", router, *recorded).stderr
    assert "optimistic" in run("report", router).stdout.replace("\n", " ")


def test_fit_takes_bare_prompts_and_says_what_it_leaves_out(world, tmp_path):
    forms = {"a.txt": str, "b.jsonl": lambda p: json.dumps({"id": 1, "prompt": p}), "c.jsonl": json.dumps}
    for name, form in forms.items():
        (tmp_path / name).write_text("\n\n".join(map(form, world.prompts[:40])))

        done = run("fit", tmp_path / "my.router", tmp_path / name, "--json")

        learned = json.loads(done.stdout)
        assert (learned["prompts"], learned["held_out"], learned["training_models"]) == (40, 0, [])
        assert "Note:" not in done.stderr
    ended = run("fit", tmp_path / "my.router", tmp_path / "a.txt").stdout
    assert f"next: unirouter onboard {tmp_path / 'my.router'} MODEL... --validation FILE\n" in ended
    assert "--starter are about equally good beginnings" in " ".join(ended.split())
    assert "leave --models out" in refusal("fit", tmp_path / "my.router", tmp_path / "a.txt", "--models", "poet")


def test_fit_refuses_what_it_cannot_learn_from(made, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "model": "poet"}\n')

    assert "neither error nor quality" in refusal("fit", tmp_path / "my.router", tmp_path / "bad.jsonl")
    assert "the router's folder comes first" in refusal("fit", made / "fit.jsonl", made / "new.router")


# --- onboard, models, retire ------------------------------------------------------------------------------------------


def test_onboard_prints_the_new_profile(world, folder):
    new = output("onboard", folder / "my.router", "clerk", "--recorded", folder / "recorded.jsonl")["onboarded"]

    errors, costs = world.errors[160:, 2], world.costs[160:, 2]
    assert [row["model"] for row in new] == ["clerk"]
    assert new[0]["n"] == 80
    assert new[0]["error"] == pytest.approx(errors.mean())
    smoothed = (errors.sum() + 1) / 82  # one right and one wrong answer more
    assert new[0]["stderr"] == pytest.approx(np.sqrt(smoothed * (1 - smoothed) / 82))
    assert new[0]["usd_per_1000"] == pytest.approx(1000 * costs.mean())
    assert "clerk" in UniRouter.load(folder / "my.router").pool


def test_onboard_all_passes_over_models_that_are_in_the_pool(folder):
    done = output("onboard", folder / "my.router", "--all", "--recorded", folder / "recorded.jsonl")

    assert set(done["skipped"]) == set(POOL)
    assert [row["model"] for row in done["onboarded"]] == ["clerk", "bard", "coder", "editor"]


def test_onboarding_adds_all_models_or_none(folder):
    sentence = refusal("onboard", folder / "my.router", "clerk", "nobody", "--recorded", folder / "recorded.jsonl")

    assert "'nobody' is not in the table" in sentence
    assert set(UniRouter.load(folder / "my.router").pool) == set(POOL)


def test_a_model_of_the_pool_is_measured_anew_only_with_replace(world, folder):
    again = write(folder / "again.jsonl", world.rows(range(200, 240)))

    assert "--replace" in refusal("onboard", folder / "my.router", "poet", "--recorded", again)
    output("onboard", folder / "my.router", "poet", "--recorded", again, "--replace")
    assert UniRouter.load(folder / "my.router").pool["poet"].n == 40


def test_prices_are_given_in_usd_per_million_tokens(world, folder):
    unpriced = write(folder / "unpriced.jsonl", world.rows(range(160, 240)), usd=False, tokens=True)
    command = ("onboard", folder / "my.router", "clerk", "--recorded", unpriced)

    assert "--price-in" in refusal(*command)
    assert "--price-out" in refusal(*command, "--price-in", 1)
    assert "--prices FILE" in refusal(*command, "bard", "--price-in", 1, "--price-out", 2)
    assert output(*command, "--price-in", 1, "--price-out", 2)["onboarded"][0]["prices"]["output"] == 2
    assert UniRouter.load(folder / "my.router").pool["clerk"].prices == Prices(1, 2)


def test_onboard_asks_for_what_is_missing(made, tmp_path):
    router = made / "my.router"

    sentence = refusal("onboard", tmp_path / "no.router", "poet", "--recorded", made / "recorded.jsonl")
    assert f"unirouter fit {tmp_path / 'no.router'} DATA" in sentence
    assert "--starter" in sentence
    assert not (tmp_path / "no.router").exists()
    assert "--recorded" in refusal("onboard", router)
    assert "one of the two" in refusal("onboard", router, "clerk", "--all", "--recorded", made / "recorded.jsonl")


def test_two_processes_that_onboard_at_once_keep_each_others_models(folder):
    def start(model):
        return spawn("onboard", folder / "my.router", model, "--recorded", folder / "recorded.jsonl")

    both = [start("clerk"), start("bard")]

    assert all(process.communicate(timeout=300)[1].startswith("Read 640 answers") for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert {"clerk", "bard", *POOL} == set(UniRouter.load(folder / "my.router").pool)


def test_models_lists_what_is_known_of_each(made):
    listed = output("models", "--router", made / "my.router")["models"]
    done = run("models", "-r", made / "my.router")

    assert [row["model"] for row in listed] == sorted(POOL)
    assert listed[0]["provenance"]["source"] == "recorded outcomes"
    assert all(model in done.stdout for model in POOL)
    assert listed[0]["provenance"]["date"] in done.stdout
    sage = next(row for row in listed if row["model"] == "sage")
    assert sage["error"] == 0  # which is not known to be so exactly
    assert sage["stderr"] == pytest.approx(np.sqrt(1 / 82 * 81 / 82 / 82))


def test_models_shows_a_column_only_where_it_tells_models_apart(folder):
    before = run("models", "-r", folder / "my.router").stdout
    file = folder / "my.router" / "pool" / "poet.json"
    profile = json.loads(file.read_text())
    profile["capabilities"] |= {"tools": False, "context_window": 8000}
    profile["provenance"]["date"] = "2024-02-29"
    file.write_text(json.dumps(profile))

    after = run("models", folder / "my.router").stdout

    assert "lacks" not in before
    assert "evaluated:" in before
    assert "2024-02-29  tools, > 8,000" in after


def test_retire_takes_out_one_model(folder):
    assert output("retire", folder / "my.router", "poet")["models"] == ["sage", "scholar", "tutor"]
    assert set(UniRouter.load(folder / "my.router").pool) == set(POOL) - {"poet"}
    assert "'poet' is not in the pool" in refusal("retire", folder / "my.router", "poet")


# --- route ------------------------------------------------------------------------------------------------------------


def test_route_says_the_model_first(made):
    router = made / "my.router"

    assert run("route", router, SUM, *WEIGHED).stdout.splitlines()[0] == "sage"
    assert run("route", POEM, *WEIGHED, f"--router={router}").stdout.splitlines()[0] == "poet"
    assert run("route", SUM, "-r", router, "--cost-weight", "inf").stdout.splitlines()[0] == "poet"
    assert "Cost is ignored" in run("route", SUM, "-r", router).stdout.replace("\n", " ")  # not tuned


def test_route_as_json_is_the_decision(made):
    row = output("route", SUM, "--router", made / "my.router", "--cost-weight", 300)

    decision = UniRouter.load(made / "my.router").route(SUM, cost_weight=300)
    assert row["prompt"] == SUM
    assert (row["model"], row["error"], row["cost"]) == (decision.model, decision.error, decision.cost)
    assert [candidate["model"] for candidate in row["ranking"]] == [each.model for each in decision.ranking]


def test_a_dash_reads_the_prompt_from_stdin(made):
    assert output("route", "-", "-r", made / "my.router", stdin=f"{SUM}\n")["prompt"] == SUM
    assert "empty" in refusal("route", "-", "-r", made / "my.router", stdin="")
    assert "the prompt is not UTF-8" in refusal("route", "-", "-r", made / "my.router", stdin=b"\xff\xfe\x00")


def test_explain_shows_answers_region_and_what_each_model_did(made):
    done = run("route", SUM, "-r", made / "my.router", *WEIGHED[2:], "--explain")

    why = output("route", SUM, "-r", made / "my.router", *WEIGHED[2:], "--explain")
    first = why["model"]
    there = why["in_region"][first]
    region = f"Region {why['region']}, {there['n']} validation prompts: {first} {1 - there['error']:.1%}"
    assert region in " ".join(done.stdout.split())
    assert [line.split()[5] for line in done.stdout.splitlines() if line.startswith("1  ")] == ["80"]  # answers
    did = ["0%" if why["neighbours"][0]["errors"][row["model"]] else "100%" for row in why["ranking"]]
    nearest = next(line for line in done.stdout.splitlines() if "What is" in line)
    assert nearest.split()[-4:] == did


def test_what_each_model_did_on_similar_prompts_is_told_apart_and_prompts_unlike_it_are_not_shown(made, capsys):
    why = UniRouter.load(made / "my.router").explain(SUM, cost_weight=0)
    models = [row.model for row in why.decision.ranking]
    near = Neighbour("What is 1 plus 1?", 0.9, {models[0]: 0.0, models[1]: 0.25, models[2]: 1.0})

    show.decision(why.decision, why=dataclasses.replace(why, neighbours=(near,)))
    assert "What is 1 plus 1?  100%  75%  0%  -" in capsys.readouterr().out

    unlike = dataclasses.replace(near, similarity=0.04)
    show.decision(why.decision, why=dataclasses.replace(why, neighbours=(unlike,)))
    shown = capsys.readouterr().out
    assert "No validation prompt is similar." in shown
    assert "similarity" not in shown


def test_how_far_a_prompt_is_is_a_share():
    done = run("route", "--example", "What is 14 plus 37?")

    far = output("route", "--example", "What is 14 plus 37?")["far"]
    assert f"Unusual prompt ({far:.0%} out of distribution): predictions are shrunk" in done.stdout
    assert "(text not kept)" in run("route", "--example", SUM, "--explain").stdout  # no digest


def test_onboard_can_leave_out_the_texts(folder):
    router = folder / "new.router"
    output("fit", router, folder / "fit.jsonl")

    output("onboard", router, "poet", "--recorded", folder / "recorded.jsonl", "--no-texts")

    assert UniRouter.load(router).pool["poet"].measured.texts is None
    assert not [file for file in router.rglob("*") if file.is_file() and b"Write a poem of" in file.read_bytes()]


def test_a_router_fitted_without_texts_stays_without_them(folder):
    router = folder / "new.router"
    output("fit", router, folder / "fit.jsonl", "--no-texts")

    output("onboard", router, "poet", "sage", "--recorded", folder / "recorded.jsonl")
    output("retire", router, "sage")

    assert UniRouter.load(router).pool["poet"].measured.texts is None


def test_the_candidates_can_be_named(made):
    command = ("route", SUM, "-r", made / "my.router", "--models", "poet, tutor")

    assert output(*command, "--cost-weight", "0")["model"] == "tutor"
    assert "Excluded, not among the models asked for: sage, scholar." in run(*command).stdout
    assert "'nobody' is not in the pool" in refusal("route", SUM, "-r", made / "my.router", "--models", "nobody")
    assert "no capability" in refusal("route", SUM, "-r", made / "my.router", "--requires", "wings")
    assert "',' holds no name" in refusal("route", SUM, "-r", made / "my.router", "--models", ",")


def test_a_file_of_prompts_gives_a_line_of_json_each(made, tmp_path):
    prompts = [SUM, POEM, "Ein Gedicht über Öl, 3 Zeilen."]
    lines = {"prompts.txt": prompts, "prompts.jsonl": [json.dumps({"prompt": prompt}) for prompt in prompts]}
    for name in lines:
        (tmp_path / name).write_text("\n".join(lines[name]), encoding="utf-8")
        command = ("route", "--file", tmp_path / name, "-r", made / "my.router", *WEIGHED)

        rows = [json.loads(line) for line in run(*command, "--json").stdout.splitlines()]
        assert [row["prompt"] for row in rows] == prompts
        assert [row["model"] for row in rows[:2]] == ["sage", "poet"]
    explained = run(*command, "--explain", "--json").stdout.splitlines()
    assert [len(json.loads(line)["neighbours"]) for line in explained] == [5] * 3
    assert POEM in run(*command, "--explain").stdout


def test_prompts_are_read_from_a_pipe_as_from_a_file(made, tmp_path):
    as_json = f'{json.dumps(SUM)}\n{{"prompt": {json.dumps(POEM)}}}'
    for name, written in {"prompts": f"{SUM}\n\n{POEM}\n", "prompts.jsonl": as_json}.items():
        os.mkfifo(tmp_path / name)
        threading.Thread(target=(tmp_path / name).write_text, args=(written,), daemon=True).start()
        done = run("route", "--file", tmp_path / name, "-r", made / "my.router", *WEIGHED, "--json")
        assert [json.loads(line)["prompt"] for line in done.stdout.splitlines()] == [SUM, POEM], name


def test_slices_give_the_decisions_of_one_batch(world, made, tmp_path):
    prompts = world.prompts * 40  # more than one slice
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))

    done = run("route", made / "my.router", "--file", tmp_path / "prompts.txt", *WEIGHED, "--json")

    rows = [json.loads(line) for line in done.stdout.splitlines()]
    batch = UniRouter.load(made / "my.router").route_batch(prompts, models=["poet", "sage"], cost_weight=300)
    assert [row["model"] for row in rows] == batch.models
    assert [row["cost"] for row in rows] == pytest.approx(batch.costs.tolist())


def test_many_prompts_are_shown_as_the_first_of_them_and_shares(world, made, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(world.prompts))

    done = run("route", "--file", tmp_path / "prompts.txt", "-r", made / "my.router", *WEIGHED)

    assert "… and 220 more; --json writes them all." in done.stdout
    assert "sage" in done.stdout.split("share")[1]


def test_what_takes_long_has_a_bar_on_a_terminal_and_none_on_stdout(folder, world):
    (folder / "prompts.txt").write_text("\n".join(world.prompts))
    (folder / "many.txt").write_text("\n".join(world.prompts * 40))
    bars = {
        "route my.router --file many.txt": "Routing 9,600 prompts",
        "route my.router --file prompts.txt --explain": "Explaining",
        "onboard my.router --all --recorded recorded.jsonl": "Onboarding",
    }
    for command, bar in bars.items():
        stdout, seen = on_terminal([*PROGRAM, *command.split(), "--json"], folder)

        assert bar in seen
        assert "/" in seen
        assert bar not in stdout
        assert all(json.loads(line)["model"] for line in stdout.splitlines() if command.startswith("route"))


def on_terminal(command, folder, stdout=None, code=0):
    """What a command prints on stdout, a file unless it is a terminal too, and on stderr, a terminal."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    here = {**os.environ, "TERM": "xterm", "PYTHONPATH": os.pathsep.join(sys.path)}
    with (folder / "stdout").open("w") as file:
        out = theirs if stdout == "terminal" else file
        process = subprocess.Popen(command, stdout=out, stderr=theirs, cwd=folder, env=here)
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while read := os.read(ours, 4096):
            seen += read
    os.close(ours)
    assert process.wait(timeout=60) == code, seen
    return (folder / "stdout").read_text(), seen.decode()


def test_a_path_with_spaces_is_never_broken_and_is_quoted_in_a_command(made, tmp_path):
    name = "a folder of many short words that is longer than what is left of a line of a terminal"
    (tmp_path / name).mkdir()
    (place := tmp_path / name / "my router").touch()
    _, seen = on_terminal([*PROGRAM, "models", f"--router={place}"], tmp_path, code=2)
    assert f"{place}" in seen
    assert f"unirouter fit '{tmp_path}/none at all' DATA" in refusal("models", tmp_path / "none at all")


def test_notes_are_at_most_88_columns_on_a_terminal_and_one_line_in_a_pipe(tmp_path):
    program = "from unirouter_plugins.cli import show; show.note('many words ' * 30 + '/a/long/path' * 10)"
    _, seen = on_terminal([sys.executable, "-c", program], tmp_path)
    *lines, path = seen.splitlines()
    assert max(map(len, lines)) <= 88
    assert path == "/a/long/path" * 10
    piped = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert piped.stderr.count("\n") == 1


def test_a_bar_stands_below_what_is_printed_and_never_over_it(tmp_path):
    program = """
from unirouter_plugins.cli import show
with show.progress_bar("spent") as bar:
    bar.add_task("a mo\\x1b\\rdel", total=3, spent="$1")
    for verdict in ("first", "second"):
        bar.refresh()
        show.say(verdict)
        show.note(f"of the {verdict}")
        print(f"plainly {verdict}")
"""
    _, seen = on_terminal([sys.executable, "-c", program], tmp_path, stdout="terminal")

    assert "a model" in seen
    for line in ("first", "Note: of the first", "plainly first", "second", "Note: of the second", "plainly second"):
        assert re.search(rf"(\x1b\[2K|\n){line}\s*\r\n", seen), line


def test_route_wants_exactly_one_source_of_prompts(made, tmp_path):
    (tmp_path / "none.txt").write_text("\n \n")
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n{"text": "b"}\n')

    router = made / "my.router"
    assert "Give ROUTER and one of" in refusal("route", SUM)
    assert "Give ROUTER and one of" in refusal("route", router, SUM, "--file", tmp_path / "none.txt")
    assert "holds no prompts" in refusal("route", router, "--file", tmp_path / "none.txt")
    assert "line 2" in refusal("route", router, "--file", tmp_path / "bad.jsonl")


# --- tune, report -----------------------------------------------------------------------------------------------------


def test_tune_saves_the_cost_weight_and_nothing_else(folder):
    router = folder / "my.router"
    before = {file.name: file.read_bytes() for file in (router / "pool").iterdir()}

    tuned = output("tune", "-r", router, "--usd-per-error", 0.01, "--save")

    assert (tuned["cost_weight"], tuned["met"], tuned["saved"]) == (100, True, True)
    assert UniRouter.load(router).cost_weight == 100
    assert {file.name: file.read_bytes() for file in (router / "pool").iterdir()} == before


def test_a_goal_that_cannot_be_met_exits_with_3_and_saves_nothing(folder):
    router = folder / "my.router"

    tuned = output("tune", "-r", router, "--usd-per-1000", 1e-9, "--save", code=3)

    assert (tuned["met"], tuned["saved"]) == (False, False)
    assert UniRouter.load(router).cost_weight == 0


def test_tune_shows_quality_cost_shares_and_verdict(made):
    done = run("tune", "-r", made / "my.router", "--keep-quality", 0.97)

    assert done.exit_code == 0
    text = " ".join(done.stdout.split())
    assert text.startswith("Today: sage, quality ")
    for words in ("best mixture", "90% interval", "To keep 97% of sage's quality", "resamplings. Routing "):
        assert words in text


def test_tune_answers_beside_what_is_used_now(made):
    tune = "tune", made / "my.router", "--save-cost", 0.4, "--now", "scholar", "--per-month", "2M"
    done, tuned = run(*tune), output(*tune)

    assert f"At 2,000,000 prompts a month: {show.usd(2e6 * tuned['today']['cost'])} today" in done.stdout
    (best,) = (each for each in tuned["choices"] if each["method"] == tuned["best"])
    assert tuned["usd_per_month_then"] == pytest.approx(2e6 * best["cost"])
    assert [row["saved"] for row in tuned["today"]["savings"]] == [0.25, 0.4, 0.6]
    assert tuned["today"]["model"] == "scholar"
    assert "'bard' is not in the pool" in refusal("tune", *tune[1:4], "--now", "bard")
    reported = output("report", made / "my.router", "--per-month", "2,000")
    assert reported["usd_per_month_today"] == pytest.approx(2000 * reported["today"]["cost"])
    assert "--per-month many is no number" in refusal("tune", *tune[1:4], "--per-month", "many")


def test_a_weight_that_cannot_give_the_best_choice_is_not_saved(folder):
    router = folder / "my.router"
    for model in ("poet", "tutor", "scholar"):
        output("retire", router, model)

    tuned = output("tune", router, "--keep-quality", 1, "--save")

    assert (tuned["best"], tuned["gives_best"], tuned["saved"]) == ("single model", True, True)  # of one, any weight


def test_tune_wants_one_goal_and_somewhere_to_save(made):
    assert "--usd-per-1000" in refusal("tune", "-r", made / "my.router")
    assert "one goal" in refusal("tune", "-r", made / "my.router", "--keep-quality", 0.9, "--usd-per-error", 1)
    assert "cannot be saved" in refusal("tune", "--example", "--keep-quality", 0.9, "--save")


def test_report_exits_with_0_where_routing_pays_and_with_3_where_it_does_not(made, folder, tmp_path):
    done = run("report", "-r", made / "my.router", "--png", tmp_path / "curve.png")

    assert done.exit_code == 0
    assert "Routing pays: it keeps" in done.stdout.replace("\n", " ")
    assert "best mixture" in done.stdout
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"
    for model in ("poet", "tutor", "scholar"):
        output("retire", folder / "my.router", model)
    assert output("report", "-r", folder / "my.router", code=3)["pays"] is False


def test_a_picture_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    nowhere = ("report", "-r", tmp_path / "no.router")  # which would be the next thing to say

    assert "'.zzz' is no format of pictures" in refusal(*nowhere, "--png", tmp_path / "curve.zzz")
    assert "'' is no format" in refusal(*nowhere, "--png", tmp_path / "curve")
    assert "does not exist; make it first" in refusal(*nowhere, "--png", tmp_path / "no" / "curve.png")


def test_a_picture_without_matplotlib_is_refused_with_the_cure(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "unirouter_plugins.figures", raising=False)

    assert "pip install 'unirouter[report]'" in refusal("report", "-r", made / "my.router", "--png", "curve.png")


def test_report_on_other_data_uses_none_that_was_measured_on(made):
    on_others = output("report", "-r", made / "my.router", "--data", made / "fit.jsonl")

    assert on_others["n"] == 48  # those that fit kept back
    assert "0 prompts are left" in refusal("report", "-r", made / "my.router", "--data", made / "recorded.jsonl")


# --- all of them ------------------------------------------------------------------------------------------------------


def test_an_input_that_is_missing_or_foreign_is_one_sentence_and_exit_code_2(made, tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")

    assert "does not exist" in refusal("models", "-r", tmp_path / "no.router")
    assert "is not a router" in refusal("models", "-r", tmp_path)
    assert "No such file" in refusal("fit", tmp_path / "my.router", tmp_path / "no.jsonl")
    assert "Not a directory" in refusal("route", "--file", tmp_path / "latin.txt" / "x", "-r", made / "my.router")
    said = refusal("route", "--file", tmp_path / "latin.txt", "-r", made / "my.router")
    assert "latin.txt: byte 3 is not UTF-8; save the file" in said
    assert run("route", "--wings").exit_code == 2


def test_router_is_the_first_argument_or_an_option_anywhere(made):
    router = made / "my.router"
    one = output("models", router)

    assert output("models", "-r", router) == output("models", f"--router={router}") == one
    assert output("route", SUM, "--router", router) == output("route", router, SUM)
    assert run("models", router, "--router", router).exit_code == 2


def test_without_a_router_no_command_takes_another_one():
    for command in ("models", "tune --usd-per-error 1", "report", "route --file x.txt", "retire", "fit"):
        sentence = refusal(*command.split())

        assert "ROUTER is missing; name its folder: unirouter" in sentence
        assert ("--example" in sentence) is (command not in ("retire", "fit"))
    assert "No such option" in run("retire", "--example", "poet").stderr


def test_no_command_prints_control_characters_of_models_and_prompts(made, tmp_path):
    (tmp_path / "prompts.txt").write_text("\u202e\x1b]0;owned\x07What is 1 plus 1?\x1b[31m\n" * 2)
    (tmp_path / "named.jsonl").write_text(
        (made / "recorded.jsonl").read_text().replace('"poet"', '"po\\u001bet"').replace("rain", "ra\\u009bin")
    )
    router = tmp_path / "my.router"
    output("fit", router, made / "fit.jsonl")
    commands = [
        ("onboard", router, "--all", "--recorded", tmp_path / "named.jsonl"),
        ("models", router),
        ("prices", router),
        ("route", router, "--file", tmp_path / "prompts.txt"),
        ("route", router, "--explain", f"\x1b[31m{POEM}"),
        ("tune", router, "--usd-per-error", 0.001),
        ("report", router),
        ("route", router, "--models", "nob\x1bo\u202edy", SUM),
        ("retire", router, "po\x1bet"),
    ]
    shown = {}
    for command in commands:
        done = run(*command)
        assert isinstance(done.exception, SystemExit | None), command
        shown[command[0]] = done.output
        assert not set(done.output) & {"\x1b", "\x07", "\x9b", "\u202e"}, command
    assert "poet" in shown["models"]
    assert "poet" in shown["retire"]


def test_text_is_at_most_88_wide_and_no_path_is_broken(made, tmp_path, monkeypatch):
    for width in (60, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        long = tmp_path / f"a folder with a rather long name {width}" / ("router-" * 12)
        long.parent.mkdir()

        done = run("fit", long, made / "fit.jsonl")
        text = run("tune", made / "my.router", "--keep-quality", 0.97).stdout

        assert str(long) in done.stdout
        assert max(map(len, text.splitlines())) <= min(width + 20, 88)  # a table may be wider than a narrow terminal


def test_the_version_is_that_of_the_installed_package(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", lambda name: "1.2.3")
    assert run("--version").stdout == "unirouter 1.2.3\n"
    monkeypatch.setattr(metadata, "version", missing)
    assert "not installed" in run("--version").stdout


def test_every_command_has_help_with_an_example_and_exit_codes_are_documented():
    for command in "fit onboard models retire route ask tune report prices bench demo".split():  # noqa: SIM905
        shown = run(command, "-h").stdout

        assert shown == run(command, "--help").stdout
        assert f"Example: unirouter {command} " in shown
    assert "0 fine; 2 usage or bad input; 3 a goal that cannot be met" in " ".join(run("--help").stdout.split())
    assert "Exit code 3" in " ".join(run("tune", "--help").stdout.split())


def test_tables_fit_into_80_columns_and_keep_long_names_whole(world, folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    long = "together_ai/meta-llama/Meta-Llama-3.1-405B-Instruct-Turbo"
    text = (folder / "recorded.jsonl").read_text().replace('"clerk"', f'"{long}"')
    (folder / "recorded.jsonl").write_text(text)
    output("onboard", folder / "my.router", long, "--recorded", folder / "recorded.jsonl")

    done = run("models", "-r", folder / "my.router")

    assert max(map(len, done.stdout.splitlines())) <= 80
    assert long in done.stdout
    assert "recorded/Meta-Llama-3.1-70B-Instruct  64.3% ± 3.2   $0.258  2024-07" in run("models", "--example").stdout


def spawn(*arguments, **settings):
    """A process of the real command."""
    return subprocess.Popen(
        [PROGRAM[0], "-W", "error", *PROGRAM[1:], *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **settings,
    )


def test_json_is_all_there_is_on_stdout_and_progress_is_not(made, tmp_path):
    process = spawn("fit", tmp_path / "my.router", made / "fit.jsonl", "--json")
    stdout, stderr = process.communicate(timeout=60)

    assert json.loads(stdout)["prompts"] == 112
    assert stderr == ""


def test_a_terminal_that_is_not_utf8_loses_bars_but_no_answer(made):
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    reported = spawn("report", "-r", made / "my.router", env=ascii_only)
    explained = spawn("route", SUM, "-r", made / "my.router", *WEIGHED, "--explain", env=ascii_only)

    assert "Routing pays" in reported.communicate(timeout=60)[0]
    assert explained.communicate(timeout=60)[0].splitlines()[0] == "sage"
    assert (reported.returncode, explained.returncode) == (0, 0)


def test_routing_from_the_shell_imports_no_scikit_learn_no_matplotlib_and_for_json_no_rich(made):
    program = (
        "import sys; from unirouter_plugins.cli import app\n"
        f"try: app(['route', {SUM!r}, '-r', {str(made / 'my.router')!r}, '--json'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('sklearn', 'matplotlib', 'scipy', 'rich') if name in sys.modules], file=sys.stderr)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stderr.strip() == "[]"


# --- The starter ------------------------------------------------------------------------------------------------------


def test_the_starters_examples_answer_and_say_that_they_are_recorded():
    done = run("route", "What is 17 times 23?", "--example", "--json")

    assert json.loads(done.stdout)["router"] == "starter"
    assert "recorded example models (released 2023-12 to 2026-02; list prices typed by hand" in done.stderr
    assert "prices of" not in done.stderr


def test_onboard_with_starter_begins_with_its_features_and_an_empty_pool_or_leaves_nothing(made, tmp_path):
    recorded = made / "recorded.jsonl"

    refusal("onboard", tmp_path / "my.router", "nobody", "--recorded", recorded, "--starter")
    assert not (tmp_path / "my.router").exists()
    output("onboard", tmp_path / "my.router", "poet", "sage", "--recorded", recorded, "--starter")
    assert set(UniRouter.load(tmp_path / "my.router").pool) == {"poet", "sage"}


def test_the_starters_examples_can_be_listed_tuned_and_reported():
    assert output("models", "--example")["models"]
    assert output("tune", "--example", "--usd-per-error", 0.02)["cost_weight"] == 50
    assert output("report", "--example", code=run("report", "--example").exit_code)["models"]
