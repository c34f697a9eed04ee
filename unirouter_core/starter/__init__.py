"""Prompt features fitted on public evaluations, numbers only, so that a user's models can join with no training data."""
