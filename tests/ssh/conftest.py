import contextlib
import re

import pytest
from ssh_nodes import Nodes, missing
from ssh_site import Site


@pytest.fixture(scope="session")
def ground(tmp_path_factory):
    """The folder that every node has one of its own of; tests work below it."""
    return tmp_path_factory.mktemp("ssh") / "ground"


@pytest.fixture(scope="session")
def pair(tmp_path_factory, ground):
    """Two nodes for the whole session."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    nodes = Nodes(tmp_path_factory.mktemp("nodes"), ground)
    yield nodes
    nodes.close()


@pytest.fixture
def site(pair, ground, request):
    """An empty working folder of this test's own, on two nodes in good order."""
    name = re.sub(r"\W+", "_", request.node.name).strip("_")  # with the parameters, which stand last
    made = Site(ground / (name if len(name) <= 60 else f"{name[:45]}_{name[-14:]}"), pair)
    yield made
    with contextlib.suppress(OSError):
        print(made.log())  # pytest shows it with a failure: what the keeper did, and when
    made.close()
    for box in pair.boxes:
        box.mend()
        box.clear()
