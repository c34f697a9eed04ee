"""Several answers of one model to the same messages, and the one that most of them agree on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unirouter_plugins.graders import Grader


@dataclass(frozen=True)
class Ballot:
    """What one answer votes for.

    Parameters
    ----------
    text : str
    calls : str
        The tools it calls, with which arguments, as JSON; empty where it calls none.
    """

    text: str
    calls: str = ""

    @classmethod
    def of(cls, response: Any) -> Ballot:
        """Return the vote in a LiteLLM response."""
        message = response.choices[0].message
        calls = [[call.function.name, _parsed(call.function.arguments)] for call in message.tool_calls or ()]
        return cls(message.content or "", json.dumps(calls, sort_keys=True) if calls else "")

    def agrees(self, other: Ballot, grader: Grader) -> bool:
        """Return whether two answers are the same: either is right when the other is the reference.

        Calls of tools are the same when their names and arguments are, whatever is said beside them.
        """
        if self.calls or other.calls:
            return self.calls == other.calls
        return not grader(self.text, other.text) or not grader(other.text, self.text)


def _parsed(arguments: str | None) -> Any:
    try:
        return json.loads(arguments or "{}")
    except ValueError:
        return arguments


def elected(ballots: Sequence[Ballot], grader: Grader) -> tuple[int, int]:
    """Return which answer most agree on, the first of them in order, and how many they are.

    Each answer joins the first group whose first answer it agrees with; the earlier of equal groups wins. An answer
    that does not agree with itself, such as one without a number where numbers are compared, has no vote; with no
    votes at all it is the first, and 0 agree.

    Examples
    --------
    >>> from unirouter_plugins.graders import parse_grader
    >>> answers = ["It is 391.", "I think 381.", "17 * 23 = 391"]
    >>> elected([Ballot(answer) for answer in answers], parse_grader("number"))
    (0, 2)
    """
    groups: list[list[int]] = []
    for place, ballot in enumerate(ballots):
        if not ballot.agrees(ballot, grader):
            continue
        group = next((group for group in groups if ballot.agrees(ballots[group[0]], grader)), None)
        if group is None:
            groups.append([place])
        else:
            group.append(place)
    if not groups:
        return 0, 0
    largest = max(groups, key=len)
    return largest[0], len(largest)


def summed(usages: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sum of usages, field by field, with the details of prompts and answers.

    Examples
    --------
    >>> one = {"prompt_tokens": 9, "completion_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 2}}
    >>> summed([one, one])
    {'prompt_tokens': 18, 'completion_tokens': 6, 'completion_tokens_details': {'reasoning_tokens': 4}}
    """
    total: dict[str, Any] = {}
    for usage in usages:
        for name, value in usage.items():
            if isinstance(value, Mapping):
                total[name] = summed([total.get(name) or {}, value])
            elif isinstance(value, int | float) and not isinstance(value, bool):
                total[name] = (total.get(name) or 0) + value
    return total
