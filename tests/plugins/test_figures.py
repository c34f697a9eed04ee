"""The picture of a report: what is in it, that labels keep apart, and that nothing global is touched."""

import subprocess
import sys

import numpy as np
import pytest

from unirouter_core.curves import deferral_curve, zero_router_curve
from unirouter_core.evaluate import Report, Today, Verdict, measure

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure

from unirouter_plugins.figures import draw

ERRORS = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1]] * 6, float)
COSTS = np.array([0.00005, 0.0005, 0.0025])


@pytest.fixture
def report():
    """Three models, of which a router that knows who is right takes the cheapest that is."""
    curve, mixture = (f(ERRORS, COSTS, ERRORS, COSTS) for f in (deferral_curve, zero_router_curve))
    models = {name: (COSTS[j], 1 - ERRORS[:, j].mean()) for j, name in enumerate(("poet", "tutor", "sage"))}
    metrics, worse = measure(curve, ERRORS, COSTS), measure(mixture, ERRORS, COSTS)
    return Report(
        n=len(ERRORS),
        curve=curve,
        mixture=mixture,
        models=models,
        metrics=metrics,
        mixture_metrics=worse,
        area_gain=(0.1, 0.2),
        p_value=1.0,
        quality_at_97=(1.0, 1.0),
        saving_at_97=(0.1, 0.2),
        judged=Verdict("pays", "it keeps 99% of sage's quality for 60% ± 5 of its cost"),
        today=Today("sage", 0.8, (0.7, 0.9), 2.5e-3, False, len(ERRORS), ()),
        band=((5e-5, 0.5, 0.7), (2.5e-3, 0.8, 1.0)),
        use="sage",
        cost_weight=60,
        quality=0.9,
        cost=6e-4,
        shares={},
        checks=(),
        checked_quality=0.9,
        checked_cost=6e-4,
        fitted_on=False,
    )


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """A function that draws a report and returns the figure that was saved."""
    figures = []
    save = Figure.savefig

    def keep(figure, path, **options):
        figures.append(figure)
        save(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", keep)

    def make(report):
        draw(report, tmp_path / "curve.png")
        return figures[-1]

    return make


def crowd(report, n):
    """The report with `n` models more, all of about one cost and quality."""
    near = {f"model-{i}": (1e-3 * (1 + i / 50), 0.5 + i / 40) for i in range(n)}
    return Report(**{**vars(report), "models": {**report.models, **near}})


def names(figure):
    return figure.axes[0].texts


def test_the_picture_is_a_png_of_a_readable_size(report, tmp_path):
    draw(report, tmp_path / "curve.png")

    content = (tmp_path / "curve.png").read_bytes()
    width, height = int.from_bytes(content[16:20]), int.from_bytes(content[20:24])
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert (width, height) == (1280, 800)  # 8 x 5 inches of 160 dots


def test_another_suffix_gives_another_format(report, tmp_path):
    draw(report, tmp_path / "curve.svg")

    assert "<svg" in (tmp_path / "curve.svg").read_text()


def test_every_model_is_named_and_no_two_names_overlap(report, drawn):
    figure = drawn(crowd(report, 8))

    boxes = [name.get_window_extent() for name in names(figure)]
    assert {name.get_text() for name in names(figure)} >= {"poet", "sage", "tutor", "model-0", "model-7"}
    assert not any(box.count_overlaps(boxes[:i]) for i, box in enumerate(boxes))


def test_the_dots_stand_at_cost_per_1000_prompts_and_quality(report, drawn):
    lines = {line.get_label(): line.get_xydata() for line in drawn(report).axes[0].lines}

    expected = [(1000 * cost, quality) for cost, quality in report.models.values()]
    assert lines["one model for all"] == pytest.approx(np.array(expected))
    routing = lines["routing at every cost_weight"]
    assert routing[:, 1].max() == pytest.approx(report.curve.peak)
    assert np.interp(1000 * report.curve.costs, *routing.T) == pytest.approx(report.curve.qualities)  # not its hull
    assert lines["best mixture of models"][-1, 1] == pytest.approx(report.mixture.peak)


def test_costs_far_apart_stand_on_a_logarithmic_axis(report, drawn):
    far = Report(**{**vars(report), "models": {"a": (0.00001, 0.5), "b": (0.002, 0.6)}})

    assert drawn(far).axes[0].get_xscale() == "log"
    assert drawn(report).axes[0].get_xscale() == "linear"  # the sage costs 50 times what the poet does


def test_the_title_is_the_finding_and_the_lead_has_a_band(report, drawn):
    axes = drawn(report).axes[0]

    assert axes.get_title("left") == "Routing pays: it keeps 99% of sage's quality for 60% ± 5 of its cost."
    assert axes.collections[0].get_label() == "90% interval of its lead"


def test_names_go_without_what_all_begin_with_and_stay_inside_the_frame(report, drawn):
    long = {f"shop/a-model-with-quite-a-long-name-{i}": (5e-4 * i, 0.5 + i / 20) for i in range(1, 6)}
    figure = drawn(Report(**{**vars(report), "models": long}))

    frame = figure.axes[0].get_window_extent()
    boxes = [name.get_window_extent() for name in names(figure)]
    assert {name.get_text() for name in names(figure)} == {name.removeprefix("shop/") for name in long}
    assert all(frame.x0 - 1 <= box.x0 and box.x1 <= frame.x1 + 1 for box in boxes)


def test_plot_draws_on_given_axes_and_returns_them(report):
    axes = Figure(layout="constrained").add_subplot()

    assert report.plot(axes, dark=True) is axes
    assert axes.get_facecolor() != (1.0, 1.0, 1.0, 1.0)


def test_a_free_model_is_drawn_too(report, drawn):
    errors, costs = [[1.0, 0.0]] * 2 + [[0.0, 0.0]] * 2, [0.0, 0.002]
    free = zero_router_curve(errors, costs, errors, costs)
    figure = drawn(Report(**{**vars(report), "models": {"free": (0.0, 0.5), "dear": (0.002, 1.0)}, "mixture": free}))

    assert figure.axes[0].get_xscale() == "linear"
    assert {name.get_text() for name in names(figure)} == {"free", "dear"}


def test_names_are_drawn_as_they_are_and_never_as_formulas(report, drawn):
    cost_and_quality = report.models["sage"]
    odd = dict.fromkeys(("$\\frac{1}$", f"a{chr(0xD800)}b", "c\x1bd"), cost_and_quality)

    figure = drawn(Report(**{**vars(report), "models": odd}))

    assert [name.get_text() for name in names(figure)] == ["$\\frac{1}$", "a?b", "c?d"]


def test_pyplot_is_not_imported(tmp_path):
    program = "import sys; import unirouter_plugins.figures; print('matplotlib.pyplot' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"


def test_without_matplotlib_the_import_names_the_cure():
    program = "import sys; sys.modules['matplotlib'] = None; import unirouter_plugins.figures"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert "ImportError: matplotlib is missing: pip install 'unirouter[report]'" in done.stderr
