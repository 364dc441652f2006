"""The shared engine: an OpenAI-compatible gateway that meters, bills and bounds every request.

Its doors are :func:`app.build`, an ASGI app that knows nothing of its process, over a :class:`gateway.Gateway`, and
:func:`process.serve` for ``tokmagic serve``. It computes no token and no price of its own.
"""
