"""Steps at work: what processes own, what is cached, what became of each row."""
