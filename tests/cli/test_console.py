"""Commands print any text to any terminal."""

import os
import subprocess
import sys

import pytest

_PRINT = """
import sys
from ms_impl.cli.console import print_anything
print_anything()
for stream in (sys.stdout, sys.stderr):
    print("é 狗 🐶 \\ud83d –", file=stream)
"""


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [("gbk", "é 狗 ? ? –"), ("latin-1", "é ? ? ? ?"), ("ascii", "? ? ? ? ?"), ("utf-8", "é 狗 🐶 ? –")],
)
def test_what_an_encoding_lacks_is_replaced(encoding, printed):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    ran = subprocess.run([sys.executable, "-c", _PRINT], env=environment, capture_output=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.decode(encoding).strip() == ran.stderr.decode(encoding).strip() == printed
