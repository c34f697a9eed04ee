"""On Ray's workers: what one process does, though a worker is killed; nothing is lost, nothing is there twice."""

import json
import os
import signal
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from tests.plugins.servers import KEY, says
from unirouter_core.router import UniRouter
from unirouter_plugins.ray import CallBatch, RouteBatch, call_dataset
from unirouter_plugins.ray.files import route_file

PROMPTS = [f"What is {n} plus 3?" if n % 2 else f"Write a poem of {n} lines about the sea." for n in range(1_000)]
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray has warnings of its own for every year


@pytest.fixture
def folder(router, tmp_path):
    router.save(tmp_path / "some.router")
    return tmp_path / "some.router"


class KilledOnce(RouteBatch):
    """A worker that is killed at the first batch with row 500."""

    def __init__(self, folder, mark):
        super().__init__(folder, cost_weight=600)
        self.mark = Path(mark)

    def __call__(self, batch):
        if 500 in batch["id"].to_pylist() and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)


def test_a_killed_worker_loses_no_row_and_doubles_none(ray, folder, tmp_path):
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import what pytest has
    ds = ray.data.from_items([{"id": n, "prompt": prompt} for n, prompt in enumerate(PROMPTS)], override_num_blocks=4)
    routed = ds.map_batches(
        KilledOnce,
        fn_constructor_args=(folder, str(tmp_path / "mark")),
        batch_size=100,
        batch_format="pyarrow",
        num_cpus=0.5,
        concurrency=2,
    )
    rows = sorted(routed.take_all(), key=lambda row: row["id"])
    assert (tmp_path / "mark").exists()
    assert [row["id"] for row in rows] == list(range(1_000))
    expected = UniRouter.load(folder).route_batch(PROMPTS, cost_weight=600)
    assert [row["unirouter_model"] for row in rows] == expected.models


def test_files_are_routed_by_workers_as_by_one_process(ray, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for part in range(3):
        lines = [json.dumps({"id": n, "prompt": PROMPTS[n]}) for n in range(part, 300, 3)]
        (tmp_path / f"in{part}.jsonl").write_text("\n".join([*lines, "{"]))
    done = [route_file("some.router", "in*.jsonl", f"{ray}.jsonl", ray=ray) for ray in (None, "local")]
    assert done[0] == done[1]
    assert (tmp_path / "None.jsonl").read_text() == (tmp_path / "local.jsonl").read_text()


def test_equal_prompts_of_several_workers_are_one_call(ray, router, scripted_server, monkeypatch, tmp_path):
    scripted_server.script |= dict.fromkeys(router.pool, says("Paris.", latency=0.2))
    table = f'api_base = "{scripted_server.url}"\napi_key_env = "LOOPBACK"\nprices = {{ input = 1, output = 1 }}'
    members = [f'[models.{name}]\nmodel = "openai/{name}"\n{table}' for name in router.pool]
    (tmp_path / "pool.toml").write_text("\n".join(members))
    router.save(tmp_path / "some.router")
    monkeypatch.setenv("LOOPBACK", KEY)
    ds = ray.data.from_items([{"prompt": f"What is {n % 2} plus 4?"} for n in range(12)], override_num_blocks=6)
    how = {"store": tmp_path / "calls.sqlite", "pool": tmp_path / "pool.toml", "workers": 2, "batch_size": 1}
    rows = call_dataset(ds, tmp_path / "some.router", **how).take_all()
    assert [row["answer"] for row in rows] == ["Paris."] * 12
    assert len(scripted_server.seen) == 2


@pytest.mark.parametrize("filtered", [False, True])
def test_an_empty_dataset_stays_empty(ray, folder, filtered):
    import pyarrow as pa

    ds = ray.data.from_arrow(pa.table({"prompt": pa.array(["hi"] * filtered, pa.string())}))
    ds = ds.filter(lambda row: False) if filtered else ds
    routed = ds.map_batches(RouteBatch, fn_constructor_args=(folder,), batch_format="pyarrow", concurrency=1)
    assert routed.take_all() == []


def workers():
    """The processes of our Ray's workers that call models; they are children of Ray, and that of this process."""

    def parent(pid):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            is_one = entry.read_bytes().startswith(b"ray::MapWorker(MapBatches(CallBatch))")
            if is_one and parent(parent(entry.parent.name)) == os.getpid():
                yield int(entry.parent.name)


def test_a_dataset_is_called_once_within_one_budget_though_a_worker_is_killed(
    ray, router, scripted_server, monkeypatch, tmp_path
):
    prompts, killed = [f"What is {n} plus 4?" for n in range(24)], []
    reply = says(lambda prompt: f"It is {prompt}")

    async def kills(request, seen):
        if seen.prompt == prompts[5] and not killed:
            for worker in workers():
                os.kill(worker, signal.SIGKILL)
                killed.append(worker)
        return await reply(request, seen)

    settings = 'api_key_env = "LOOPBACK"\nsettings = { max_tokens = 10 }'
    where = f'api_base = "{scripted_server.url}"\nprices = {{ input = 1000, output = 1000, batch = 0.5 }}\n{settings}'
    table = [f'[models.{name}]\nmodel = "openai/{name}"\n{where}' for name in router.pool]
    (tmp_path / "pool.toml").write_text("\n".join(table))
    router.save(tmp_path / "some.router")
    scripted_server.script |= dict.fromkeys(router.pool, kills)
    monkeypatch.setenv("LOOPBACK", KEY)
    ds = ray.data.from_items([{"prompt": prompt} for prompt in [*prompts, None]], override_num_blocks=1)

    given = {"pool": tmp_path / "pool.toml", "store": tmp_path / "calls.sqlite", "calls_at_once": 1}
    how = {"workers": 1, "batch_size": 8, "budget": 0.08}
    first = call_dataset(ds, tmp_path / "some.router", **given, **how).take_all()
    answered = [row for row in first if row["answer"] is not None]
    assert killed
    assert 5 < len(answered) < 24
    assert sum(row["usd"] for row in answered) <= 0.08
    here = CallBatch(tmp_path / "some.router", cost_weight=None, models=None, requires=(), **given)
    assert here({"prompt": prompts})["answer"].tolist() == [f"It is {prompt}" for prompt in prompts]
    here.close()
    asked = Counter(seen.prompt for seen in scripted_server.seen)
    assert asked == {**dict.fromkeys(prompts, 1), prompts[5]: 2}  # its answer was never written
