"""The arrays that the first ACT-smooth computed."""

import pytest


@pytest.fixture(scope="session")
def reference(checkout):
    """The folder of reference arrays."""
    folder = checkout.parent / "shared/reference/act_smooth"
    if not folder.is_dir():
        pytest.skip("the arrays of the first ACT-smooth are not beside this checkout (../shared/reference/act_smooth)")
    return folder
