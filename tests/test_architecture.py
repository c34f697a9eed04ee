"""Who imports whom, what is imported when, and what the package shows."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import unirouter_core
from unirouter_core import exceptions

ROOT = Path(unirouter_core.__file__).parents[1]
MODULES = sorted(ROOT.glob("unirouter_*/**/*.py"))
HEAVY = ["sklearn", "scipy", "tiktoken", "pyarrow", "typer", "rich", "litellm", "langchain", "llama_index", "torch"]


def run(code):
    """What a fresh Python prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def loaded_by(code):
    """The heavy packages that a fresh Python has loaded after `code`."""
    return run(f"{code}\nimport sys\nprint(*[name for name in {HEAVY} if name in sys.modules])").split()


def test_the_import_rules_of_pyproject_hold():
    report = run("import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))")
    assert "Contracts: 3 kept, 0 broken" in report


def test_importing_the_core_loads_numpy_only():
    assert loaded_by("import unirouter_core") == []


def test_a_loaded_router_routes_and_onboards_without_scikit_learn(router, tmp_path):
    router.save(tmp_path / "my.router")
    work = f"""
import dataclasses
import numpy as np
from unirouter_core import Evaluation, UniRouter, ValidationSet
router = UniRouter.load({str(tmp_path / "my.router")!r}, estimator=None)
counter = type(router.fit_.token_counter)("characters / 4")
router = UniRouter.from_fit(dataclasses.replace(router.fit_, token_counter=counter), router.pool)
router.onboard(Evaluation("novice", ValidationSet(["Sing.", "Dance."]), [0, 1], costs=[0, 0]))
router.route_batch(["What is 14 plus 33?"] * 3)[1].ranking
str(router.explain("What is 14 plus 33?"))
router.save({str(tmp_path / "my.router")!r})
"""
    assert loaded_by(work) == []


def test_the_public_names_are_sorted_and_complete():
    public = {
        name for name, value in vars(unirouter_core).items() if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert list(unirouter_core.__all__) == sorted(unirouter_core.__all__)
    assert set(unirouter_core.__all__) == public
    assert {name for name in vars(exceptions) if name.endswith("Error")} <= public
    assert dir(unirouter_core) == sorted(unirouter_core.__all__)


@pytest.mark.parametrize("name", unirouter_core.__all__)
def test_every_public_object_and_its_methods_have_a_docstring(name):
    shown = getattr(unirouter_core, name)
    assert inspect.getdoc(shown)
    assert not shown.__doc__.startswith(f"{name}(")  # what a dataclass makes up
    for member, value in vars(shown).items() if inspect.isclass(shown) else ():
        if not member.startswith("_") and (inspect.isroutine(value) or isinstance(value, property)):
            assert inspect.getdoc(getattr(shown, member)), f"{name}.{member}"


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_module_opens_with_what_it_is_and_has_no_vague_name(file):
    tree = ast.parse(file.read_text())
    assert (ast.get_docstring(tree) or "").split("\n")[0].rstrip()[-1:] in (".", ":")
    assert file.stem not in ("utils", "types", "base", "common", "helpers")


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_is_pickled_printed_or_evaluated(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "eval", "exec")
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None)]
            assert not {"pickle", "dill", "joblib", "marshal", "shelve"} & set(names)
