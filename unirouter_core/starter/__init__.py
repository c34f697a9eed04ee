"""Prompt features fitted on public evaluations, numbers only: a user's models join with no training data."""
