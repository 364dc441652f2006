"""``tokmagic pull``: a model's files, fetched once."""

from __future__ import annotations

import argparse

from tokmagic.engines.base import ModelSpec, parse_source
from tokmagic.engines.local.store import pull
from tokmagic.errors import UsageError
from tokmagic.formatting.terminal import progress
from tokmagic.runs import api


def add_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("name", nargs="?", help="model name or Hugging Face id (the default model)")
    verb.add_argument("--force", action="store_true", help="fetch it again")


def run(given: argparse.Namespace) -> int:
    """Fetch the model and tell where it is."""
    settings = api.session().settings
    if given.name is None and (settings.api_base or settings.api_key_name):
        raise UsageError(f"{settings.model} runs at a server, so there is nothing to fetch; name another model")
    source, revision = parse_source(given.name or settings.model)
    located = pull(ModelSpec(source, revision=revision), settings, progress, force=given.force)
    print(f"{located.model_id} is in {located.folder} (from {located.origin})")
    return 0
