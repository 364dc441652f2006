"""What the Makefile calls to make a release; no part of the package."""
