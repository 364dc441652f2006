"""What trying torch finds, for tests of what is said of it: trying takes seconds and is tested by itself."""

from __future__ import annotations

from tokmagic.health import Probe

ON_CPU = Probe(attention=("flash", "math"), bitsandbytes={"nf4": None})
"""What a CPU build of torch gives, as test_what_torch_really_does_here asks it."""
