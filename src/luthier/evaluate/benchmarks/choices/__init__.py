"""Benchmarks that go by likelihood: which of several texts a model finds likeliest behind a question."""
