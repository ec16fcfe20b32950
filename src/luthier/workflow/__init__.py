"""What verbs are made of: checks before and after a run, scoring, faults, registries, generated pages."""
