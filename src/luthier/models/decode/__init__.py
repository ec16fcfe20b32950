"""A model read token by token over pages of keys and values: what an engine runs on."""
