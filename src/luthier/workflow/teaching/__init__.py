"""A teacher in a recipe: what the rows bring of it, and what will be kept of it."""
