"""Are the graded tests worth their points? Three things are tried on each assignment, all by machine:

    as it is        every test passes, and those of the other assignments pass in its handout too
    body removed    of each function alone: the tests that name it fail since it is missing, the others pass
    wrong versions  of wrong.py: at least one test fails that is not a crash of ours
"""
import compileall
import contextlib
import os
import tempfile

from course import cut, grading
from course.assignments import ASSIGNMENTS, short
from course.runner import MISSING, PASSED
from course.wrong import WRONG


def wrong_source(source, name, old, new):
    """The source with a wrong version of function `name`."""
    if new is None:
        return cut.with_source(source, name, old)
    own = cut.source_of(source, name)
    if old not in own:
        raise ValueError(f"course/wrong.py: {name} has no {old!r} any more")
    return cut.with_source(source, name, own.replace(old, new))


class Trees:
    """Copies of the repository in a scratch folder. What is tried on them is run at once at the end."""
    def __init__(self, scratch):
        self.scratch, self.asked, self.plain = scratch, [], f"{scratch}/plain"
        cut.copy_files(cut.ROOT, self.plain)

    def change(self, name, path, change):
        """A copy in which file `path` is what the function `change` makes of it; the rest are links."""
        tree, folders = f"{self.scratch}/{name}", path.split("/")[:-1]
        for depth in range(len(folders) + 1):
            at = "/".join(folders[:depth])
            if os.path.islink(f"{tree}/{at}"):
                os.remove(f"{tree}/{at}")
            os.makedirs(f"{tree}/{at}")
            for entry in os.listdir(f"{self.plain}/{at}"):
                os.symlink(f"{self.plain}/{at}/{entry}", f"{tree}/{at}/{entry}")
        with open(f"{tree}/{path}", encoding="utf-8") as f:
            source = change(f.read())
        os.remove(f"{tree}/{path}")
        with open(f"{tree}/{path}", "w", encoding="utf-8") as f:
            f.write(source)
        os.utime(f"{tree}/{path}", (0, 0))              # or what was compiled may be taken for it
        return tree

    def ask(self, tree, assignment, tests, alone=False):
        """A place where run() will put {test: verdict}. `alone`: each test in a process of its own, for what
        may not come to its end."""
        found = {}
        for names in [[name] for name in tests] if alone else [list(tests)]:
            self.asked.append((found, tree, assignment, names))
        return found

    def run(self):
        verdicts = grading.run_tests([one[1:] for one in self.asked], self.scratch)
        for (found, *_), some in zip(self.asked, verdicts):
            found.update({name: verdict for name, (verdict, _) in some.items()})


def needing(assignment, function):
    """The tests that name a function."""
    return [name for name, (_, needs) in assignment.tests.items() if short(function) in needs.split()]


def try_handout(trees, assignment, others):
    """A function that gives the problems of the assignment as it is, and of its handout."""
    own = trees.ask(trees.plain, assignment, assignment.tests)
    tree = f"{trees.scratch}/handout-{assignment.number}"
    cut.write_handout([assignment], tree)
    missing = trees.ask(tree, assignment, assignment.tests)
    rest = [(other, trees.ask(tree, other, other.tests)) for other in others if other is not assignment]

    def judge():
        problems = [f"{name} fails as it is: {v}" for name, v in own.items() if v != PASSED]
        problems += [f"{name} in the handout: {v}" for name, v in missing.items() if v != MISSING]
        problems += [f"{other.number}: {name} fails in handout {assignment.number}: {v}"
                     for other, found in rest for name, v in found.items() if v != PASSED]
        return problems
    return judge


def try_removed(trees, assignment, function):
    """The same of one function without its body."""
    path, _, name = function.partition(":")
    tree = trees.change(f"{assignment.number} {name}", path,
                        lambda source: cut.without(source, [name], assignment.number))
    found = trees.ask(tree, assignment, assignment.tests)
    wanted = needing(assignment, function)

    def judge():
        right = {test: MISSING if test in wanted else PASSED for test in found}
        return [f"{name} removed: {test} is {verdict}, not {right[test]}"
                for test, verdict in found.items() if verdict != right[test]]
    return judge


def try_wrong(trees, number, wrong):
    """(tests, judge) of a wrong version."""
    n, function, mistake, old, new = wrong
    path, _, name = function.partition(":")
    tree = trees.change(f"wrong {number}", path, lambda source: wrong_source(source, name, old, new))
    found = trees.ask(tree, ASSIGNMENTS[n], needing(ASSIGNMENTS[n], function), alone=True)
    return found, lambda: [] if set(found.values()) - {PASSED} else [f"{name}: {mistake}: no test fails"]


def run_sweep(assignments, wrong=WRONG, handouts=True):
    """(rows of the table, problems). `wrong`: these only. Without `handouts` nothing but functions is
    tried."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch, contextlib.chdir(cut.ROOT):
        trees, judges, lines = Trees(scratch), [], []
        if handouts:                            # what does not change is compiled once
            compileall.compile_dir(trees.plain, quiet=2)
        for assignment in assignments:
            if handouts:
                judges.append(try_handout(trees, assignment, assignments))
            for function in assignment.functions:
                judges.append(try_removed(trees, assignment, function))
        numbers = [assignment.number for assignment in assignments]
        for number, one in enumerate(wrong):
            if one[0] in numbers:
                found, judge = try_wrong(trees, number, one)
                judges.append(judge)
                lines.append((one, found))
        trees.run()
        rows = []
        for (n, function, mistake, *_), found in lines:
            failed = [test for test, verdict in found.items() if verdict != PASSED]
            rows.append((n, short(function), mistake, ", ".join(failed)))
        return rows, [problem for judge in judges for problem in judge()]


def table(rows):
    """The rows in Markdown."""
    lines = ["| | function | mistake | fails |", "|---|---|---|---|"]
    for n, name, mistake, failed in rows:
        lines.append(f"| {n} | `{name}` | {mistake} | {failed} |")
    return "\n".join(lines)


def print_sweep(assignments):
    """Print the table; stop with the problems, if there are any."""
    rows, problems = run_sweep(assignments)
    print(table(rows))
    functions = sum(len(a.functions) for a in assignments)
    tests = sum(len(a.tests) for a in assignments)
    print(f"\n{functions} functions, {tests} tests, {len(rows)} wrong versions")
    if problems:
        raise ValueError("; ".join(problems))
