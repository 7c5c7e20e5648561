"""What the folder gives, and that reading it costs no Tiled."""

import subprocess
import sys

import hedmlive.tiled_config as facade


def test_every_name_of_the_list_exists():
    assert sorted(facade.__all__) == sorted(set(facade.__all__))
    assert [name for name in facade.__all__ if not hasattr(facade, name)] == []


def test_importing_it_loads_neither_tiled_nor_a_server():
    code = (
        "import sys, hedmlive.tiled_config; print(sorted({'tiled', 'uvicorn', 'pandas', 'pyarrow'} & set(sys.modules)))"
    )
    paths = f"import sys; sys.path[:0] = {sys.path!r}; "
    done = subprocess.run([sys.executable, "-c", paths + code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
