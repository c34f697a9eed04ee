"""Rows a second of `RouteBatch`, of `route-file` and of Ray beside `route_batch`, and the memory of each.

    python tests/benchmarks/batch.py --rows 100000 --rows 1000000

Each way and size is a process of its own; the time is of its processor, except with Ray, whose work is in others.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from unirouter_core.router import UniRouter
from unirouter_plugins.ray import RouteBatch
from unirouter_plugins.ray.files import route_file

TOPICS = ("the sea", "an old tree", "prime numbers", "the French Revolution", "a binary search", "interest rates")
GROUP = 50_000  # rows of a row group
WAYS = ("route_batch", "RouteBatch", "route_file", "ray")


def prompts(begin, end):
    """Prompts of 20 to 60 words, all different."""
    return [
        f"Question {n}: explain {TOPICS[n % 6]} to a class of {n % 29 + 2}, and say how it differs from "
        f"{TOPICS[n // 6 % 6]}. " + f"Give {n % 7 + 1} examples, each with its date and place. " * (n % 5)
        for n in range(begin, end)
    ]


def write(file, rows):
    with pq.ParquetWriter(file, pa.schema([("prompt", pa.string())])) as out:
        for begin in range(0, rows, GROUP):
            out.write_table(pa.table({"prompt": prompts(begin, min(begin + GROUP, rows))}))


def work(way, rows, folder):
    """Route that many rows and return the seconds."""
    source, target = folder / "in.parquet", folder / "out.parquet"
    router = UniRouter.starter(examples=True)
    router.save(folder / "some.router")
    if way in ("route_file", "ray"):
        write(source, rows)
        if way == "ray":
            import ray

            ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
            ray.data.range(1).materialize()
    clock = time.perf_counter if way == "ray" else time.process_time
    began = clock()
    if way in ("route_file", "ray"):
        route_file(folder / "some.router", source, target, ray="local" if way == "ray" else None)
        assert pq.ParquetFile(target).metadata.num_rows == rows
        return clock() - began
    route, spent = RouteBatch(router), 0.0
    for begin in range(0, rows, 8_192):
        some = prompts(begin, min(begin + 8_192, rows))
        table, began = pa.table({"prompt": some}), clock()
        router.route_batch(some) if way == "route_batch" else route(table)
        spent += clock() - began
    return spent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, action="append")
    parser.add_argument("--way", choices=WAYS, action="append")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    rows, ways = given.rows or [100_000], given.way or WAYS
    if given.one:
        with tempfile.TemporaryDirectory() as folder:
            seconds = work(ways[0], rows[0], Path(folder))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"way": ways[0], "rows": rows[0], "seconds": seconds, "peak_mb": peak}))
        return
    print("| way | rows | rows a second | peak, MB |\n|---|---|---|---|")
    for way in ways:
        for n in rows:
            command = [sys.executable, __file__, "--one", "--way", way, "--rows", str(n)]
            done = json.loads(
                subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()[-1]
            )
            print(f"| `{way}` | {n:,} | {n / done['seconds']:,.0f} | {done['peak_mb']:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
