"""Models onboarded by evaluating them: the bill first, then answers, each paid for once, and what they change."""

from unirouter_plugins.onboarding.ask import OnboardingOptions
from unirouter_plugins.onboarding.plan import Onboarded, Plan, Progress, plan_onboarding, run_onboarding

__all__ = ["Onboarded", "OnboardingOptions", "Plan", "Progress", "plan_onboarding", "run_onboarding"]
