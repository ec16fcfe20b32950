"""Steps that make rows by asking a model, or by a table. Their prompts lie beside them, in English and Chinese."""
