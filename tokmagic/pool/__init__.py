"""The shared engine as a pool: the same gateway, over replicas of each model on a Ray cluster.

Ray Serve starts, balances, scales and replaces replicas; money stays in the gateway. Ray is imported in ``remote``,
``deployments`` and ``process`` alone. The doors are :func:`process.serve` for ``tokmagic serve --pool`` and
:func:`deployments.from_args` for Kubernetes.
"""
