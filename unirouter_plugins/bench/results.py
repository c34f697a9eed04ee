"""The numbers of a method in a trial, their files, and how the methods compare over all trials."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from unirouter_core.curves import Curve, sweep
from unirouter_core.display import usd
from unirouter_core.embedding import Array
from unirouter_core.estimators import Prediction
from unirouter_core.estimators.calibration import interval_coverage, reliability
from unirouter_core.evaluate import Bootstrap, measure
from unirouter_core.exceptions import InvalidDataError
from unirouter_core.reading import parse_json
from unirouter_core.rule import choose
from unirouter_plugins.bench.protocol import Case

DEFAULT = "default"  # the baseline of comparisons
ZERO, CLAIRVOYANT = "zero router", "clairvoyant"  # the two ends of the gap that a method closes
NUMBERS = (
    *("crossfit_area", "area", "raw_area", "area_half", "qnc", "qnc_own", "reached", "peak", "usd_per_right", "aiq"),
    *("brier", "ece", "covered", "mu", "mu_cost", "v_r", "v_b", "e_p", "seconds"),
)
"""The metrics of a method in a trial, whose means are in `standings`; see docs/benchmark.md."""

SCALARS = ("table", "n_val", "trial", "method", *NUMBERS)
"""The columns of the table of trials."""

SERIES = ("curve", "predicted", "seen")
"""The series of a record, for plots: quality at the costs of `GRID`, and bins of predicted and of real errors."""

# Shares of the cost of the most expensive model; the cheapest models cost thousandths of it.
GRID = np.unique(np.concatenate([np.linspace(0, 1, 31), np.geomspace(1e-3, 1, 31)]).round(4))
# Decimals of a series; Areas this near are a tie; a metric that a method does not have.
DIGITS, TIE, NAN = 5, 1e-12, math.nan


class Areas(NamedTuple):
    """The three Areas of a curve; methods are compared by the first."""

    crossfit: float
    raw: float
    hull: float


def areas(curve: Curve, crossfit: Sequence[Curve], dearest: float) -> Areas:
    """Return the Areas of a sweep's curve and of its cross-fitted ones, up to the mean USD of the dearest model.

    Examples
    --------
    >>> from unirouter_core.curves import sweep
    >>> errors, costs = [[1, 0], [0, 1]] * 8, [1.0, 2.0]
    >>> by_chance = sweep(np.random.default_rng(0).random((16, 2)), costs, errors, costs)
    >>> found = areas(by_chance.curve(), by_chance.crossfit(), 2.0)
    >>> found.crossfit < found.hull, found.raw < found.hull
    (True, True)
    """
    crossfitted = float(np.mean([each.area(dearest) for each in crossfit]))
    return Areas(crossfitted, curve.area(dearest), curve.hull().area(dearest))


def record(
    case: Case,
    predicted: Array,
    expected_costs: Array,
    *,
    point: bool = False,
    prediction: Prediction | None = None,
    seconds: float = 0.0,
) -> dict[str, Any]:
    """Return the metrics of a method that routes a case's test prompts by these errors and costs, (m,) or (n_test, m).

    A `point` cannot trade quality for cost and has no Area, since a flat curve would overstate it. Calibration is that
    of `prediction`.
    """
    errors, costs = case.errors, np.broadcast_to(case.costs, case.errors.shape)
    given, given_costs = (np.broadcast_to(table, errors.shape) for table in (predicted, expected_costs))
    chosen, at, means = choose(given, given_costs, 0.0), np.arange(len(errors)), costs.mean(axis=0)
    least_cost, top_cost, accurate = float(means.min()), float(means.max()), float(1 - errors.mean(axis=0).min())
    paid, mu = costs[at, chosen].mean(), float(1 - errors[at, chosen].mean())
    if point:
        curve = Curve(np.array([paid]), np.array([1 - errors[at, chosen].mean(dtype=np.float64)]), np.array([0.0]))
        crossfit = [curve]
    else:
        swept = sweep(predicted, expected_costs, errors, costs)
        curve, crossfit = swept.curve(), swept.crossfit()
    crossfit_area, raw_area, _ = areas(curve, crossfit, top_cost)
    found = {
        "crossfit_area": crossfit_area,
        **dataclasses.asdict(measure(curve, errors, costs)),
        "raw_area": raw_area,
        "aiq": mean_quality(curve, least_cost, top_cost) if least_cost < top_cost else NAN,
        **dict.fromkeys(("brier", "ece", "covered"), NAN),
        **{"mu": mu, "mu_cost": float(paid / top_cost), "e_p": choice_entropy(chosen)},
        "v_r": mu / case.highest if case.highest else NAN,
        "v_b": mu / accurate if accurate else NAN,
        "seconds": seconds,
        "curve": _series(np.mean([each.quality_at(GRID * top_cost) for each in crossfit], axis=0)),
        **{"predicted": [], "seen": []},
    }
    if point:
        found |= {**dict.fromkeys(("crossfit_area", "area", "area_half", "raw_area", "aiq"), NAN), "curve": []}
        found |= {"usd_per_right": float(paid) / mu if mu > 0 else math.inf}
    if math.isinf(found["usd_per_right"]):
        found["usd_per_right"] = NAN
    if prediction is not None:
        binned = reliability(prediction.errors, errors)
        found |= {
            "brier": float(((prediction.errors - errors) ** 2).mean()),
            "ece": binned.expected_error,
            "covered": interval_coverage(prediction.errors, prediction.stderrs, errors, case.test_regions),
            "predicted": _series(binned.predicted),
            "seen": _series(binned.seen),
        }
    return found


def _series(values: Array) -> list[float]:
    return list(values.round(DIGITS).tolist())


def mean_quality(curve: Curve, cheapest: float, dearest: float) -> float:
    """Return the hull's mean quality between two costs: RouterBench's AIQ (arXiv 2403.12031, §3).

    All routers are compared between the mean USD of the cheapest and of the most expensive model; an `InvalidDataError`
    when `dearest` is not above `cheapest`.

    Examples
    --------
    >>> mean_quality(Curve(np.array([1.0, 3.0]), np.array([0.5, 0.9]), np.array([np.inf, 0.0])), 1.0, 5.0)
    0.8
    """
    if not 0 <= cheapest < dearest < np.inf:
        raise InvalidDataError(f"The dearest cost {dearest:g} must be finite and above the cheapest, {cheapest:g} USD.")
    hull = curve.hull()
    whole, below = hull.area(dearest), hull.area(dearest, upto=cheapest / dearest)
    return float((whole - below) * dearest / (dearest - cheapest))


def choice_entropy(chosen: npt.ArrayLike) -> float:
    """Return the entropy of the chosen columns in bits, 0 for one model: E_p of RouterEval (arXiv 2503.10657).

    Examples
    --------
    >>> choice_entropy([0, 1, 0, 1]), choice_entropy([2, 2])
    (1.0, 0.0)
    """
    counts = np.unique(np.asarray(chosen), return_counts=True)[1]
    shares = counts / counts.sum()
    return float(abs(-(shares * np.log2(shares)).sum()))  # abs: 0, not -0


def sign_test_p(wins: int, losses: int) -> float:
    """Return the two-sided p of the sign test, ties left out; a negative count is an `InvalidDataError`.

    Examples
    --------
    >>> sign_test_p(wins=9, losses=1)  # 2 * (1 + 10) / 2**10
    0.021484375
    """
    if wins < 0 or losses < 0:
        raise InvalidDataError(f"{wins} wins and {losses} losses; both must be >= 0.")
    tosses = wins + losses
    tail = sum(math.comb(tosses, heads) for heads in range(min(wins, losses) + 1))
    return float(min(1.0, 2 * tail / 2**tosses))


def standings(records: Iterable[Mapping[str, Any]] | pd.DataFrame) -> pd.DataFrame:
    """Return a row for each table, N_val and method, in the order of the records.

    All methods of a table and N_val are compared on the trials that all of them have finished. The columns are the
    means of `NUMBERS` and, beside them, all by the cross-fitted Area:

    area_stderr
        Of the mean Area, over trials: the draw of the test models moves it far more than it moves differences.
    gap_closed
        The share of the way from the zero router's mean Area to the clairvoyant's.
    ahead, behind, p
        Trials in which the default's Area is larger, and smaller; the p of the sign test on these, NaN for the default.
    by, by_low, by_high
        The default's Area minus this method's, on average, and its bootstrap interval of 90 %.
    """
    trials = pd.DataFrame(records)
    parts = [_compared(part) for _, part in trials.groupby(["table", "n_val"], sort=False)] if len(trials) else []
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["table", "n_val", "method"])


def _compared(part: pd.DataFrame) -> pd.DataFrame:
    complete = part.groupby("trial")["method"].nunique() == part["method"].nunique()
    part = part[part["trial"].map(complete)].sort_values("trial", kind="stable")
    by_method = part.pivot(index="trial", columns="method", values="crossfit_area")
    rows = []
    for method, own in part.groupby("method", sort=False):
        area = own["crossfit_area"].to_numpy()
        away = by_method[DEFAULT].to_numpy() - area if DEFAULT in by_method else np.full(len(area), NAN)
        ahead, behind = int((away > TIE).sum()), int((away < -TIE).sum())
        low, high = (NAN, NAN) if np.isnan(away).any() else Bootstrap().mean_interval(away)
        compared = method != DEFAULT and not np.isnan(away).any()
        rows.append(
            {
                **{"table": own["table"].iloc[0], "n_val": own["n_val"].iloc[0]},
                **{"method": method, "trials": len(own)},
                **{name: float(own[name].to_numpy(np.float64).mean()) for name in NUMBERS},
                "area_stderr": float(area.std(ddof=1) / len(area) ** 0.5) if len(area) > 1 else NAN,
                "gap_closed": _gap_closed(area, by_method),
                **{"ahead": ahead, "behind": behind, "p": sign_test_p(ahead, behind) if compared else NAN},
                **{"by": float(away.mean()), "by_low": low, "by_high": high},
            }
        )
    return pd.DataFrame(rows)


def _gap_closed(area: Array, by_method: pd.DataFrame) -> float:
    if ZERO not in by_method or CLAIRVOYANT not in by_method:
        return NAN
    gap = float((by_method[CLAIRVOYANT].to_numpy() - by_method[ZERO].to_numpy()).mean())
    return float((area - by_method[ZERO].to_numpy()).mean() / gap) if gap > TIE else NAN


_HEADS = (
    *("method", "Area", "±", "raw", "hull", "50 %", "QNC", "own", "reach", "peak", "$/1k right", "AIQ", "Brier"),
    *("ECE", "covers", "gap", "ahead", "p", "by", "90 % interval", "μ", "V_R", "V_B", "E_p", "s"),
)
_NUMBERS = {"Area": "crossfit_area", "±": "area_stderr", "raw": "raw_area", "hull": "area", "50 %": "area_half"}
_NUMBERS |= {"peak": "peak", "AIQ": "aiq", "Brier": "brier"}
_SHARES = {"QNC": "qnc", "own": "qnc_own", "reach": "reached", "covers": "covered", "gap": "gap_closed"}


def shown(standings: pd.DataFrame) -> pd.DataFrame:
    """Return the standings as text under the headings of docs/benchmark.md, blank where there is no number."""
    rows = []
    for row in standings.to_dict("records"):
        cells = {"method": row["method"], "μ": decimals(row["mu"])}
        cells |= {head: decimals(row[name]) for head, name in _NUMBERS.items()}
        cells |= {head: percent(row[name]) for head, name in _SHARES.items()}
        cells |= {head: decimals(row[head.lower()], 3) for head in ("ECE", "V_R", "V_B")}
        cells |= {"$/1k right": "" if math.isnan(row["usd_per_right"]) else usd(1000 * row["usd_per_right"])}
        cells |= {"E_p": decimals(row["e_p"], 2), "s": f"{row['seconds']:.1f}" if row["seconds"] else ""}
        if row["method"] != DEFAULT and not math.isnan(row["by"]):
            by, low, high = (decimals(row[name], sign="+") for name in ("by", "by_low", "by_high"))
            cells |= {"ahead": f"{row['ahead']}/{row['ahead'] + row['behind']}", "p": decimals(row["p"], 3), "by": by}
            cells["90 % interval"] = f"{low} to {high}"
        rows.append([cells.get(head, "") for head in _HEADS])
    return pd.DataFrame(rows, columns=list(_HEADS))


def decimals(value: float, digits: int = 4, sign: str = "") -> str:
    """Return a number as tables show it, without the 0 before the point; nothing for NaN.

    >>> decimals(0.61234), decimals(-0.5, 1), decimals(1.0), decimals(float("nan"))
    ('.6123', '-.5', '1.0000', '')
    """
    return "" if math.isnan(value) else f"{value:{sign}.{digits}f}".replace("0.", ".", 1 if abs(value) < 1 else 0)


def percent(value: float) -> str:
    """Return a share in per cent, small ones to a tenth; nothing for NaN.

    >>> percent(0.875), percent(0.0026), percent(float("nan"))
    ('88%', '0.3%', '')
    """
    return "" if math.isnan(value) else f"{value:.{1 if 0 < value < 0.1 else 0}%}"


@dataclass(frozen=True)
class TrialFiles:
    """The folder of one benchmark: trials are appended as they end, so that a killed run can be resumed.

    The folder is made; `setup` has the settings that all of its trials share, kept in each line.
    """

    folder: Path
    setup: Mapping[str, Any]

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def path(self) -> Path:
        """The file of the trials, a line each."""
        return self.folder / "trials.jsonl"

    def read(self, table: str, digest: str) -> list[dict[str, Any]]:
        """Return a table's records; a last line that a killed run left unfinished is removed.

        Raises `InvalidDataError` when another line is no record, or is of other settings, of another such table or of
        an older version.
        """
        content = self.path.read_bytes() if self.path.exists() else b""
        whole, records = content[: content.rfind(b"\n") + 1], []
        if len(whole) < len(content):
            self.path.write_bytes(whole)
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                found = {name: NAN if value is None else value for name, value in parse_json(line).items()}
                kept = {name: found[name] for name in (*SCALARS, *SERIES)}
                setup = {name: found[name] for name in (*self.setup, "digest")}
            except (ValueError, KeyError, AttributeError) as failed:
                if failed.args == ("crossfit_area",):
                    raise InvalidDataError(
                        f"{self.folder} holds trials of an older version, without cross-fitted Areas; name another "
                        "folder with --out, or remove this one."
                    ) from failed
                raise InvalidDataError(
                    f"{self.path}, line {number}: no record of a trial; remove the line, and its trial runs again."
                ) from failed
            own = kept["table"] == table
            now = {**self.setup, "digest": digest if own else setup["digest"]}
            for name in (name for name in now if now[name] != setup[name]):
                raise InvalidDataError(
                    f"{self.folder} holds trials of another benchmark ({name} is {now[name]}, was {setup[name]}); "
                    "name another folder with --out, or remove this one."
                )
            records += [kept] if own else []
        return records

    def append(self, records: Sequence[Mapping[str, Any]], digest: str) -> None:
        """Write the records of a trial on the table with this digest, in one piece."""
        plain = [{name: None if x != x else x for name, x in each.items()} for each in records]  # NaN is not itself
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps({**each, **self.setup, "digest": digest}) + "\n" for each in plain))

    def export(self, records: Sequence[Mapping[str, Any]]) -> list[Path]:
        """Write a row for each record as CSV and as Parquet; return the paths."""
        table = pd.DataFrame(records, columns=list(SCALARS))
        table.to_csv(self.folder / "trials.csv", index=False)
        table.to_parquet(self.folder / "trials.parquet", index=False)
        return [self.folder / "trials.csv", self.folder / "trials.parquet"]
