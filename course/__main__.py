"""Assignments that are cut from this repository, and their grader.

    python -m course handout 3 --out handout-3              # for students: the repository without the answers
    python -m course grade submission/ 3                    # points, and a sentence for each test that fails
    python -m course grade submission/ 3 --json results.json
    python -m course bundle 3 --out autograder-3.zip        # what Gradescope takes
    python -m course sweep 3                                # for teachers: does every mistake fail a test?

course/README.md has the list of assignments, and what a teacher should know.
"""
import os
import tempfile

import config
from course import cut, gradescope, grading
from course.assignments import ASSIGNMENTS, get_assignment


def handout(args):
    assignment = get_assignment(args.number)
    if os.path.exists(args.out) and os.listdir(args.out):
        raise ValueError(f"{args.out} is not empty; choose another --out or delete it")
    cut.write_handout(assignment, args.out)
    print(f"wrote {args.out}: students begin with course/{os.path.basename(assignment.page())} and hand in "
          f"{', '.join(assignment.files())}")


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
    chosen = [get_assignment(args.number)] if args.number else ASSIGNMENTS.values()
    sweeping.print_sweep([assignment for assignment in chosen if assignment.tests])


def main():
    ap = config.Parser(__doc__, prog="python -m course")
    commands = ap.add_subparsers(required=True, metavar="handout|grade|bundle|sweep")
    number = {"type": config.number(1, 99), "metavar": "N", "help": "the assignment"}
    p = commands.add_parser("handout", doc=__doc__, help="write a copy of the repository without the answers")
    p.set_defaults(run=handout)
    p.add_argument("number", **number)
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
    args.run(args)


if __name__ == "__main__":
    config.command(main)
