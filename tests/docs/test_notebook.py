"""The notebook of docs/ in a kernel of Jupyter's, from its first cell to its last; and a kernel that is interrupted."""

import os
import signal
import threading
from pathlib import Path

import pytest
from documents import CHECKOUT

NOTEBOOK = CHECKOUT / "docs" / "from_python.ipynb"
LONG = """
import xp
xp.train({"data.root": "push_red", "model": "octo_tiny_l1", "horizon": "h8", "trainer.steps": 100000,
          "trainer.batch_size": 8, "trainer.val_every": None, "trainer.checkpoint_every": None}, folder="long")
"""
FEW = 'xp.load_run("long").record()["state"], xp.load_run("long").record()["interrupted"]'


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A kernel that has run the whole notebook, in a folder of its own."""
    import nbformat
    from nbclient import NotebookClient

    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(folder)}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(folder / "runtime"))
        with client.setup_kernel():
            for number, cell in enumerate(notebook.cells):
                client.execute_cell(cell, number)
            yield client, folder


def ask(client, source: str) -> str:
    import nbformat

    cell = nbformat.v4.new_code_cell(source)
    client.nb.cells.append(cell)
    client.execute_cell(cell, len(client.nb.cells) - 1)
    return "".join(output.get("data", {}).get("text/plain", "") for output in cell.outputs)


@pytest.mark.slow
def test_every_cell_runs(client):
    notebook, folder = client[0].nb, client[1]
    assert (folder / "pusher" / "final").is_dir()
    shown = [str(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]
    assert "(1, 8, 6)" in shown[-1], "a chunk of actions"
    assert shown[-2].count(": 10") == 2, "steps of both seeds"


@pytest.mark.slow
def test_an_interrupted_kernel_leaves_a_run_that_goes_on(client):
    client, folder = client
    from nbclient.exceptions import CellExecutionError

    def interrupt() -> None:
        log = folder / "long" / "log.txt"
        while not (log.exists() and "training: " in log.read_text()):
            threading.Event().wait(0.2)
        os.kill(client.km.provisioner.pid, signal.SIGINT)  # as Jupyter's button does

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(CellExecutionError, match="KeyboardInterrupt"):
        ask(client, LONG)
    state = ask(client, f"import xp\n{FEW}")
    assert "pending" in state and "True" in state
    assert list((Path(folder) / "long" / "checkpoints").glob("checkpoint-*")), "a checkpoint was written"
