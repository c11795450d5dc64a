"""The archive that Gradescope takes as an autograder: it unpacks it at /autograder/source, runs setup.sh
once, and run_autograder for each submission. The archive holds a handout, so no student can find a solution
in it.
"""
import os
import zipfile

from course import cut, grading

SETUP = """#!/usr/bin/env bash
# makes the environment of the grader; Python 3.11 or newer
set -e
HERE=${{AUTOGRADER:-/autograder}}
PYTHON=${{PYTHON:-python3}}
if ! $PYTHON -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))'; then
    apt-get update
    apt-get install -y python3.11 python3.11-venv
    PYTHON=python3.11
fi
$PYTHON -m venv "$HERE/venv"
"$HERE/venv/bin/pip" install --quiet -r "$HERE/source/grader/requirements.txt" {more}
chmod 755 "$HERE" "$HERE/venv"
"""
RUN = """#!/usr/bin/env bash
# AUTOGRADER and VENV are for trying it elsewhere than on Gradescope
HERE=${{AUTOGRADER:-/autograder}}
VENV=${{VENV:-$HERE/venv}}
cd "$HERE/source/grader"
NOBODY=
if [ "$(id -u)" = 0 ] && [ "$HERE" = /autograder ]; then NOBODY=--nobody; fi
"$VENV/bin/python" -B -m course grade "$HERE/submission" {number} $NOBODY --json "$HERE/results/results.json"
"""


def write_bundle(assignment, out, scratch):
    """Write the archive of an assignment to file `out`."""
    grading.check_graded_by_tests(assignment)
    cut.write_handout([assignment], f"{scratch}/grader")
    more = "scipy" if "planning/law.py:fit" in assignment.functions else ""
    scripts = {"setup.sh": SETUP.format(more=more), "run_autograder": RUN.format(number=assignment.number)}
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in scripts.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o755 << 16           # Gradescope runs them
            archive.writestr(entry, text)
        for path in cut.files_of(f"{scratch}/grader"):
            archive.write(f"{scratch}/grader/{path}", os.path.join("grader", path))
