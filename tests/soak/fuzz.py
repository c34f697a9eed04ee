"""Hostile inputs by the seed, each read in a forked child with its processor time and its memory counted."""

import copy
import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import time
import warnings
import zlib
from contextlib import suppress
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from pyarrow import csv
from typer.testing import CliRunner

from tests.conftest import fitted
from tests.plugins.logs.test_calls import CALLS
from tests.plugins.logs.test_evaluations import samples
from unirouter_core import Evaluation, read_outcomes
from unirouter_core.exceptions import UniRouterError
from unirouter_plugins.cli import app
from unirouter_plugins.graders import GRADERS, parse_grader
from unirouter_plugins.litellm import complete, load_router, open_litellm, read_members
from unirouter_plugins.logs import read_log
from unirouter_plugins.onboarding.questions import read_questions

SUM = "What is 14 plus 37?"
SECONDS, PAUSE, MEGABYTES = 5, 30, 500  # processor and wall time, memory above what the process had
MOST = 4 * 10**9  # bytes of address space: an input must not take the machine down

# --- Hostile values ---------------------------------------------------------------------------------------------------

RAW = {  # JSON that no json.dumps writes
    "@nested": "[" * 100_000 + "]" * 100_000,
    "@tables": '{"a":' * 50_000 + "1" + "}" * 50_000,
    "@digits": "9" * 5_000,
    "@nan": "NaN",
    "@infinite": "-Infinity",
    "@cut": '"abc',
}
TEXTS = ("", " ", "\x00", "\ud800", "../../evil", "/dev/zero", "\x1b]0;owned\x07", "a" * 100_000, "os.environ/HOME")
HOSTILE = (None, True, -1, 0, 2.5, 1e308, -1e308, 10**400, 2**63, *TEXTS, [], {}, [[]], [None], {"": {}}, *RAW)


def hostile(rng):
    return copy.deepcopy(rng.choice(HOSTILE))


def as_json(value):
    text = json.dumps(value)
    for mark, raw in RAW.items():
        text = text.replace(json.dumps(mark), raw)
    return text


def mutated(rng, value):
    """Return a JSON value with one of its parts replaced, removed or added."""
    parts = list(_parts(value))
    if not parts:
        return hostile(rng)
    owner, name = rng.choice(parts)
    change = rng.random()
    if change < 0.7:
        owner[name] = hostile(rng)
    elif change < 0.85:
        del owner[name]
    elif isinstance(owner, dict):
        owner[rng.choice(("unknown", "", "model", "settings", "\x1b[2J"))] = hostile(rng)
    else:
        owner.insert(0, hostile(rng))
    return value


def _parts(value):
    for name in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, name
        yield from _parts(value[name])


def scrambled(rng, content):
    """Return bytes with some of them changed, cut off, doubled or put in."""
    content, change = bytearray(content or b"\x00"), rng.random()
    start, end = sorted(rng.randrange(len(content)) for _ in range(2))
    if change < 0.5:
        for place in rng.choices(range(len(content)), k=rng.choice((1, 3, 20))):
            content[place] ^= 1 << rng.randrange(8)
    elif change < 0.7:
        del content[start:]
    else:
        content[start:start] = (
            content[start:end] if change < 0.85 else rng.choice(TEXTS).encode("utf-8", "surrogatepass")
        )
    return bytes(content)


def archive(members):
    """Return an .npz of (name, packed bytes, checksum, size when unpacked)."""
    files, central = b"", b""
    for name, packed, crc, size in members:
        about = struct.pack("<5H3I2H", 20, 0, 8, 0, 0, crc, len(packed), size, len(name), 0)
        central += b"PK\1\2\x14\0" + about + struct.pack("<3H2I", 0, 0, 0, 0, len(files)) + name
        files += b"PK\3\4" + about + name + packed
    return files + central + b"PK\5\6" + struct.pack("<4H2IH", 0, 0, *[len(members)] * 2, len(central), len(files), 0)


def bomb(megabytes=700):
    """Return an .npz of less than a megabyte that unpacks to `megabytes`."""
    head, cells = BytesIO(), bytes(1 << 20)
    np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": (megabytes << 17,)})
    packer, crc = zlib.compressobj(9, zlib.DEFLATED, -15), zlib.crc32(head.getvalue())
    begun = packer.compress(head.getvalue()) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(cells) + packer.flush(zlib.Z_FULL_FLUSH)  # after a full flush the same again
    for _ in range(megabytes):
        crc = zlib.crc32(cells, crc)
    packed = begun + again * megabytes + packer.flush()
    return archive([(b"cells.npy", packed, crc, len(head.getvalue()) + (megabytes << 20))])


def arrays(rng, content):
    """Return an .npz with an array of another kind or shape."""
    held, out = dict(np.load(BytesIO(content))), BytesIO()
    array = held[name := rng.choice(list(held))]
    odd = [np.array(["text", "\x1b"]), np.array(["2020-01-01"], "datetime64[ns]"), np.array(3.0), np.zeros((0, 7))]
    odd += [np.full(array.shape, value) for value in (np.nan, 1e308, -1.0, 3j)] + [array.reshape(-1)[:0]]
    np.savez(out, **{**held, name: rng.choice(odd)})
    return out.getvalue()


def columns(rng, content):
    """Return a table of Parquet with a column of another kind, or one name twice."""
    table, out = pq.read_table(BytesIO(content)), BytesIO()
    name, n = rng.choice(table.column_names), len(table)
    cells = (None, [1], b"\xff", 1e308, {"score": 1}, "\x1b", pa.scalar(2**62 + 1, pa.timestamp("ns")))
    odd = pa.repeat(rng.choice(cells), n)
    changed = table.set_column(table.column_names.index(name), name, odd)
    twice = pa.table([*table.columns, odd], names=[*table.column_names, name])
    pq.write_table(rng.choice((changed, twice)), out)
    return out.getvalue()


BOMB = bomb()
SPECIALS = (  # each puts in the place of a file one that is none, or one that is too much
    os.mkfifo,
    lambda place: place.symlink_to("/dev/zero"),
    lambda place: place.symlink_to(place),
    lambda place: place.mkdir(),
    lambda place: place.touch(0),
    lambda place: place.write_bytes(BOMB),
    lambda place: place.write_bytes(archive([(b"%d.npy" % n, b"\3\0", 0, 0) for n in range(20_000)])),
    lambda place: (place.touch(), os.truncate(place, 3 << 30)),
    lambda place: place.write_bytes(b'{"prompt": "' + b"a" * (150 << 20) + b'"}'),
    *(lambda place, raw=raw: place.write_text(raw) for raw in RAW.values()),
)


def put_special(rng, place):
    place.unlink()
    rng.choice(SPECIALS)(place)


# --- What is fuzzed: each makes an input in a folder, and returns the call that reads it ------------------------------


class Inputs:
    """The good inputs that hostile ones are made of."""

    def __init__(self, world, folder):
        os.environ["SERVER_KEY"] = "sk-planted"
        self.folder, router, few = folder, fitted(world), world.rows(range(170, 200))
        for model in ("poet", "sage"):
            served = {"model": f"openai/{model}", "api_base": "http://127.0.0.1:9/v1", "api_key_env": "SERVER_KEY"}
            served |= {"settings": {"temperature": 0.5}, "system": "Be brief.", "examples": [["2 + 2?", "4"]]}
            kept = {"date": "2026-01-01", "served_as": served | {"template": "{prompt} Think."}}
            router.onboard(Evaluation.recorded(model, few, provenance=kept))
        router.save(folder / "my.router")
        table = pa.Table.from_pylist(
            [
                {"prompt": prompt, "model": model, "error": float(few.errors[i, j]), "tokens_in": few.tokens_in[i, j]}
                for i, prompt in enumerate(few.prompts)
                for j, model in enumerate(few.models)
            ]
        )
        pq.write_table(table, folder / "answers.parquet")
        csv.write_csv(table, folder / "answers.csv")
        (folder / "answers.jsonl").write_text("\n".join(map(json.dumps, table.to_pylist())))
        (of_all := folder / "answers").mkdir()
        ids, names = np.arange(len(few)), np.array(few.models)
        pq.write_table(pa.table({"prompt_id": ids, "prompt": few.prompts}), of_all / "prompts.parquet")
        np.savez(of_all / "scores.npz", scores=1 - few.errors, models=names, prompt_ids=ids)
        np.savez(of_all / "costs.npz", models=names, cost_usd=few.costs, tokens_in=few.tokens_in)
        (of_all / "meta.json").write_text(json.dumps({"prices_usd_per_mtok": {"poet": [0.1, 0.4]}}))
        router = load_router(folder / "my.router", None, trust=True)
        complete(router, SUM, models=["sage"], mock_response="51")  # imports what children would import again
        CliRunner().invoke(app, ["models", str(folder / "my.router")])

    def change(self, rng, place):
        """Make one file at `place`, or one of a folder there, hostile."""
        files = [file for file in sorted(place.rglob("*")) if file.is_file()] if place.is_dir() else [place]
        file, change = rng.choice(files), rng.random()
        if change < 0.1:
            put_special(rng, file)
        elif change < 0.15 and place.is_dir():
            shutil.copy(file, file.parent / rng.choice(("Sage.json", "x" * 200, "-.json")))
        elif change < 0.2 and place.is_dir():
            file.unlink()
        elif change < 0.7 and file.suffix in (".json", ".jsonl"):
            lines = [file.read_text()] if file.suffix == ".json" else file.read_text().splitlines()
            row = rng.randrange(len(lines))
            lines[row] = as_json(mutated(rng, json.loads(lines[row])))
            file.write_text("\n".join(lines))
        else:
            change = {".npz": arrays, ".parquet": columns}.get(file.suffix, scrambled) if change < 0.7 else scrambled
            file.write_bytes(change(rng, file.read_bytes()))

    # Each returns the call.

    def routers(self, rng, work):
        place = shutil.copytree(self.folder / "my.router", work / "my.router")
        file = place / "pool" / "sage.json"
        if rng.random() < 0.3:
            profile = json.loads(file.read_text())
            profile["provenance"]["served_as"] = mutated(rng, profile["provenance"]["served_as"])
            file.write_text(as_json(profile))
        else:
            self.change(rng, place)

        def read():
            router = load_router(place, None, trust=True)
            router.route(SUM)
            for model in router.pool:
                with suppress(open_litellm().APIError, open_litellm().BadRequestError, UniRouterError):
                    complete(router, SUM, models=[model], mock_response="51")

        return read

    def tables(self, rng, work):
        name = rng.choice(("answers.jsonl", "answers.csv", "answers.parquet", "answers"))
        (shutil.copytree if name == "answers" else shutil.copy)(self.folder / name, work / name)
        self.change(rng, work / name)
        return lambda: read_outcomes(work / name)

    def logs(self, rng, work):
        lines = [as_json(mutated(rng, copy.deepcopy(rng.choice(_LOGS)))) for _ in range(rng.choice((1, 3)))]
        place = work / rng.choice(("calls.jsonl", "calls.json", "samples_x.jsonl"))
        place.write_text("[" + ",".join(lines) + "]" if place.suffix == ".json" else "\n".join(lines))
        if (change := rng.random()) < 0.15:
            put_special(rng, place) if change < 0.05 else place.write_bytes(scrambled(rng, place.read_bytes()))
        return lambda: read_log(rng.choice((place, work)))

    def pools(self, rng, work):
        text, change = _POOL, rng.random()
        if change < 0.15:
            text += f'[providers]\nmine = "{rng.choice(_PLACES)}"\n'
        elif change < 0.7:
            lines = text.splitlines()
            row = rng.choice([row for row, line in enumerate(lines) if "=" in line])
            name, value = lines[row].split(" = ", 1)
            name = rng.choice((name, name, name, "unknown", "api_key", '"\x1b"', "a.b.c"))
            odd = (as_json(hostile(rng)), "2020-01-01", "'x'", "0x" + "f" * 5000, "nan", "[" * 50_000, value)
            lines[row] = f"{name} = {rng.choice(odd)}"
            text = "\n".join(lines)
        content = text.encode("utf-8", "surrogatepass")
        (work / "pool.toml").write_bytes(scrambled(rng, content) if change > 0.8 else content)
        if change > 0.97:
            put_special(rng, work / "pool.toml")
        return lambda: (read_members(work / "pool.toml"), load_router(self.folder / "my.router", work / "pool.toml"))

    def graders(self, rng, work):
        spec = rng.choice(_SPECS)
        if rng.random() < 0.3:
            spec = mutated(rng, dict(json.loads(json.dumps(spec))))
        if rng.random() < 0.2:
            spec = as_json(spec)
        answer, reference = _answer(rng), rng.choice(("51", "Paris", '{"a": [1, 2]}', _answer(rng)))

        def read():
            error = parse_grader(spec)(answer, reference)
            assert 0 <= error <= 1, error

        return read

    def questions(self, rng, work):
        lines, place = [json.dumps(line) for line in _LINES], work / rng.choice(("q.jsonl", "q.jsonl", "q.txt"))
        row = rng.randrange(len(lines))
        if (change := rng.random()) < 0.6:
            lines[row] = as_json(mutated(rng, json.loads(lines[row])))
        elif change < 0.75:
            text = {"prompt": SUM, "reference": _answer(rng)[:20_000], "grader": rng.choice(_SPECS)}
            lines[row] = json.dumps(text)
        place.write_text("\n".join(lines))
        if change > 0.95:
            put_special(rng, place)
        elif change > 0.8:
            place.write_bytes(scrambled(rng, place.read_bytes()))
        return lambda: read_questions(place)

    def commands(self, rng, work):
        place = shutil.copytree(self.folder / "my.router", work / "my.router")
        if rng.random() < 0.3:
            self.change(rng, place)
        os.chdir(work)
        name = rng.choice(list(_COMMANDS))
        line = [name, *(["--example"] if rng.random() < 0.1 and name in ("models", "route") else [str(place)])]
        words = (*_WORDS, str(self.folder / "answers.jsonl"))
        for option in rng.sample(_COMMANDS[name], min(rng.randrange(4), len(_COMMANDS[name]))):
            line += [option.opts[0]] if option.opts[0].startswith("-") else []
            line += [] if getattr(option, "is_flag", False) else [rng.choice(words)]
        line += ["--dry-run"] if name == "onboard" else []

        def read():
            done = CliRunner().invoke(app, line, input="")
            assert isinstance(done.exception, SystemExit | None), f"{line}: {done.exception!r}"
            assert done.exit_code in (0, 2, 3, 4 if name == "ask" else 0), (
                f"{line} ended with {done.exit_code}: {done.stderr}"
            )
            assert "\x1b" not in done.output, f"{line} writes escapes: {done.output!r:.300}"
            if done.exit_code == 2:
                raise UniRouterError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "")

        return read


_COMMANDS = {
    name: [option for option in command.params if option.name not in ("router", "help", "png", "refresh")]
    for name, command in typer.main.get_command(app).commands.items()
    if name in ("models", "retire", "route", "ask", "tune", "report", "prices", "onboard")
}
_PLACES = ("os:abort", "sys:exit", "pdb:main", "faulthandler:_sigsegv", "os:_exit", "no_such:thing", "json:loads", "x")
_POOL = """[models.sage]
model = "openai/sage"
api_base = "http://127.0.0.1:9/v1"
api_key_env = "SERVER_KEY"
prices = { input = 5, output = 20, cached_input = 0.5 }
capabilities = { tools = true, vision = false, json = true, context_window = 8192 }
settings = { temperature = 0.5, max_tokens = 600, stop = ["x"] }
system = "Be brief."
examples = [{ prompt = "2 + 2?", answer = "4" }]
template = "{prompt} Think."
votes = { samples = 5, same = "number" }
"""
_LOGS = (*CALLS.values(), *samples())
_LINES = [
    {"prompt": SUM, "reference": "51", "grader": "number", "id": 1},
    {"system": "Answer with a city.", "prompt": "Capital of Italy?", "reference": "Rome"},
    {"messages": [{"role": "user", "content": "Capital of France?"}], "reference": "Paris", "grader": "text"},
    {"prompt": "A prime above 90.", "reference": "97", "grader": {"grader": "regex", "pattern": "\\b97\\b"}},
    {"prompt": "JSON.", "reference": '{"a": 1}', "grader": {"grader": "json", "schema": {"type": "object"}}},
    {"prompt": "Which?", "reference": "A", "grader": {"grader": "choice", "options": ["A", "B"]}, "documents": ["x"]},
    {"prompt": "Three words.", "reference": "a b c", "grader": {"grader": "constraints", "rules": {"words": 3}}},
]
_WORDS = (SUM, "sage", "nan", "-1", "1e400", "inf", "--", "-", "", "\x1b]0;x\x07")
_PATTERNS = (r"(.+)\1b", r"(a+)+$", r"(a|aa)+$", r"(?=(a+))\1b", r"(?i)a.*b.*c.*d", r"x*x*x*y")
_SPECS = [
    *({"grader": name} for name in GRADERS),
    *({"grader": "number", "tolerance": 0.1, "relative": 0.1, "decimal": mark} for mark in ".,"),
    {"grader": "text", "also": ["x", "y"], "separator": ";"},
    {"grader": "choice", "options": {"A": "Paris", "B": "Rome"}},
    {"grader": "contains", "all_of": ["a"], "any_of": ["b"], "none_of": ["c"]},
    *({"grader": "regex", "pattern": pattern} for pattern in _PATTERNS),
    *({"grader": "json", "schema": s} for s in ({"uniqueItems": True}, {"items": {"pattern": "(a+)+$"}})),
    {"grader": "json", "compare": ["a"], "unordered": True, "extra": True},
    *({"grader": "constraints", "rules": {rule: 3}} for rule in ["words", "sentences", "characters", "lines", "items"]),
]
_BITS = (
    *("!", ".", "a", " because", " so", "5", "1,", "[", "{", '"', '\\"', "(", "ﷺ", "\u0301", "\n- ", "A) ", "B", " "),
    *("The answer is", "<think>", "</think>", "$", "\\boxed{", "1e", "-", "\x00", "\ud800", "e5", "٣", "x "),
)


_SLOW = (  # what was slow once
    *("The answer is" + "!" * 100_000, "." * 100_000 + "x", '"' + '\\"' * 50_000, "a" * 4_000, "aab" * 9_000),
    " because" * 9_000 + " so" + " because" * 9_000 + " 5",
    *(json.dumps(list(range(40_000))), json.dumps(["a" * 30] * 2_000), "1," * 100_000, "x1" * 90_000),
)


def _answer(rng):
    """Return an answer that was slow to read, or of which some bits repeat, up to two megabytes."""
    if rng.random() < 0.2:
        return rng.choice(_SLOW)
    runs = [rng.choice(_BITS) * rng.choice((1, 1, 1, 30, 4_000, 16_000, 100_000)) for _ in range(rng.randrange(1, 7))]
    return "".join(runs)[: 2 << 20]


KINDS = ("routers", "tables", "logs", "pools", "graders", "questions", "commands")

# --- Forked children --------------------------------------------------------------------------------------------------


def failing(inputs, kind, seeds, work):
    """Return what is wrong with the inputs of these seeds, a line each; "" where each is accepted or refused."""
    seeds, wrong = list(seeds), []
    while seeds:
        told, left = _in_child(inputs, kind, seeds, work)
        wrong += [f"{kind} {seed}: {verdict}" for seed, verdict in told if verdict]
        wrong += [f"{kind} {seeds[0]} to {told[-1][0]}: processes are left"] if left else []
        seeds = seeds[len(told) :]
    return "\n".join(wrong)


def _in_child(inputs, kind, seeds, work):
    """Return (seed, verdict) of the first inputs, up to one that ended the child, and whether processes are left."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's, of threads that are not forked
        child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            _child(inputs, kind, seeds, work, writer)
        finally:
            os._exit(0)
    os.close(writer)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = _are_left(child)
    with os.fdopen(reader) as pipe:
        told = [tuple(json.loads(line)) for line in pipe]
    if len(told) < len(seeds) and not (told and told[-1][1].startswith("took")):
        said = {-signal.SIGPROF: f"{SECONDS} s of processor time", -signal.SIGALRM: f"hangs for {PAUSE} s"}
        told.append((seeds[len(told)], said.get(ended, f"the process ended with {ended}")))
    return told, left


def _are_left(group, seconds=2.0):
    """Return whether processes of the group outlive it by so long; they are killed."""
    with suppress(ProcessLookupError):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            os.killpg(group, 0)
            time.sleep(0.02)
        os.killpg(group, signal.SIGKILL)
        return True
    return False


def _child(inputs, kind, seeds, work, writer):
    os.setpgid(0, 0)
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    sys.stdin = open(0)  # noqa: SIM115 - pytest's cannot be read
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (MOST, MOST))
    for seed in seeds:
        place = work / f"{kind}-{seed}"
        place.mkdir()
        verdict = _verdict(inputs, kind, seed, place)
        os.chdir(work)
        shutil.rmtree(place, ignore_errors=True)
        os.write(writer, json.dumps([seed, verdict]).encode() + b"\n")
        if verdict.startswith("took"):
            return  # what it took may not be given back


def _verdict(inputs, kind, seed, place):
    try:
        read = getattr(inputs, kind)(random.Random(f"{kind} {seed}"), place)
    except Exception as failed:
        return f"the input cannot be made: {failed!r}"
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")
    before = _memory("VmRSS")
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, PAUSE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read()
        verdict = ""
    except UniRouterError as refused:
        said = str(refused)
        verdict = "" if said and "\n" not in said and len(said) < 1000 else f"no sentence: {said!r:.200}"
    except MemoryError:
        return f"took {MOST >> 20} MB"
    except BaseException as foreign:
        verdict = f"{type(foreign).__name__}: {foreign!s:.200}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    taken = _memory("VmHWM") - before
    return verdict if taken < MEGABYTES else f"took {taken} MB"


def _memory(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) >> 10 for line in status if line.startswith(name))
