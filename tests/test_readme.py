import glob
import re
import subprocess
import sys

import pytest
from conftest import ROOT

FILES = sorted(glob.glob(f"{ROOT}/*.py") + glob.glob(f"{ROOT}/corpus/*.py") + glob.glob(f"{ROOT}/configs/**/*.py", recursive=True))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.removeprefix(ROOT + "/"))
def test_every_file_begins_with_how_to_run_or_read_it(path):
    text = open(path, encoding="utf-8").read()
    doc = re.match(r'"""(.*?)"""', text, re.S)
    assert doc and re.search(r"python|Read ", doc[1])


@pytest.mark.parametrize("script", ["train.py", "prepare.py", "tokenizer.py", "sample.py"])
def test_every_command_has_help_with_an_example(script):
    out = subprocess.run([sys.executable, f"{ROOT}/{script}", "--help"], capture_output=True, text=True)
    assert out.returncode == 0 and f"python {script}" in out.stdout


def test_nothing_is_pickled_and_one_file_knows_of_processes():
    for path in FILES:
        text = open(path, encoding="utf-8").read()
        assert not re.search(r"import pickle|torch\.(load|save)\(", text), path
        assert path.endswith(("checkpoint.py", "distributed.py")) or "torch.distributed" not in re.sub(r'""".*?"""', "", text, flags=re.S), path
