"""Models onboarded by evaluating them: the bill first, then answers, each paid for once, and what they change."""

from unirouter_plugins.onboarding.ask import OnboardingOptions
from unirouter_plugins.onboarding.plan import OverBillError, Plan, Progress, plan_onboarding, run_onboarding
from unirouter_plugins.onboarding.run import Onboarded

__all__ = ["Onboarded", "OnboardingOptions", "OverBillError", "Plan", "Progress", "plan_onboarding", "run_onboarding"]


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
