"""Scorers of how a response is made, whatever it says: its form, its length, its wording. None needs a known answer."""
