"""Logs of conversations with real users, and what they say of the responses in them."""
