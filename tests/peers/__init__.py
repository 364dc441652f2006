"""Servers of others that the endpoint engine is tested against: LiteLLM's proxy and `transformers serve`."""
