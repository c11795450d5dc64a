"""Type what README.md and docs/*.md print, in order, in a fresh copy of the repository. A failure stops it.

    python tools/docs_check.py                      # all pages, as make docs-check does: it takes long
    python tools/docs_check.py README.md --quick    # only the blocks marked `sh quick`, as the tests do

A block that begins with ```sh is run, with bash, from the top of the copy. ```sh skip is not run: it needs
GPUs, a cluster or files of your own. All pages share one copy: a page may use what a page before it has made.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import config

PAGES = ["README.md", "docs/reading.md", "docs/corpus.md", "docs/tokenizer.md", "docs/decisions.md",
         "docs/ecosystem.md", "docs/launch.md", "docs/speed.md"]


def blocks(page):
    """[(line number, mark, commands)] of the shell blocks of a page. The mark is "", "quick" or "skip"."""
    with open(os.path.join(ROOT, page), encoding="utf-8") as f:
        text = f.read()
    found = re.finditer(r"^```sh *(\w*)\n(.*?)^```$", text, re.M | re.S)
    return [(text.count("\n", 0, m.start()) + 1, m[1], m[2]) for m in found]


def copy_repository(folder):
    """What git tracks, as it is now, and the virtual environment of this checkout."""
    names = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                           capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if os.path.exists(f"{ROOT}/{name}"):
            os.makedirs(os.path.dirname(f"{folder}/{name}"), exist_ok=True)
            shutil.copy2(f"{ROOT}/{name}", f"{folder}/{name}")
    if os.path.exists(f"{ROOT}/.venv"):
        os.symlink(os.path.realpath(f"{ROOT}/.venv"), f"{folder}/.venv")


def run_block(page, line, commands, folder):
    """Run one block; an error if a command of it fails."""
    path = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
    began = time.monotonic()
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", commands], cwd=folder, stdin=subprocess.DEVNULL,
                          env={**os.environ, "PATH": path}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True)
    first = commands.strip().split("\n")[0]
    print(f"{page}:{line}   {time.monotonic() - began:6.1f} s   {first[:70]}", flush=True)
    if done.returncode:
        print(done.stdout[-4000:])
        raise ValueError(f"{page}, line {line}: exit code {done.returncode}: {commands.strip()}")


def main():
    ap = config.Parser(__doc__)
    ap.add_argument("pages", nargs="*", default=PAGES, help=f"default: {' '.join(PAGES)}")
    ap.add_argument("--quick", action="store_true", help="only blocks marked quick")
    args = ap.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copy_repository(folder)
        for page in args.pages:
            for line, mark, commands in blocks(page):
                if mark == "quick" or not args.quick and mark != "skip":
                    run_block(page, line, commands, folder)


if __name__ == "__main__":
    config.command(main)
