"""Assignments that are cut from this repository, and their grader.

    python -m course handout 3 --out handout-3              # for students: the repository without the answers
    python -m course handout 1 3 --out handout-1-3          # without the answers of several assignments
    python -m course grade submission/ 3                    # points, and a sentence for each test that fails
    python -m course grade submission/ 3 --json results.json
    python -m course bundle 3 --out autograder-3.zip        # what Gradescope takes
    python -m course sweep 3                                # for teachers: does every mistake fail a test?

course/N-*.md is the page of assignment N. course/README.md is for teachers. A handout does not have it: there
only `grade` works, and START.md is the first page.
"""
import os
import tempfile

import config
from course import cut, gradescope, grading
from course.assignments import ASSIGNMENTS, get_assignment

START = """# Start here

{pages}

`make .venv/ready` makes the Python environment. Give the commands in this folder.

README.md and docs/ are about the whole repository. Here some bodies of functions are left out, and some
files of tests/. A program that needs such a function stops at NotImplementedError with the function's name.
`make toy` does so until you have written the functions that training needs.
"""


def start_page(assignments):
    """What stands in START.md of a handout."""
    pages = []
    for a in assignments:
        points = f"`.venv/bin/python -m course grade . {a.number}`" if a.tests else "see the page"
        pages.append(f"- Assignment {a.number}, {a.title}. Your page: course/{os.path.basename(a.page())}. "
                     f"Your points: {points}.")
    return START.format(pages="\n".join(pages))


def handout(args):
    chosen = [get_assignment(number) for number in sorted({*args.numbers})]
    if os.path.isfile(args.out) or (os.path.isdir(args.out) and os.listdir(args.out)):
        raise ValueError(f"{args.out} is not empty; choose another --out or delete it")
    cut.write_handout(chosen, args.out)
    with open(f"{args.out}/START.md", "w", encoding="utf-8") as f:
        f.write(start_page(chosen))
    files = sorted({path for assignment in chosen for path in assignment.files()})
    print(f"wrote {args.out}: students begin with START.md and hand in {', '.join(files) or 'a folder'}")


def grade(args):
    assignment = get_assignment(args.number)
    results, missing = grading.grade(args.folder, assignment, args.nobody)
    if args.json:
        config.write_json(args.json, grading.as_gradescope(results, missing))
    print(f"assignment {assignment.number}: {assignment.title}")
    for path in missing:
        print(f"not handed in: {path}")
    for r in results:
        print(f"{r.points:>4g}/{r.most:<4g} {r.test}" + (f"\n          {r.sentence}" if r.sentence else ""))
    print(f"{sum(r.points for r in results):g} of {assignment.points():g} points")


def bundle(args):
    with tempfile.TemporaryDirectory() as scratch:
        gradescope.write_bundle(get_assignment(args.number), args.out, scratch)
    print(f"wrote {args.out}: upload it as the autograder of the assignment")


def sweep(args):
    from course import sweep as sweeping  # not in a handout
    if args.number:
        chosen = [get_assignment(args.number)]
        grading.check_graded_by_tests(chosen[0])
    else:
        chosen = [assignment for assignment in ASSIGNMENTS.values() if assignment.tests]
    sweeping.print_sweep(chosen)


def main():
    ap = config.Parser(__doc__, prog="python -m course")
    commands = ap.add_subparsers(required=True, metavar="handout|grade|bundle|sweep")
    number = {"type": config.number(1, 99), "metavar": "N", "help": "the assignment"}
    p = commands.add_parser("handout", doc=__doc__, help="write a copy of the repository without the answers")
    p.set_defaults(run=handout)
    p.add_argument("numbers", nargs="+", **number)
    p.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    p = commands.add_parser("grade", doc=__doc__, help="run the tests on what a student handed in")
    p.set_defaults(run=grade)
    p.add_argument("folder", metavar="DIR", help="with the student's files")
    p.add_argument("number", **number)
    p.add_argument("--json", metavar="FILE", help="write Gradescope's results.json")
    p.add_argument("--nobody", action="store_true", help="as root: run the student's code as user 'nobody'")
    p = commands.add_parser("bundle", doc=__doc__, help="write the archive that Gradescope takes")
    p.set_defaults(run=bundle)
    p.add_argument("number", **number)
    p.add_argument("--out", required=True, metavar="FILE.zip")
    p = commands.add_parser("sweep", doc=__doc__, help="try the tests on wrong versions")
    p.set_defaults(run=sweep)
    p.add_argument("number", nargs="?", **number)
    args = ap.parse_args()
    if args.run is not grade and cut.is_handout(cut.ROOT):
        raise ValueError("this is a handout: only `grade` works here, the rest in the whole repository")
    args.run(args)


if __name__ == "__main__":
    config.command(main)
