"""Hostile inputs by the seed, each read in a forked child with its processor time and its memory counted."""

import json
import os
import random
import resource
import shutil
import signal
import stat
import struct
import sys
import time
import warnings
import zipfile
import zlib
from contextlib import suppress
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from typer.testing import CliRunner

from tests.conftest import SKILLS, fitted
from tests.plugins.test_cli import write
from unirouter_core import Evaluation
from unirouter_core.data import read_outcomes
from unirouter_core.exceptions import UniRouterError
from unirouter_plugins.cli import app
from unirouter_plugins.graders import GRADERS, parse_grader
from unirouter_plugins.litellm import complete, load_router, open_litellm, read_members
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


def as_json(value):
    text = json.dumps(value)
    for mark, raw in RAW.items():
        text = text.replace(json.dumps(mark), raw)
    return text


def mutated(rng, value):
    """Return a JSON value with one of its parts replaced, removed or added."""
    parts = list(_parts(value))
    if not parts:
        return rng.choice(HOSTILE)
    owner, name = rng.choice(parts)
    change = rng.random()
    if change < 0.7:
        owner[name] = rng.choice(HOSTILE)
    elif change < 0.85:
        del owner[name]
    elif isinstance(owner, dict):
        owner[rng.choice(("unknown", "", "model", "settings", "\x1b[2J"))] = rng.choice(HOSTILE)
    else:
        owner.insert(0, rng.choice(HOSTILE))
    return value


def _parts(value):
    for name in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, name
        yield from _parts(value[name])


def scrambled(rng, content):
    """Return bytes with some of them changed, cut off, doubled or put in."""
    content, change = bytearray(content), rng.random()
    if not content:
        return b"\x00"
    if change < 0.5:
        for _ in range(rng.choice((1, 1, 3, 20))):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif change < 0.7:
        del content[rng.randrange(len(content)) :]
    else:
        start, end = sorted(rng.randrange(len(content)) for _ in range(2))
        put = content[start:end] if change < 0.85 else rng.choice(TEXTS).encode("utf-8", "surrogatepass")
        content[start:start] = put
    return bytes(content)


def many_members():
    held = BytesIO()
    with zipfile.ZipFile(held, "w") as file:
        for n in range(20_000):
            file.writestr(f"{n}.npy", b"")
    return held.getvalue()


def bomb(megabytes=700):
    """Return an .npz of less than a megabyte that unpacks to so many."""
    head, cells = BytesIO(), bytes(1 << 20)
    np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": (megabytes << 17,)})
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    begun = packer.compress(head.getvalue()) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(cells) + packer.flush(zlib.Z_FULL_FLUSH)  # after a full flush the same again
    packed, crc = begun + again * megabytes + packer.flush(), zlib.crc32(head.getvalue())
    for _ in range(megabytes):
        crc = zlib.crc32(cells, crc)
    sizes, name = (crc, len(packed), len(head.getvalue()) + (megabytes << 20)), b"cells.npy"
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 0, *sizes, len(name), 0) + name + packed
    central = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 8, 0, 0, *sizes, len(name), *[0] * 4, 0, 0) + name
    return local + central + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(central), len(local), 0)


def arrays(rng, content):
    """Return an .npz whose arrays are of another kind or shape than they were."""
    held = dict(np.load(BytesIO(content)))
    name, out = rng.choice(list(held)), BytesIO()
    odd = [
        np.array(["text", "\x1b"]),
        np.array(["2020-01-01"], "datetime64[ns]"),
        np.array(3.0),
        np.full(held[name].shape, np.nan),
        np.full(held[name].shape, 1e308),
        held[name][..., :0],
        held[name].astype(complex),
        np.zeros((0, 7)),
    ]
    held[name] = rng.choice(odd)
    np.savez(out, **held)
    return out.getvalue()


def special(place, kind, big):
    """Put in the place of a file one that is none, or one that is too much."""
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    match kind:
        case "pipe":
            os.mkfifo(place)
        case "endless":
            place.symlink_to("/dev/zero")
        case "nowhere":
            place.symlink_to(place)
        case "folder":
            place.mkdir()
        case "empty":
            place.write_bytes(b"")
        case "unreadable":
            place.write_bytes(b"{}")
            place.chmod(0)
        case "bomb":
            place.write_bytes(big)
        case "members":
            place.write_bytes(many_members())
        case "hole":
            with place.open("wb") as file:
                file.truncate(3 << 30)
        case "line":
            place.write_bytes(b'{"prompt": "' + b"a" * (150 << 20) + b'"}')
        case mark:
            place.write_text(RAW[mark])


SPECIALS = ("pipe", "endless", "nowhere", "folder", "empty", "unreadable", "bomb", "members", "hole", "line", *RAW)

# --- What is fuzzed: each makes an input in a folder, and returns the call that reads it ------------------------------


class Inputs:
    """The good inputs that hostile ones are made of."""

    def __init__(self, world, folder):
        os.environ["SERVER_KEY"] = "sk-planted"
        self.folder, self.big = folder, bomb()
        router = fitted(world)
        few = world.rows(range(170, 200))
        for model in ("poet", "sage"):
            served = {"model": f"openai/{model}", "api_base": "http://127.0.0.1:9/v1", "api_key_env": "SERVER_KEY"}
            served |= {"settings": {"temperature": 0.5}, "system": "Be brief.", "examples": [["2 + 2?", "4"]]}
            kept = {"date": "2026-01-01", "served_as": served | {"template": "{prompt} Think."}}
            router.onboard(Evaluation.recorded(model, few, provenance=kept))
        router.save(folder / "my.router")
        write(folder / "answers.jsonl", few, tokens=True)
        rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
        table = pa.Table.from_pylist(rows)
        pq.write_table(table, folder / "answers.parquet")
        heads = list(rows[0])
        lines = [",".join(heads), *(",".join(str(row[name]) for name in heads) for row in rows)]
        (folder / "answers.csv").write_text("\n".join(lines))
        self.table(few, folder / "answers")
        (folder / "pool.toml").write_text(_POOL)
        complete(router, SUM, models=["sage"], mock_response="51")  # imports what children would import again
        CliRunner().invoke(app, ["models", str(folder / "my.router")])

    @staticmethod
    def table(few, folder):
        folder.mkdir()
        ids = np.arange(len(few))
        pq.write_table(pa.table({"prompt_id": ids, "prompt": few.prompts}), folder / "prompts.parquet")
        np.savez(folder / "scores.npz", scores=1 - few.errors, models=np.array(few.models), prompt_ids=ids)
        costs = {"cost_usd": few.costs, "tokens_in": few.tokens_in, "tokens_out": few.tokens_out}
        np.savez(folder / "costs.npz", models=np.array(few.models), **costs)
        prices = {model: [skill[2].input, skill[2].output] for model, skill in SKILLS.items()}
        (folder / "meta.json").write_text(json.dumps({"prices_usd_per_mtok": prices}))

    def change(self, rng, place):
        """Make one file at `place`, or one of a folder there, hostile."""
        files = [file for file in sorted(place.rglob("*")) if file.is_file()] if place.is_dir() else [place]
        file, change = rng.choice(files), rng.random()
        if change < 0.1:
            special(file, rng.choice(SPECIALS), self.big)
        elif change < 0.15 and place.is_dir():
            other = rng.choice((file.with_name("Sage.json"), file.with_name("x" * 200), file.parent / "-.json"))
            shutil.copy(file, other)
        elif change < 0.2 and place.is_dir():
            file.unlink()
        elif change < 0.7 and file.suffix in (".json", ".jsonl"):
            lines = [file.read_text()] if file.suffix == ".json" else file.read_text().splitlines()
            row = rng.randrange(len(lines))
            lines[row] = as_json(mutated(rng, json.loads(lines[row])))
            file.write_text("\n".join(lines))
        elif change < 0.7 and file.suffix == ".npz":
            file.write_bytes(arrays(rng, file.read_bytes()))
        elif change < 0.7 and file.suffix == ".parquet":
            pq.write_table(_columns(rng, pq.read_table(file)), file)
        else:
            file.write_bytes(scrambled(rng, file.read_bytes()))

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
            router = load_router(place, None)
            router.route(SUM)
            for model in router.pool:
                with suppress(open_litellm().APIError, open_litellm().BadRequestError, UniRouterError):
                    complete(router, SUM, models=[model], mock_response="51")

        return read

    def tables(self, rng, work):
        name = rng.choice(("answers.jsonl", "answers.csv", "answers.parquet", "answers"))
        copy = shutil.copytree if name == "answers" else shutil.copy
        copy(self.folder / name, work / name)
        self.change(rng, work / name)
        return lambda: read_outcomes(work / name)

    def pools(self, rng, work):
        text, change = _POOL, rng.random()
        if change < 0.15:
            text += f'[providers]\nmine = "{rng.choice(_PLACES)}"\n'
        elif change < 0.7:
            lines = text.splitlines()
            row = rng.choice([row for row, line in enumerate(lines) if "=" in line])
            name, value = lines[row].split(" = ", 1)
            name = rng.choice((name, name, name, "unknown", "api_key", '"\x1b"', "a.b.c"))
            odd = (as_json(rng.choice(HOSTILE)), "2020-01-01", "'x'", "0x" + "f" * 5000, "nan", "[" * 50_000, value)
            lines[row] = f"{name} = {rng.choice(odd)}"
            text = "\n".join(lines)
        content = text.encode("utf-8", "surrogatepass")
        (work / "pool.toml").write_bytes(scrambled(rng, content) if change > 0.8 else content)
        if change > 0.97:
            special(work / "pool.toml", rng.choice(SPECIALS), self.big)
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
            special(place, rng.choice(SPECIALS), self.big)
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
        words = (
            SUM,
            "sage",
            str(self.folder / "answers.jsonl"),
            "nan",
            "-1",
            "1e400",
            "inf",
            "--",
            "-",
            "café",
            *TEXTS,
        )
        words = [word for word in words if "\x00" not in word and len(word) < 1000]
        for option in rng.sample(_COMMANDS[name], min(rng.randrange(4), len(_COMMANDS[name]))):
            line += [option.opts[0]] if option.opts[0].startswith("-") else []
            line += [] if getattr(option, "is_flag", False) else [rng.choice(words)]
        line += ["--dry-run"] if name == "onboard" else []

        def read():
            done = CliRunner().invoke(app, [word.encode("utf-8", "replace").decode() for word in line], input="")
            if done.exception is not None and not isinstance(done.exception, SystemExit):
                raise AssertionError(f"{line}: {done.exception!r}") from done.exception
            assert done.exit_code in (0, 2, 3), f"{line} ended with {done.exit_code}: {done.stderr}"
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
_LINES = [
    {"prompt": SUM, "reference": "51", "grader": "number", "id": 1},
    {"system": "Answer with a city.", "prompt": "Capital of Italy?", "reference": "Rome"},
    {"messages": [{"role": "user", "content": "Capital of France?"}], "reference": "Paris", "grader": "text"},
    {"prompt": "A prime above 90.", "reference": "97", "grader": {"grader": "regex", "pattern": "\\b97\\b"}},
    {"prompt": "JSON.", "reference": '{"a": 1}', "grader": {"grader": "json", "schema": {"type": "object"}}},
    {"prompt": "Which?", "reference": "A", "grader": {"grader": "choice", "options": ["A", "B"]}, "documents": ["x"]},
    {"prompt": "Three words.", "reference": "a b c", "grader": {"grader": "constraints", "rules": {"words": 3}}},
]
_SPECS = [
    *({"grader": name} for name in GRADERS),
    *({"grader": "number", "tolerance": 0.1, "relative": 0.1, "decimal": mark} for mark in ".,"),
    {"grader": "text", "also": ["x", "y"], "separator": ";"},
    {"grader": "choice", "options": {"A": "Paris", "B": "Rome"}},
    {"grader": "contains", "all_of": ["a"], "any_of": ["b"], "none_of": ["c"]},
    *(
        {"grader": "regex", "pattern": p}
        for p in ("(.+)\\1b", "(a+)+$", "(a|aa)+$", "(?=(a+))\\1b", "(?i)a.*b.*c.*d", "x*x*x*y")
    ),
    *(
        {"grader": "json", "schema": s}
        for s in ({"type": "array", "uniqueItems": True}, {"items": {"pattern": "(a+)+$"}})
    ),
    {"grader": "json", "compare": ["a"], "unordered": True, "extra": True},
    *({"grader": "constraints", "rules": {rule: 3}} for rule in ("words", "sentences", "characters", "lines", "items")),
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


def _columns(rng, table):
    """Return a table of Parquet with a column of another kind, or one name twice."""
    name, n = rng.choice(table.column_names), len(table)
    if rng.random() < 0.2:
        return pa.table([*table.columns, table.column(name)], names=[*table.column_names, name])
    odd = (
        pa.array([2**62 + 1] * n, pa.timestamp("ns")),
        pa.array([None] * n),
        pa.array([[1]] * n),
        pa.array([b"\xff"] * n),
        pa.array([1e308] * n),
        pa.array([{"score": 1}] * n),
        pa.array(["\x1b"] * n).dictionary_encode(),
    )
    return table.set_column(table.column_names.index(name), name, rng.choice(odd))


KINDS = ("routers", "tables", "pools", "graders", "questions", "commands")

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
        _remove(place)
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


def _remove(place):
    for path in [place, *place.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(stat.S_IRWXU)
    shutil.rmtree(place, ignore_errors=True)
