"""Optimisers, schedules and the update of the weights."""
