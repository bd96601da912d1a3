"""Tests of the models compile many small functions once each: XLA's optimisations would cost more than they give."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def quick_compilation(request):
    """Compile quickly, except where the original's numbers are at stake."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", "reference" not in request.module.__name__)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
