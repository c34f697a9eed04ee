"""What checks add to a call besides the check itself, and to a decision. Nothing is asserted on time.

python -m pytest tests/benchmarks/test_checked_calls.py --override-ini addopts='' -s
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.conftest import onboarded
from tests.plugins.scripted_chat import chats
from unirouter_core import Outcomes, UniRouter
from unirouter_plugins.langchain import RouterRunnable
from unirouter_plugins.litellm import configured
from unirouter_plugins.litellm.pool_file import Members

PROMPT, UNCHECKED = "What is 14 plus 37?", {"configurable": {"unirouter_check": False}}
CALLS: dict[str, Callable] = {
    "invoke": lambda llm, config: llm.invoke(PROMPT, config),
    "stream": lambda llm, config: list(llm.stream(PROMPT, config)),
}


def least(call: Callable[[], object], times: int = 400) -> float:
    """The least milliseconds of many calls: others may use the machine, too."""
    found = []
    for _ in range(times):
        begun = time.process_time()
        call()
        found.append(time.process_time() - begun)
    return 1e3 * min(found)


@pytest.mark.parametrize("timeout", [None, 60])
@pytest.mark.parametrize("how", CALLS)
def test_a_checked_call(world: Outcomes, how: str, timeout: float | None) -> None:
    router = onboarded(world)
    router.add_check("tutor", "right", router.pool["tutor"].errors < 0.5)
    checked = configured(router, Members(checks={"right": lambda prompt, answer, context: True}))
    llm = RouterRunnable(checked, chats(router), cost_weight=300, timeout=timeout)
    assert "checked" in llm.invoke(PROMPT).response_metadata["unirouter"]
    without, with_check = (least(lambda config=config: CALLS[how](llm, config)) for config in (UNCHECKED, None))
    print(f"\n{how}, timeout {timeout}: {without:.3f} ms, checked {with_check:.3f} ms, +{with_check - without:.3f} ms")


def test_a_decision_where_all_of_50_models_have_a_check(router: UniRouter) -> None:
    plain = least(lambda: router.route(PROMPT, cost_weight=100))
    for model in router.pool:
        router.add_check(model, "right", router.pool[model].errors < 0.5)
    assert router.route(PROMPT, cost_weight=100, checks=["right"]).check is not None
    checked = least(lambda: router.route(PROMPT, cost_weight=100, checks=["right"]))
    print(f"\n{len(router.pool)} models: {plain:.3f} ms, with checks {checked:.3f} ms")
