import copy
import ctypes
import dataclasses
import errno
import json
import multiprocessing
import os
import pickle
import re
import shutil
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import N_FIT, evaluation, fitted
from unirouter_core import Evaluation, ValidationSet
from unirouter_core.costs import BY_CHARACTERS, Prices, TokenCounter
from unirouter_core.embedding import HashingEmbedder, embed
from unirouter_core.estimators import (
    DefaultEstimator,
    KMeansEstimator,
    LearnedMapEstimator,
    NeighboursEstimator,
    Prediction,
    ShrunkenClustersEstimator,
)
from unirouter_core.exceptions import ArtifactError, EmbedderMismatchError, InvalidDataError, NotFittedError
from unirouter_core.fit import content_id
from unirouter_core.router import UniRouter

SUM = "What is 14 plus 33?"


@pytest.fixture(scope="session")
def saved(asked_router, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "my.router"
    asked_router.save(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """What saving `router` writes."""
    return shutil.copytree(saved, tmp_path / "my.router")


def content(folder):
    """Each file and folder below, with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def numbers(router, world):
    """All that routing computes, to the last bit."""
    expected = router.expect(world.prompts)
    arrays = (expected.prediction.errors, expected.prediction.stderrs, expected.costs, expected.far, expected.regions)
    return list(router.pool), [array.tobytes() for array in arrays]


def edit(file, **fields):
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def each_refused(file, folder, cases, change):
    """Each change to the file is refused with its message."""
    kept = file.read_bytes()
    for case, message in cases:
        change(case)
        refused(folder, message)
        file.write_bytes(kept)


def refused(folder, message):
    with pytest.raises(ArtifactError, match=message):
        UniRouter.load(folder)


# --- What is saved is what is loaded ----------------------------------------------------------------------------------


def test_the_folder_has_one_file_a_model_and_no_other_litter(folder):
    names = sorted(content(folder))
    assert [name for name in names if not name.startswith("validation/")] == [
        "pool",
        "pool/poet.json",
        "pool/sage.json",
        "pool/scholar.json",
        "pool/tutor.json",
        "router.json",
        "validation",
        "weights.npz",
    ]
    assert len(names) == 10
    assert sorted(os.listdir(folder.parent)) == ["my.router"]


def test_saving_again_changes_no_byte(folder, router):
    before = content(folder)
    router.save(folder)
    assert content(folder) == before
    UniRouter.load(folder).save(folder)
    assert content(folder) == before


def test_settings_come_back(world, tmp_path):
    router = fitted(world, KMeansEstimator(k=3, seed=np.int64(5)), cost_weight=np.float32(2), cost="mean", n_regions=3)
    router.save(tmp_path / "a")
    loaded = UniRouter.load(tmp_path / "a")
    assert (loaded.cost_weight, loaded.cost, loaded.n_regions, loaded.estimator.k) == (2.0, "mean", 3, 3)
    assert loaded.fit_.training_models == world.models
    assert loaded.fit_.token_counter.name == router.fit_.token_counter.name


def test_the_cheapest_is_a_cost_weight_that_can_be_saved(router, tmp_path):
    router.cost_weight = np.inf
    router.save(tmp_path / "a")
    assert UniRouter.load(tmp_path / "a").cost_weight == np.inf


def test_the_prompts_fitted_on_are_known_again(world, router, folder):
    loaded = UniRouter.load(folder)
    assert loaded.fit_.seen.dtype == np.uint64
    assert np.array_equal(loaded.fit_.seen, router.fit_.seen)
    assert loaded.fit_.has_seen(world.prompts).tolist() == [True] * N_FIT + [False] * (len(world) - N_FIT)


def test_profiles_come_back_whole(router, folder):
    for name, loaded in UniRouter.load(folder).pool.items():
        for field in dataclasses.fields(loaded):
            if field.name not in ("measured", "cost"):
                assert np.array_equal(getattr(loaded, field.name), getattr(router.pool[name], field.name))
        assert loaded.measured.texts == router.pool[name].measured.texts
        assert np.array_equal(loaded.cost.per_answer, router.pool[name].cost.per_answer)


NAMES = [
    "openai/gpt-4o", "a.b.c", "..", ".", ".hidden", "100% %2F", "模型 mit Ü", "two  spaces [a   b]", 'quo"te\\',
    "nul\0line\nend", "\ud800 alone", "模" * 300, "x" * 5000, "CON", "~", "*?<>|:",
]  # fmt: skip


def test_a_model_may_have_any_name(world, router, tmp_path):
    given = evaluation(world, "sage")
    for name in NAMES:
        router.onboard(Evaluation(name, given.validation, given.errors, given.costs))
    router.save(tmp_path / "a")
    loaded = UniRouter.load(tmp_path / "a")
    assert set(NAMES) <= set(loaded.pool)
    assert numbers(loaded, world) == numbers(router, world)
    for name in NAMES:
        loaded.retire(name)
    loaded.save(tmp_path / "a")
    assert sorted(os.listdir(tmp_path / "a" / "pool")) == ["poet.json", "sage.json", "scholar.json", "tutor.json"]


def test_long_names_with_one_prefix_get_different_files(world, router, tmp_path):
    given = evaluation(world, "sage")
    for name in ("x" * 999 + "1", "x" * 999 + "2"):
        router.onboard(Evaluation(name, given.validation, given.errors, given.costs))
    router.save(tmp_path / "a")
    assert set(UniRouter.load(tmp_path / "a").pool) == set(router.pool)


def test_texts_come_back_to_the_letter(world, router, tmp_path):
    prompts = ["a [1,   2]  b", 'say "[x\ty]"', "line\u2028separators\x85and\x0b\x0c\r\n", "alone \ud800", "{} \\n"]
    router.onboard(Evaluation("novice", ValidationSet(prompts), [0, 1, 0, 1, 0], costs=np.ones(5)))
    router.save(tmp_path / "a")
    loaded = UniRouter.load(tmp_path / "a")
    assert loaded.pool["novice"].measured.texts == tuple(prompts)


def test_provenance_comes_back_to_the_letter(world, router, tmp_path):
    provenance = {"system_prompt": "Answer [a,   b].\n[\n  x\n]", "temperature": 0.1, "stop": ["[", "]"]}
    router.onboard(evaluation(world, "bard", provenance=provenance))
    router.save(tmp_path / "a")
    kept = UniRouter.load(tmp_path / "a").pool["bard"].provenance
    assert {name: kept[name] for name in provenance} == provenance


def test_without_texts_no_prompt_is_in_the_folder(world, router, folder):
    router.onboard(Evaluation("novice", ValidationSet(["Sing.", "Dance."]), [0, 1], costs=[0, 0]))
    router.save(folder)
    router.retire("novice")
    router.save(folder, texts=False)
    kept = b"\n".join(file or b"" for file in content(folder).values())
    assert not any(prompt.encode() in kept for prompt in [*world.prompts, "Sing.", "Dance."])
    assert b"poem" not in kept
    assert numbers(UniRouter.load(folder), world) == numbers(router, world)


def texts_in(folder):
    """The prompts in the folder's validation sets, by set."""
    files = (folder / "validation").glob("*.jsonl")
    return {file.stem: [json.loads(line).get("prompt") for line in file.read_bytes().splitlines()] for file in files}


SONGS = ValidationSet(["Sing.", "Dance."])


def test_retiring_the_last_model_of_a_validation_set_removes_its_texts(router, folder):
    for model in ("novice", "other"):
        router.onboard(Evaluation(model, SONGS, [0, 1], costs=[0, 0]))
    router.save(folder)
    songs = router.pool["novice"].measured.id
    kept = []
    for model in ("novice", "other"):
        router.retire(model)
        router.save(folder)
        kept.append(texts_in(folder))
    assert [texts[songs] for texts in kept] == [["Sing.", "Dance."], [None, None]]
    assert all(None not in texts for name, texts in kept[1].items() if name != songs)


def test_replacing_a_model_removes_the_texts_of_its_old_validation_set(router, folder):
    for prompts in (SONGS, ValidationSet(["Hum.", "Dance."])):
        router.onboard(Evaluation("novice", prompts, [0, 1], costs=[0, 0]), replace=True)
        router.save(folder)
    assert not any("Sing." in texts for texts in texts_in(folder).values())
    assert ["Hum.", "Dance."] in texts_in(folder).values()


def test_saving_an_older_copy_does_not_restore_the_texts_of_a_retired_model(world, router, folder):
    router.onboard(Evaluation("novice", SONGS, [0, 1], costs=[0, 0]))
    router.save(folder)
    mine, theirs = UniRouter.load(folder), UniRouter.load(folder)
    mine.retire("novice")
    mine.save(folder)
    theirs.onboard(evaluation(world, "bard"))
    theirs.save(folder)
    assert not any("Sing." in texts for texts in texts_in(folder).values())


def test_a_model_with_the_set_of_one_just_retired_is_added_whole(router, folder):
    router.onboard(Evaluation("novice", SONGS, [0, 1], costs=[0, 0]))
    router.save(folder)
    mine, theirs = UniRouter.load(folder), UniRouter.load(folder)
    mine.retire("novice")
    mine.save(folder)
    theirs.onboard(Evaluation("other", SONGS, [1, 0], costs=[0, 0]))
    theirs.save(folder)
    assert UniRouter.load(folder).pool["other"].measured.texts == ("Sing.", "Dance.")


def test_a_folder_without_texts_stays_so_until_texts_is_true(world, router, folder):
    router.save(folder, texts=False)
    loaded = UniRouter.load(folder)
    loaded.onboard(Evaluation("novice", SONGS, [0, 1], costs=[0, 0]))
    loaded.save(folder)
    loaded.save(folder.parent / "copy")
    assert b"Sing." not in b"".join(file or b"" for file in content(folder.parent).values())
    loaded.save(folder, texts=True)
    assert texts_in(folder)[loaded.pool["novice"].measured.id] == ["Sing.", "Dance."]
    assert not any(prompt in str(texts_in(folder)) for prompt in world.prompts)  # which `loaded` has never seen
    UniRouter.load(folder).save(folder)
    router.save(folder)
    assert set(texts_in(folder)[router.pool["sage"].measured.id]) == set(world.prompts[N_FIT:])


def test_another_fit_in_a_folder_without_texts_keeps_none(world, router, folder):
    router.save(folder, texts=False)
    other = fitted(world, KMeansEstimator(k=3))
    other.onboard(evaluation(world, "bard"))
    other.save(folder)
    assert not any(prompt in str(texts_in(folder)) for prompt in world.prompts)


def test_texts_that_only_the_folder_has_stay(world, router, folder):
    router.save(folder, texts=False)
    loaded = UniRouter.load(folder)
    router.save(folder, texts=True)
    loaded.onboard(evaluation(world, "bard"), replace=True)
    loaded.retire("sage")
    loaded.save(folder)
    assert not any(None in texts for texts in texts_in(folder).values())


def test_a_folder_whose_header_lacks_texts_keeps_them(router, folder):
    header = json.loads((folder / "router.json").read_text())
    assert header.pop("texts") is True
    (folder / "router.json").write_text(json.dumps(header))
    UniRouter.load(folder).save(folder)
    assert not any(None in texts for texts in texts_in(folder).values())
    router.save(folder, texts=False)
    assert json.loads((folder / "router.json").read_text())["texts"] is False


def test_setting_texts_keeps_the_cost_weight_that_another_process_set(folder):
    mine, theirs = UniRouter.load(folder), UniRouter.load(folder)
    theirs.cost_weight = 5.0
    theirs.save(folder)
    mine.save(folder, texts=False)
    assert UniRouter.load(folder).cost_weight == 5


def test_the_starter_does_not_keep_texts_out_of_your_folder(tmp_path):
    router = UniRouter.starter()
    router.onboard(Evaluation("novice", SONGS, [0, 1], costs=[0, 0]))
    router.save(tmp_path / "a")
    assert list(texts_in(tmp_path / "a").values()) == [["Sing.", "Dance."]]


def pickled(router):
    return pickle.loads(pickle.dumps(router))  # noqa: S301 - our own bytes


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_a_copy_routes_equally_and_is_independent(world, router, folder, copied):
    router.save(folder)
    other = copied(router)
    assert numbers(other, world) == numbers(router, world)
    other.retire("sage")
    other.save(folder)
    assert "sage" in router.pool
    assert "sage" not in UniRouter.load(folder).pool


def test_nothing_is_pickled(folder):
    kept = content(folder)
    assert {os.path.splitext(name)[1] for name, file in kept.items() if file is not None} == {".json", ".npz", ".jsonl"}
    for name in [name for name in kept if name.endswith(".npz")]:
        with np.load(folder / name, allow_pickle=False) as arrays:
            assert all(arrays[key].dtype != object for key in arrays.files)


@pytest.mark.parametrize("place", ["weights.npz", "validation/*.npz"])
def test_a_pickled_array_is_refused_and_not_run(folder, place, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    (file,) = folder.glob(place)
    np.savez(file, vectors=np.array([Bomb()], dtype=object))
    refused(folder, "cannot be read .*allow_pickle=False")
    assert not (tmp_path / "exploded").exists()


# --- What is on the disk ----------------------------------------------------------------------------------------------


DATA = Path(__file__).parents[1] / "data"


def test_a_folder_of_version_0_1_loads_and_decides_the_same(world, tmp_path):
    folder = shutil.copytree(DATA / "version_0_1.router", tmp_path / "my.router")
    router = UniRouter.load(folder)
    numbers = ("error", "stderr", "cost", "score", "n")
    for row in json.loads((DATA / "version_0_1.json").read_text()):
        made, expected = router.route(row["prompt"]).as_dict(), row["decision"]
        assert [(made[name], expected[name]) for name in ("model", "region") if made[name] != expected[name]] == []
        assert made["far"] == pytest.approx(expected["far"], abs=1e-6)
        for now, then in zip(made["ranking"], expected["ranking"], strict=True):
            assert now["model"] == then["model"]
            assert [now[name] for name in numbers] == pytest.approx(
                [then[name] for name in numbers], rel=1e-5, abs=1e-7
            )
    router.onboard(evaluation(world, "bard"))
    router.save(folder)
    assert list(UniRouter.load(folder).pool) == ["bard", "poet", "sage", "tutor"]
    assert (folder / "weights.npz").read_bytes() == (DATA / "version_0_1.router" / "weights.npz").read_bytes()


def test_saving_one_changed_model_writes_one_file(world, folder):
    router = UniRouter.load(folder)
    before = {file: file.stat().st_ino for file in folder.rglob("*")}
    router.reprice("sage", Prices(50.0, 40.0))
    router.save(folder)
    assert [file.name for file in before if file.stat().st_ino != before[file]] == ["sage.json"]


def test_a_model_retired_while_the_folder_is_read_is_not_in_the_pool(folder):
    (folder / "pool" / "ghost.json").symlink_to(folder / "gone")  # listed, and not there when it is opened
    assert list(UniRouter.load(folder).pool) == ["poet", "sage", "scholar", "tutor"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems exchange folders in two steps")
def test_there_is_always_a_router_while_another_fit_takes_its_place(world, router, folder):
    other = fitted(world, KMeansEstimator(k=3), n_regions=3)
    stop, found = threading.Event(), []

    def keep_loading():
        try:
            while not stop.is_set():
                found.append(UniRouter.load(folder).fit_.id)
        except BaseException as failed:
            found.append(failed)

    reader = threading.Thread(target=keep_loading)
    reader.start()
    for _ in range(10):
        other.save(folder)
        router.with_pool(router.pool).save(folder)
    stop.set()
    reader.join()
    assert set(found) <= {router.fit_.id, other.fit_.id}
    assert os.listdir(folder.parent) == ["my.router"]


def test_file_permissions_follow_the_umask(router, tmp_path):
    before = os.umask(0o027)
    try:
        router.save(tmp_path / "a")
    finally:
        os.umask(before)
    assert {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "a").rglob("*.*")} == {"0o640"}


@pytest.mark.parametrize("name", ["router.json", "weights.npz", "pool/sage.json"])
def test_a_pipe_in_the_place_of_a_file_is_refused(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    refused(folder, "no regular file|is not a router")


def test_arrays_larger_than_their_file_can_hold_are_refused(folder):
    np.savez_compressed(folder / "weights.npz", seen=np.zeros(80 << 20, np.uint8))
    refused(folder, "too large for a file of this size")


def test_temporary_files_of_killed_saves_are_removed_after_an_hour(router, folder):
    left = [folder / ".router.json.0a.tmp", folder / "pool" / ".sage.json.0b.tmp", folder.parent / ".my.router.0c.tmp"]
    others = [folder / "pool" / ".new.json.0d.tmp", folder.parent / ".your.router.0e.tmp"]
    for file in left + others:
        file.write_text("half")
    for file in [*left, others[1]]:
        os.utime(file, (0, 0))
    router.save(folder)
    assert [file.exists() for file in left + others] == [False, False, False, True, True]


# --- Parts of one's own -----------------------------------------------------------------------------------------------


class Lengths:
    def encode(self, prompts):
        return [[len(prompt), prompt.count("a"), prompt.count("e"), 1.0] for prompt in prompts]


def test_an_embedder_of_ones_own_is_given_again_at_load(world, tmp_path):
    router = fitted(world, embedder=Lengths())
    router.onboard(evaluation(world, "sage"))
    router.save(tmp_path / "a")
    assert numbers(UniRouter.load(tmp_path / "a", embedder=Lengths()), world) == numbers(router, world)
    with pytest.raises(NotFittedError, match=r"no embedder, as it was fitted with Lengths; load it with embedder="):
        UniRouter.load(tmp_path / "a").route(SUM)


def test_another_embedder_is_refused_at_first_use(world, tmp_path):
    router = fitted(world, embedder=Lengths())
    router.onboard(evaluation(world, "sage"))
    router.save(tmp_path / "a")
    loaded = UniRouter.load(tmp_path / "a", embedder=lambda prompts: [[1.0, 2.0, 3.0, 4.0]] * len(prompts))
    for use in (lambda: loaded.route(SUM), lambda: loaded.explain(SUM), lambda: loaded.route(SUM)):
        with pytest.raises(EmbedderMismatchError, match="<lambda> gives other vectors"):
            use()
    assert loaded.route(SUM, vector=Lengths().encode([SUM])[0]).model == "sage"


@pytest.mark.parametrize(
    ("returned", "message"), [([1.0, 2.0], "gives 2 numbers a prompt"), ([float("nan")] * 4, "holds NaN")]
)
def test_an_embedder_of_another_dimension_or_with_nan_is_refused(world, tmp_path, returned, message):
    router = fitted(world, embedder=Lengths())
    router.onboard(evaluation(world, "sage"))
    router.save(tmp_path / "a")
    loaded = UniRouter.load(tmp_path / "a", embedder=lambda prompts: [returned] * len(prompts))
    with pytest.raises((EmbedderMismatchError, InvalidDataError), match=message):
        loaded.route(SUM)


def test_a_router_that_keeps_its_embedder_takes_no_other(folder):
    with pytest.raises(EmbedderMismatchError, match=r"keeps the embedder .* without embedder=Lengths"):
        UniRouter.load(folder, embedder=Lengths())


@pytest.mark.parametrize(
    "embedder", [None, Lengths(), lambda prompts: Lengths().encode(prompts)], ids=["none", "object", "function"]
)
def test_a_router_loaded_without_its_embedder_can_be_saved_again(world, tmp_path, embedder):
    router = fitted(world, embedder=Lengths())
    for model in ("sage", "poet"):
        router.onboard(evaluation(world, model))
    router.save(tmp_path / "a")
    loaded = UniRouter.load(tmp_path / "a", embedder=embedder)
    loaded.retire("poet")
    loaded.save(tmp_path / "a")
    loaded.save(tmp_path / "b")
    for place in "ab":
        assert list(UniRouter.load(tmp_path / place, embedder=Lengths()).pool) == ["sage"]


def test_a_router_fitted_on_vectors_is_saved_without_an_embedder(world, tmp_path):
    embedder = HashingEmbedder(dims=16).fit(world.prompts)
    X = embed(embedder, world.prompts)
    router = UniRouter(n_regions=4).fit(world.rows(range(N_FIT)), vectors=X[:N_FIT])
    router.onboard(evaluation(world, "sage"), vectors=X[N_FIT:])
    router.onboard(evaluation(world, "poet"))  # on the same prompts, whose vectors the router has
    router.save(tmp_path / "a")
    loaded = UniRouter.load(tmp_path / "a")
    one, other = (each.route(SUM, vector=X[N_FIT], cost_weight=100) for each in (router, loaded))
    assert one.as_dict() == other.as_dict()
    with pytest.raises(NotFittedError, match="no embedder, as it was fitted on vectors; load it with embedder="):
        loaded.route(SUM)
    assert UniRouter.load(tmp_path / "a", embedder=embedder).route(world.prompts[N_FIT]).model == one.model
    with pytest.raises(
        EmbedderMismatchError, match="Lengths gives 4 numbers a prompt, but the router was fitted on 16"
    ):
        UniRouter.load(tmp_path / "a", embedder=Lengths()).route(SUM)


@dataclasses.dataclass(eq=False)
class Overall:
    """The overall error, whatever the prompt, made a little wrong by a setting."""

    offsets: dict = dataclasses.field(default_factory=lambda: {"more": 0.01})
    n_: np.ndarray = dataclasses.field(init=False)

    def fit(self, X, outcomes=None):
        self.n_ = np.array(len(X))
        return self

    def profile(self, X, errors, known=None):
        return np.array([errors.mean() * (1 - self.offsets["more"]), 1 / self.n_])  # double precision

    def predict(self, X, features):
        return Prediction(np.tile(features[:, 0], (len(X), 1)), lambda: np.tile(features[:, 1], (len(X), 1)))


def test_an_estimator_of_ones_own_is_given_again_at_load(world, tmp_path):
    router = fitted(world, Overall({"more": 0.5}))
    router.onboard(evaluation(world, "poet"))
    router.save(tmp_path / "a")
    assert numbers(UniRouter.load(tmp_path / "a", estimator=Overall()), world) == numbers(router, world)
    refused(tmp_path / "a", r"class 'Overall' is not known here; pass an unfitted one")


def test_an_estimator_of_ones_own_inside_a_blend_is_given_in_a_blend(world, tmp_path):
    router = fitted(world, DefaultEstimator((Overall(), ShrunkenClustersEstimator(grid=(4,)))))
    router.onboard(evaluation(world, "poet"))
    router.save(tmp_path / "a")
    for given in (Overall(), DefaultEstimator((Overall(),))):
        assert numbers(UniRouter.load(tmp_path / "a", estimator=given), world) == numbers(router, world)


def test_a_router_is_saved_where_the_token_table_is_missing(world, folder):
    loaded = UniRouter.load(folder)
    loaded.token_counter = TokenCounter(BY_CHARACTERS)
    loaded.retire("sage")
    loaded.save(folder)
    assert "sage" not in UniRouter.load(folder).pool


def test_a_router_changed_behind_its_back_is_not_saved(router, folder):
    before = content(folder)
    router.fit_.estimator.fit(np.eye(8, dtype=np.float32), None)
    with pytest.raises(ArtifactError, match="was changed after its fit; fit it again"):
        router.save(folder)
    assert content(folder) == before


# --- Damage -----------------------------------------------------------------------------------------------------------


def test_a_file_cut_short_anywhere_is_refused_or_whole(folder, router, world):
    whole = numbers(router, world)
    files = {name: kept for name, kept in content(folder).items() if kept is not None}
    for name, kept in files.items():
        for length in (0, 1, 10, len(kept) // 3, len(kept) // 2, len(kept) - 10, len(kept) - 2):
            (folder / name).write_bytes(kept[:length])
            refused(folder, re.escape(name.rpartition("/")[2].partition(".")[0]))
        (folder / name).write_bytes(kept[:-1])
        if name.endswith(".npz"):
            refused(folder, "cannot be read")
        else:  # only the last line's end is gone
            assert numbers(UniRouter.load(folder), world) == whole
        (folder / name).write_bytes(kept)


@pytest.mark.parametrize("pattern", ["weights.npz", "router.json", "validation/*.npz", "validation/*.jsonl"])
def test_a_missing_file_is_named(folder, pattern):
    (file,) = folder.glob(pattern)
    file.unlink()
    refused(folder, file.name)


@pytest.mark.parametrize(("name", "change"), [("regions.centroids_", 1e-6), ("seen", 1)])
def test_an_edited_number_among_the_weights_is_noticed(folder, name, change):
    with np.load(folder / "weights.npz") as arrays:
        weights = dict(arrays)
    weights[name].flat[0] += np.asarray(change, weights[name].dtype)
    np.savez(folder / "weights.npz", **weights)
    refused(folder, r"router.json and weights.npz are not what was saved together")


def reweigh(folder, change):
    """Change the arrays of the folder, and all ids with them."""
    with np.load(folder / "weights.npz") as packed:
        arrays = dict(packed)
    change(arrays)
    np.savez(folder / "weights.npz", **arrays)
    header = json.loads((folder / "router.json").read_text())
    settings = {name: value for name, value in header.items() if name not in ("schema", "fit", "cost_weight", "texts")}
    for file in [folder / "router.json", *(folder / "pool").glob("*.json")]:
        edit(file, fit=content_id(settings, arrays))


UNFIT = r"weights.npz: does not make a fitted router .*; copy the folder again"


def arrays_in(folder):
    with np.load(folder / "weights.npz") as packed:
        return {name: packed[name] for name in packed.files}


def test_a_missing_array_is_refused_whatever_the_id(folder):
    shutil.rmtree(folder / "pool")
    for name in arrays_in(folder).keys() - {"check_vectors"}:
        broken = shutil.copytree(folder, folder.parent / f"without {name}")
        reweigh(broken, lambda arrays, name=name: arrays.pop(name))
        refused(broken, UNFIT)


def test_a_weight_that_is_no_number_is_refused(folder):
    for name in [name for name, array in arrays_in(folder).items() if array.dtype.kind == "f"]:
        broken = shutil.copytree(folder, folder.parent / f"nan {name}")
        reweigh(broken, lambda arrays, name=name: arrays[name].flat.__setitem__(0, np.nan))
        refused(broken, UNFIT)


def test_an_array_that_is_no_fitted_attribute_is_refused(folder):
    names = ["estimator.predict", "estimator.__class__", "estimator.members", "regions.locate", "other_"]
    for name in [*names, "estimator.members.9.axes_"]:
        broken = shutil.copytree(folder, folder.parent / f"with {name}")
        reweigh(broken, lambda arrays, name=name: arrays.update({name: np.ones(2)}))
        refused(broken, UNFIT)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("regions.centroids_", lambda array: array[:, 1:]),
        ("regions.nearness_", lambda array: np.ones(3)),
        ("estimator.widths_", lambda array: array[1:]),
        ("estimator.members.0.bounds_", lambda array: np.array([7, 7])),
        ("estimator.members.2.axes_", lambda array: array[1:]),
        ("embedder.table_", lambda array: array[:3]),
        ("check_vectors", lambda array: array[:, 1:]),
    ],
)
def test_arrays_that_do_not_fit_each_other_are_refused(folder, name, change):
    reweigh(folder, lambda arrays: arrays.update({name: change(arrays[name])}))
    refused(folder, UNFIT)


def test_members_that_were_left_out_need_no_arrays(world, tmp_path):
    with pytest.warns(UserWarning, match="Fitted without LowRankEstimator, KnownModelsEstimator"):
        router = UniRouter(HashingEmbedder(dims=32), n_regions=4).fit(world.prompts)
    router.onboard(Evaluation("novice", SONGS, [0, 1], costs=[0, 0]))
    router.save(tmp_path / "a")
    assert numbers(UniRouter.load(tmp_path / "a"), world) == numbers(router, world)


@pytest.mark.parametrize("estimator", [NeighboursEstimator(), LearnedMapEstimator(k=3), KMeansEstimator(k=3)], ids=str)
def test_other_estimators_come_back_too(world, tmp_path, estimator):
    router = fitted(world, estimator)
    router.onboard(evaluation(world, "sage"))
    router.save(tmp_path / "a")
    assert numbers(UniRouter.load(tmp_path / "a"), world) == numbers(router, world)


def test_an_estimator_of_ones_own_without_its_array_is_refused(world, tmp_path):
    @dataclasses.dataclass
    class Centred(Overall):
        def predict(self, X, features):
            return Prediction(np.tile(features[:, 0] * self.n_ / self.n_, (len(X), 1)), lambda: None)

    router = fitted(world, Centred())
    router.onboard(evaluation(world, "poet"))
    for name, change in (("gone", lambda arrays: arrays.pop("estimator.n_")), ("fit", lambda arrays: None)):
        router.save(tmp_path / name)
        reweigh(tmp_path / name, change)
    with pytest.raises(ArtifactError, match=r"poet.json: field 'features' does not fit the estimator .*'n_'"):
        UniRouter.load(tmp_path / "gone", estimator=Centred())
    assert "poet" in UniRouter.load(tmp_path / "fit", estimator=Centred()).pool


EDITED_HEADERS = [
    ({"cost": "mean"}, "not what was saved together"),
    ({"token_counter": "words"}, "not what was saved together"),
    ({"training_models": ["a"]}, "not what was saved together"),
    ({"fit": "0" * 16}, "not what was saved together"),
    ({"fit": None}, "field 'fit' is None, which is of the wrong kind"),
    ({"estimator": 3}, "field 'estimator' is 3, which is of the wrong kind"),
    ({"schema": 2}, "schema 2 is newer than this unirouter reads .1.; upgrade"),
    ({"schema": "1"}, "field 'schema' is '1'"),
    ({"texts": "no"}, "field 'texts' is 'no'; it must be true or false"),
    ({"cost_weight": -1}, "cost_weight=-1.0 must be a number >= 0"),
    ({"cost_weight": float("nan")}, "cost_weight=nan must be a number >= 0"),
    ({"cost_weight": "much"}, "router.json: .*'much'"),
]


def test_an_edited_router_file_is_refused(folder):
    file = folder / "router.json"
    each_refused(file, folder, EDITED_HEADERS, lambda fields: edit(file, **fields))


def test_a_cost_weight_may_be_set_by_hand(folder):
    edit(folder / "router.json", cost_weight=77)
    assert UniRouter.load(folder).cost_weight == 77


EDITED_PROFILES = [
    ({"schema": 2}, "sage.json: schema 2 is newer"),
    ({"fit": "another"}, "belongs to another fit .another, not .*onboard the model again"),
    ({"model": "poet"}, "holds model 'poet', which belongs in poet.json"),
    ({"error": 1.5}, "field 'error' is out of range"),
    ({"error": None}, "field 'error' is None"),
    ({"error_spread": -0.1}, "field 'error_spread' is out of range"),
    ({"n": 79}, "field 'n' is out of range"),
    ({"n": True}, "field 'n' is True"),
    ({"validation": "0" * 16}, "0000"),
    ({"validation": "../../../etc/passwd"}, "passwd"),
    ({"prices": {"input": -1, "output": 1}}, "Price input=-1"),
    ({"prices": {"in": 1}}, "sage.json: .*'in'"),
    ({"prices": [1]}, "sage.json: "),
    ({"capabilities": {"magic": True}}, "sage.json: .*magic"),
    ({"capabilities": {"context_window": -5}}, "context_window=-5"),
    ({"cost": {"per_token": 1e-6, "per_cached_token": 0}}, "field 'per_answer' is missing"),
    ({"cost": {"per_token": -1e-6, "per_cached_token": 0, "per_answer": [0] * 4}}, "field 'cost' is out of range"),
    ({"cost": {"per_token": 0, "per_cached_token": 0, "per_answer": [float("nan")] * 4}}, "field 'cost' is out"),
    ({"cost": {"per_token": 0, "per_cached_token": 0, "per_answer": [0] * 3}}, "'cost' has 3 regions, not 4"),
    ({"cost": {"per_token": "x", "per_cached_token": 0, "per_answer": [0] * 4}}, "sage.json: .*'x'"),
    ({"answers": {"errors": [0.5], "usd": [0.1]}}, "field 'answers' is out of range or of the wrong length"),
    ({"answers": {"errors": [-0.5] * 80, "usd": [0.1] * 80}}, "field 'answers'"),
    ({"answers": {"errors": [0.5] * 80, "usd": [-0.1] * 80}}, "field 'answers'"),
    ({"answers": {"errors": [0.5] * 80, "usd": [float("inf")] * 80}}, "field 'answers'"),
    ({"features": {"shape": [2], "values": [0.1, 0.2]}}, "field 'features'"),
    ({"features": {"shape": [3], "values": [0.1, 0.2]}}, "sage.json: .*reshape"),
    ({"features": {"shape": [1], "values": "x"}}, "sage.json: "),
    ({"features": []}, "field 'features' is "),
]


def test_an_edited_pool_file_is_refused(folder):
    file = folder / "pool" / "sage.json"
    each_refused(file, folder, EDITED_PROFILES, lambda fields: edit(file, **fields))


def test_an_edited_feature_is_refused(world, tmp_path):
    router = fitted(world, KMeansEstimator(k=4), n_regions=4)
    router.onboard(evaluation(world, "sage"))
    router.save(tmp_path / "a")
    file = tmp_path / "a/pool/sage.json"
    features = json.loads(file.read_text())["features"]
    for value in (7.0, -7.0, float("nan"), float("inf")):
        features["values"][1] = value
        edit(file, features=features)
        refused(tmp_path / "a", "field 'features' does not fit the estimator .it gives errors outside")


def test_a_renamed_pool_file_is_refused(folder):
    (folder / "pool/sage.json").rename(folder / "pool/wizard.json")
    refused(folder, "wizard.json: holds model 'sage', which belongs in sage.json")


def test_a_pool_file_that_holds_something_else_is_refused(folder):
    file = folder / "pool" / "sage.json"
    cases = [(text, "sage.json: ") for text in (b"[]", b"{", b"", b'"x"', b"\xed\xa0\x80")]
    each_refused(file, folder, cases, file.write_bytes)


EDITED_ARRAYS = [
    lambda arrays: arrays.pop("vectors"),
    lambda arrays: arrays.pop("tokens"),
    lambda arrays: arrays.update(vectors=arrays["vectors"][:, :5]),
    lambda arrays: arrays.update(vectors=arrays["vectors"] * np.nan),
    lambda arrays: arrays.update(tokens=-arrays["tokens"]),
    lambda arrays: arrays.update(known=arrays["known"] + 1),
    lambda arrays: arrays.update(known=arrays["known"][:, 1:]),
]


def test_edited_validation_arrays_are_refused(folder):
    (file,) = (folder / "validation").glob("*.npz")

    def edit_arrays(change):
        with np.load(file) as packed:
            arrays = dict(packed)
        change(arrays)
        np.savez(file, **arrays)

    each_refused(file, folder, [(change, file.stem) for change in EDITED_ARRAYS], edit_arrays)


def test_edited_validation_lines_are_refused(folder):
    (file,) = (folder / "validation").glob("*.jsonl")
    lines = file.read_text().splitlines()
    edited = ['{"digest": 3}', "[]", "3", '{"prompt": "x"}', '{"digest": "x", "prompt": 3}', "x"]
    cases = [(line, file.name) for line in edited]
    each_refused(file, folder, cases, lambda line: file.write_text("\n".join([line, *lines[1:]])))


def test_pool_files_of_another_fit_are_refused(world, folder, tmp_path):
    other = fitted(world, seed=1, embedder=HashingEmbedder(dims=16))
    other.onboard(evaluation(world, "bard"))
    other.save(tmp_path / "other")
    shutil.copytree(tmp_path / "other/validation", folder / "validation", dirs_exist_ok=True)
    shutil.copy(tmp_path / "other/pool/bard.json", folder / "pool")
    refused(folder, f"bard.json: belongs to another fit .{other.fit_.id}, not ")


def test_weights_of_another_fit_are_refused(world, folder, tmp_path):
    fitted(world, embedder=HashingEmbedder(dims=16)).save(tmp_path / "other")
    shutil.copy(tmp_path / "other/weights.npz", folder)
    refused(folder, "not what was saved together")


def test_a_member_of_the_zip_that_is_no_array_is_refused(folder):
    with zipfile.ZipFile(folder / "weights.npz", "a") as packed:
        packed.writestr("note.txt", "hello")
    refused(folder, "weights.npz: .*something else than arrays")


def test_what_is_no_router_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path, tmp_path / "file", tmp_path / "nowhere"):
        refused(place, "is not a router: it has no router.json")


def test_an_unreadable_path_is_an_artifact_error(tmp_path):
    refused(tmp_path / ("x" * 300), "cannot be read: File name too long")


def test_a_router_whose_replacement_was_interrupted_is_named(folder):
    folder.rename(folder.with_name(".my.router.0a.tmp"))
    refused(folder, r"A save was interrupted; rename .*\.my\.router\.0a\.tmp to it")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"cost_weight": ' + "9" * 5_000 + "}"])
def test_json_that_python_cannot_hold_is_refused(folder, text):
    for name in ("router.json", "pool/sage.json"):
        kept = (folder / name).read_text()
        (folder / name).write_text(text)
        refused(folder, name)
        (folder / name).write_text(kept)


# --- A save that fails ------------------------------------------------------------------------------------------------


def full_disk(after, calls, until=np.inf):
    """Of calls, those after the first `after` up to number `until` fail for want of space; the others are real."""

    def make(real):
        def write(*args):
            calls.append(args)
            if after < len(calls) <= until:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args)

        return write

    return make


@pytest.mark.parametrize("what", ["fsync", "replace"])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_full_disk_leaves_the_folder_as_it_was(world, router, folder, monkeypatch, what, after):
    before = content(folder)
    router.retire("poet")
    router.onboard(evaluation(world, "tutor", provenance={"grader": "another"}), replace=True)
    router.onboard(Evaluation("novice", ValidationSet(["Sing.", "Dance."]), [0, 1], costs=[0, 0]))
    monkeypatch.setattr(os, what, full_disk(after, calls := [])(getattr(os, what)))
    with pytest.raises(ArtifactError, match="cannot be written: No space left on device; nothing was changed"):
        router.save(folder)
    monkeypatch.undo()
    assert len(calls) > after
    assert content(folder) == before
    assert os.listdir(folder.parent) == ["my.router"]
    router.save(folder)
    assert numbers(UniRouter.load(folder), world) == numbers(router, world)


@pytest.fixture
def no_exchange(monkeypatch):
    """A system that cannot exchange two folders in one step."""

    def refuse(*args, **kwargs):
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", refuse)


@pytest.mark.usefixtures("no_exchange")
@pytest.mark.parametrize("what", ["fsync", "replace", "rename"])
@pytest.mark.parametrize("after", [0, 1])
def test_a_full_disk_leaves_the_folder_of_another_fit_as_it_was(world, folder, monkeypatch, what, after):
    before = content(folder)
    other = fitted(world, embedder=HashingEmbedder(dims=16))
    monkeypatch.setattr(os, what, full_disk(after, [], until=after + 1)(getattr(os, what)))
    with pytest.raises(ArtifactError, match="No space left on device; nothing was changed"):
        other.save(folder)
    monkeypatch.undo()
    assert content(folder) == before
    assert os.listdir(folder.parent) == ["my.router"]


@pytest.mark.usefixtures("no_exchange")
def test_a_folder_that_cannot_be_put_back_is_kept_and_named(world, folder, monkeypatch):
    before = content(folder)
    monkeypatch.setattr(os, "rename", full_disk(1, [])(os.rename))
    with pytest.raises(ArtifactError, match="No space left on device; its old content is in ") as refusal:
        fitted(world, embedder=HashingEmbedder(dims=16)).save(folder)
    place = str(refusal.value).rpartition(" is in ")[2].rstrip(".")
    assert content(folder.parent / place) == before


def test_a_full_disk_leaves_no_new_folder(router, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full_disk(2, [])(os.fsync))
    with pytest.raises(ArtifactError, match="No space left on device"):
        router.save(tmp_path / "a" / "my.router")
    assert [path for path in tmp_path.rglob("*") if path != tmp_path / "a"] == []


def test_a_file_in_the_place_of_the_folder_stays(router, tmp_path):
    (tmp_path / "a").write_text("mine")
    for place in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(ArtifactError, match=r"a is a file|cannot be written: (Not a directory|File exists)"):
            router.save(place)
    assert (tmp_path / "a").read_text() == "mine"


def test_a_folder_of_something_else_is_not_touched(router, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="holds something that is not a router; name another folder"):
        router.save(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_an_empty_folder_becomes_the_router(router, world, tmp_path):
    (tmp_path / "a").mkdir()
    router.save(tmp_path / "a")
    assert numbers(UniRouter.load(tmp_path / "a"), world) == numbers(router, world)


def test_a_relative_path_is_saved(router, world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    router.save("my.router")
    assert numbers(UniRouter.load("my.router"), world) == numbers(router, world)


@pytest.mark.parametrize("other", [False, True], ids=["same fit", "another fit"])
def test_a_folder_of_a_newer_unirouter_is_not_written_over(world, router, folder, other):
    edit(folder / "router.json", schema=2)
    before = content(folder)
    with pytest.raises(ArtifactError, match=r"schema 2 is newer than this unirouter reads .1.; upgrade"):
        (fitted(world, KMeansEstimator(k=3)) if other else router).save(folder)
    assert content(folder) == before


def test_a_provenance_that_is_no_json_is_refused_before_anything_is_written(world, router, folder):
    before = content(folder)
    router.onboard(evaluation(world, "bard", provenance={"grader": object()}))
    with pytest.raises(InvalidDataError, match="provenance of 'bard' cannot be kept as JSON"):
        router.save(folder)
    assert content(folder) == before


def test_saving_mends_damaged_weights(router, world, folder):
    (folder / "weights.npz").write_bytes(b"")
    router.save(folder)
    assert numbers(UniRouter.load(folder), world) == numbers(router, world)


def test_a_router_that_is_not_fitted_is_not_saved(tmp_path):
    with pytest.raises(NotFittedError, match=r"not fitted; call fit\(outcomes\) first"):
        UniRouter().save(tmp_path / "a")
    assert os.listdir(tmp_path) == []


# --- Several at once --------------------------------------------------------------------------------------------------


def onboard_and_save(folder, given, start):
    router = UniRouter.load(folder)
    start.wait()
    router.onboard(given)
    router.save(folder)


def test_two_processes_that_onboard_at_once_lose_nothing(world, router, folder):
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    workers = [
        context.Process(target=onboard_and_save, args=(folder, evaluation(world, model), start))
        for model in ("bard", "coder")
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert set(UniRouter.load(folder).pool) == {*router.pool, "bard", "coder"}


def test_retiring_removes_only_that_model(world, folder):
    mine, theirs = UniRouter.load(folder), UniRouter.load(folder)
    theirs.onboard(evaluation(world, "bard"))
    theirs.save(folder)
    mine.retire("sage")
    mine.save(folder)
    assert list(UniRouter.load(folder).pool) == ["bard", "poet", "scholar", "tutor"]


def test_the_changes_of_another_process_are_kept(world, folder):
    mine, theirs = UniRouter.load(folder), UniRouter.load(folder)
    mine.retire("sage")
    mine.save(folder)
    theirs.onboard(evaluation(world, "tutor", provenance={"grader": "newer"}), replace=True)
    theirs.retire("poet")
    theirs.save(folder)
    UniRouter.load(folder).save(folder)
    newest = UniRouter.load(folder)
    newest.onboard(evaluation(world, "sage"))
    newest.save(folder)
    mine.onboard(evaluation(world, "bard"))
    mine.save(folder)
    now = UniRouter.load(folder).pool
    assert list(now) == ["bard", "sage", "scholar", "tutor"]
    assert now["tutor"].provenance["grader"] == "newer"


def test_a_cost_weight_that_another_process_set_stays_until_it_is_changed_here(folder):
    mine, theirs = UniRouter.load(folder), UniRouter.load(folder)
    theirs.cost_weight = 5.0
    theirs.save(folder)
    mine.retire("sage")
    for _ in range(2):
        mine.save(folder)
        assert UniRouter.load(folder).cost_weight == 5
    mine.cost_weight = 7.0
    mine.save(folder)
    theirs.save(folder)
    assert UniRouter.load(folder).cost_weight == 7


def test_refitting_the_same_fit_saves_its_own_cost_weight(world, router, folder):
    refitted = fitted(world, cost_weight=300.0)
    assert refitted.fit_.id == router.fit_.id
    refitted.save(folder)
    assert UniRouter.load(folder).cost_weight == 300


@pytest.mark.parametrize("there", ["nothing", "an empty folder", "another fit"])
def test_a_first_save_that_comes_second_joins_the_first(world, folder, tmp_path, monkeypatch, there):
    place, fsync = tmp_path / "new" / "my.router", os.fsync
    first, second = UniRouter.load(folder), UniRouter.load(folder)
    first.onboard(evaluation(world, "bard"))
    second.onboard(evaluation(world, "coder"))
    if there != "nothing":
        place.mkdir(parents=True)
    if there == "another fit":
        fitted(world, KMeansEstimator(k=3)).save(place)

    def write_too_late(file):
        monkeypatch.setattr(os, "fsync", fsync)
        first.save(place)
        fsync(file)

    monkeypatch.setattr(os, "fsync", write_too_late)
    second.save(place)
    assert list(UniRouter.load(place).pool) == ["bard", "coder", "poet", "sage", "scholar", "tutor"]
    assert os.listdir(place.parent) == ["my.router"]


def test_what_was_retired_before_the_first_save_is_removed_from_a_copy(router, folder):
    shutil.copytree(folder, folder.parent / "copy")
    loaded = UniRouter.load(folder)
    loaded.retire("sage")
    loaded.save(folder.parent / "copy")
    loaded.save(folder)
    for place in (folder, folder.parent / "copy"):
        assert list(UniRouter.load(place).pool) == ["poet", "scholar", "tutor"]


def test_another_fit_replaces_the_folder_whole(world, folder):
    other = fitted(world, KMeansEstimator(k=3))
    other.onboard(evaluation(world, "bard"))
    other.save(folder)
    assert list(UniRouter.load(folder).pool) == ["bard"]
    assert os.listdir(folder.parent) == ["my.router"]


@pytest.mark.parametrize("change", ["loop", "outside"])
def test_a_model_file_that_is_a_loop_or_names_prompts_outside_the_folder_is_refused(router, tmp_path, change):
    router.save(tmp_path / "my.router")
    file = tmp_path / "my.router" / "pool" / "sage.json"
    content = json.loads(file.read_text())
    file.unlink()
    if change == "loop":
        file.symlink_to(file.name)
    else:
        file.write_text(json.dumps({**content, "validation": "../../other.router/validation/x"}))
    with pytest.raises(ArtifactError, match=r"sage.json: .*(symbolic links|names no set of prompts)"):
        UniRouter.load(tmp_path / "my.router")
