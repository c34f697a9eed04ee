"""The page's code: Spark, Daft and Ray Data route with the same class, and a stream is learned from."""

import os
import re
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unirouter_core.router import UniRouter

PROMPTS = ["What is 8 plus 3?", "Write a poem of 3 lines about the sea.", None]
PAGE = Path(__file__).parents[3] / "docs" / "batch.md"
CODE = re.findall(r"^```py\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
pytestmark = pytest.mark.filterwarnings("ignore")  # each has warnings of its own


@pytest.fixture
def expected(router, tmp_path, monkeypatch):
    """The models of the prompts, which are in the folder that the page's code is run in."""
    router.save(tmp_path / "my.router")
    monkeypatch.chdir(tmp_path)
    write("prompts", {"prompt": PROMPTS})
    return [*UniRouter.load("my.router").route_batch(PROMPTS[:2]).models, None]


def write(folder, columns):
    Path(folder).mkdir()
    pq.write_table(pa.table(columns), f"{folder}/one.parquet")


def run(beginning, names=(), **replaced):
    """The names that the page's code, which begins so, has set."""
    (code,) = (each for each in CODE if each.startswith(beginning))
    places = {"s3://bucket": os.getcwd(), '"my.router"': repr(os.path.abspath("my.router"))}  # workers are elsewhere
    for old, new in {**places, **replaced}.items():
        code = code.replace(old, new)
    found = {"__name__": __name__, **dict(names)}
    exec(compile(code, "batch.md", "exec"), found)  # our own page
    return found


def test_an_iterator_of_series_in_spark(expected, monkeypatch):
    pytest.importorskip("pyspark", reason="Spark is not installed: pip install pyspark")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java, and there is none.")
    from pyspark import cloudpickle
    from pyspark.sql import SparkSession

    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("PYTHONPATH", str(PAGE.parents[1]))
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    quiet = {"spark.ui.enabled": "false", "spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1"}
    spark = SparkSession.builder.master("local[1]").config(map=quiet).getOrCreate()
    try:
        code = run("from collections.abc", {"spark": spark})
        rows = [row.routed for row in code["routed"].collect()]
    finally:
        spark.stop()
    assert [row.model for row in rows] == expected
    assert rows[2].error == "The prompt is null; give it a text."


def test_a_batch_method_in_daft(expected):
    pytest.importorskip("daft", reason="Daft is not installed: pip install daft")
    assert run("import daft")["routed"].to_pydict()["model"] == expected


def test_batches_of_ray_data(ray, expected):
    run("import ray\nfrom unirouter_plugins.ray import RouteBatch", **{"concurrency=8": "concurrency=1"})
    assert pq.read_table("routed")["unirouter_model"].to_pylist() == expected


def test_a_stream_of_graded_answers_in_ray_data(ray, world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("graded", {"prompt": world.prompts, **dict(zip(world.models, 1 - world.errors.T, strict=True))})
    assert len(run("import ray\nfrom unirouter_plugins.ray import fit_dataset")["router"].fit_.seen) == len(world)
    assert UniRouter.load("my.router").fit_.training_models == world.models
