"""Prompt features fitted on public evaluations: a user's models are onboarded without training data."""
