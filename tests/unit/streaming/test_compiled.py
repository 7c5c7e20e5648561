"""What is kept of compiled functions on disk."""

import subprocess
import sys

INNER = """
from hedmlive.streaming.compiled import compiled

@compiled()
def inner(x):
    return x + {}
"""
OUTER = """
from hedmlive.streaming.compiled import compiled
from inner import inner

@compiled()
def outer(x):
    return 10 * inner(x)
"""
ASK = "from outer import outer; print(outer(1), sum(outer.stats.cache_hits.values()))"


def test_a_function_is_compiled_anew_when_one_that_it_calls_from_another_file_is_another(tmp_path):
    def ask():
        done = subprocess.run([sys.executable, "-c", ASK], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.split()

    (tmp_path / "outer.py").write_text(OUTER)
    (tmp_path / "inner.py").write_text(INNER.format(1))
    assert ask() == ["20", "0"]
    assert ask() == ["20", "1"]
    (tmp_path / "inner.py").write_text(INNER.format(2))
    assert ask() == ["30", "0"]
