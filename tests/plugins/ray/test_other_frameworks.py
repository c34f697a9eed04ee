"""The same class in Spark and in Daft, as the page on batches shows it."""

import os
import shutil
import sys
from collections.abc import Iterator

import pytest

from unirouter_core.router import UniRouter
from unirouter_plugins.ray import RouteBatch

PROMPTS = ["What is 8 plus 3?", "Write a poem of 3 lines about the sea.", None]
pytestmark = pytest.mark.filterwarnings("ignore")  # each has warnings of its own


@pytest.fixture
def folder(router, tmp_path):
    router.save(tmp_path / "some.router")
    return str(tmp_path / "some.router")


def test_an_iterator_of_series_in_spark(folder, monkeypatch):
    pytest.importorskip("pyspark", reason="Spark is not installed: pip install pyspark")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java, and there is none.")
    import pandas as pd
    from pyspark import cloudpickle
    from pyspark.sql import SparkSession
    from pyspark.sql.functions import pandas_udf

    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    quiet = {"spark.ui.enabled": "false", "spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1"}
    spark = SparkSession.builder.master("local[1]").config(map=quiet).getOrCreate()
    try:

        @pandas_udf("model string, expected_error double, expected_usd double, error string")
        def route(batches: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
            router = RouteBatch(folder)
            for prompts in batches:
                yield pd.DataFrame(router.route(prompts.tolist()))

        frame = spark.createDataFrame([(prompt,) for prompt in PROMPTS], "prompt string")
        rows = [row.routed for row in frame.withColumn("routed", route("prompt")).collect()]
    finally:
        spark.stop()
    assert [row.model for row in rows] == [*UniRouter.load(folder).route_batch(PROMPTS[:2]).models, None]
    assert rows[2].error == "The prompt is null; give it a text."


def test_a_batch_method_in_daft(folder):
    daft = pytest.importorskip("daft", reason="Daft is not installed: pip install daft")

    @daft.cls
    class Router:
        def __init__(self, folder: str):
            self.router = RouteBatch(folder)

        @daft.method.batch(return_dtype=daft.DataType.string())
        def model(self, prompts: daft.Series):
            return [routed.model for routed in self.router.route(prompts.to_pylist())]

    routed = daft.from_pydict({"prompt": PROMPTS}).with_column("model", Router(folder).model(daft.col("prompt")))
    assert routed.to_pydict()["model"] == [*UniRouter.load(folder).route_batch(PROMPTS[:2]).models, None]
