"""Servers of others that the endpoint engine is tested against: servers.py has them."""
