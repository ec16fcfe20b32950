"""The engine behind an address: any endpoint that speaks OpenAI's protocol, within a rate, a budget and a cache."""
