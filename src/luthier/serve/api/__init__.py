"""OpenAI's API over the engine: what clients may say, and how they are answered. Pure ASGI."""
