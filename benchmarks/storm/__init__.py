"""Many clients at once against `luthier serve`: what they ask, how they behave, and what the engine says by itself."""
