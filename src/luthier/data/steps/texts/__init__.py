"""Steps that go by rules over texts: each wraps rules that know nothing of rows (data/cleaning, data/pii)."""
