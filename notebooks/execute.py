"""Runs notebooks, each in a fresh kernel, and keeps what they say: python notebooks/execute.py FILE
[FILE ...]
"""

import os
import pathlib
import sys
from collections.abc import Mapping

import nbclient
import nbformat


def execute(
    path: pathlib.Path,
    folder: pathlib.Path,
    parameters: Mapping[str, object],
    environment: Mapping[str, str],
):
    """The notebook at `path` with its outputs, run in `folder`; constants of its cell tagged
    `parameters` are replaced.

    Raises nbclient.exceptions.CellExecutionError, which names the cell, where one fails.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", ()):
            cell.source += "".join(f"\n{name} = {value!r}" for name, value in parameters.items())
    where = {"metadata": {"path": str(folder)}}
    client = nbclient.NotebookClient(
        notebook, timeout=1800, record_timing=False, coalesce_streams=True, resources=where
    )
    client.execute(env=dict(environment))
    notebook.metadata.language_info = {"name": "python"}  # not the version of this machine
    return notebook


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        path = pathlib.Path(argument).resolve()
        print(f"running {path.name} ...", flush=True)
        nbformat.write(execute(path, path.parent, {}, os.environ), path)
