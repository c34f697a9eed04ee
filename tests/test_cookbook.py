"""Every notebook of the cookbook runs from the first cell to its last assert."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.plugins.servers import missing_of_extra

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "cookbook").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)  # Jupyter's
def test_the_notebook_runs_and_its_claims_hold(notebook: Path) -> None:
    if notebook.stem == "06_serve" and (missing := missing_of_extra("litellm", "proxy")):
        pytest.skip(f"LiteLLM's proxy needs {', '.join(missing)}: pip install '.[serve]'.")
    read = nbformat.read(notebook, as_version=4)
    assert "assert" in read.cells[-1].source
    NotebookClient(read, timeout=300, resources={"metadata": {"path": str(notebook.parent)}}).execute()
