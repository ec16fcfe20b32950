"""From a name to a loaded model: fetching, conversion, digests."""
