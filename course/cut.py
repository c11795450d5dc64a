"""Copies of the repository in which an assignment's functions have no body.

Functions are found by name in the syntax tree, so the program needs no marks, and its lines may move.
"""
import ast
import os
import shutil
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# teachers' files: they name mistakes and hold wrong versions
TEACHERS = ["course/wrong.py", "course/sweep.py", "course/README.md", "tests/test_course.py",
            "tests/test_docs.py"]       # the last one looks for the lines that the pages quote
SHORTEST = 25           # characters of a line that gives something away
NO_SOURCE = {".git", ".venv", "__pycache__", ".pytest_cache", ".ruff_cache", "data", "runs", "raw"}


def find_definition(tree, name):
    """The node of a function "f", a method "Class.method" or a constant "NAME"."""
    node = tree
    for part in name.split("."):
        for child in node.body:
            targets = [ast.unparse(target) for target in getattr(child, "targets", [])]
            if getattr(child, "name", None) == part or part in targets:
                node = child
                break
        else:
            raise ValueError(f"the source has no {name}: the table in course/assignments.py is out of date")
    return node


def body_lines(node, lines):
    """(first, end) of the lines, counted from 0, that make up a body without its docstring. Comments before
    the first statement belong to it."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    if not body:
        return node.end_lineno, node.end_lineno
    first = min([body[0].lineno, *(d.lineno for d in getattr(body[0], "decorator_list", []))]) - 1
    while lines[first - 1].strip().startswith("#"):
        first -= 1
    return first, node.end_lineno


def with_body(source, name, body):
    """The source in which function `name` has another body; its signature, decorators and docstring stay."""
    node, lines = find_definition(ast.parse(source), name), source.splitlines(keepends=True)
    first, end = body_lines(node, lines)
    indent = " " * (node.col_offset + 4)
    lines[first:end] = [f"{indent}{line}".rstrip() + "\n" for line in body.strip("\n").split("\n")]
    return "".join(lines)


def with_source(source, name, new):
    """The source in which the whole definition `name` is `new`, its decorators included."""
    node, lines = find_definition(ast.parse(source), name), source.splitlines(keepends=True)
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1
    lines[first:node.end_lineno] = [" " * node.col_offset + line + "\n" if line else "\n"
                                    for line in new.strip("\n").split("\n")] if new else []
    return "".join(lines)


def source_of(source, name):
    """The text of the definition `name`, as far to the left as it goes."""
    node = find_definition(ast.parse(source), name)
    lines = source.splitlines()[node.lineno - 1:node.end_lineno]
    return "\n".join(line[node.col_offset:] for line in lines)


def without(source, names, number, plain=None, hidden=()):
    """The source without the bodies of `names`; constants among them are taken out. `plain` has other bodies
    for some, {name: body}. Those of `hidden` are not asked for."""
    for name in names:
        if isinstance(find_definition(ast.parse(source), name), ast.Assign):
            source = with_source(source, name, "")
        else:
            why = "left out of handout" if name in hidden else "assignment"
            missing = f'raise NotImplementedError("{why} {number}: {name}")'
            source = with_body(source, name, (plain or {}).get(name) or missing)
    return source


def by_file(names):
    """{file: [names]} of "file:name"s. by_file(["a.py:f", "a.py:C.g"]) -> {"a.py": ["f", "C.g"]}"""
    found = {}
    for name in names:
        path, _, inner = name.partition(":")
        found.setdefault(path, []).append(inner)
    return found


def files_of(root):
    """The files of the repository: those that git knows, or all but what is made by running it."""
    known = ["git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if os.path.exists(f"{root}/.git"):
        listed = subprocess.run(known, capture_output=True, text=True)
        if listed.returncode == 0:
            return [path for path in listed.stdout.split("\0") if os.path.isfile(f"{root}/{path}")]
    found = []
    for at, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in NO_SOURCE]
        found += [os.path.relpath(os.path.join(at, name), root).replace(os.sep, "/") for name in names]
    return sorted(found)


def copy_files(root, out, left_out=()):
    for path in files_of(root):
        if path not in left_out:
            os.makedirs(os.path.dirname(f"{out}/{path}"), exist_ok=True)
            shutil.copyfile(f"{root}/{path}", f"{out}/{path}")


def cut_sources(assignment, root=ROOT):
    """{file: its source in a handout} of the files that lose something. Pages lose the lines that they
    quote."""
    found, gone = {}, set()
    for path, names in by_file([*assignment.functions, *assignment.hidden, *assignment.plain]).items():
        with open(f"{root}/{path}", encoding="utf-8") as f:
            source = f.read()
        plain = {name: assignment.plain.get(f"{path}:{name}") for name in names}
        hidden = [name for name in names if f"{path}:{name}" in assignment.hidden]
        found[path] = without(source, names, assignment.number, plain, hidden)
        gone |= long_lines(source) - long_lines(found[path])
    for path in files_of(root):
        if path.startswith("docs/") and path.endswith(".md"):
            with open(f"{root}/{path}", encoding="utf-8") as f:
                lines = f.read().split("\n")
            page = "\n".join("..." if line.strip() in gone else line for line in lines)
            if page != "\n".join(lines):
                found[path] = page
    return found


def long_lines(source):
    return {line.strip() for line in source.split("\n") if len(line.strip()) >= SHORTEST}


def is_handout(root):
    """Whether the folder is a handout: it lacks what is the teacher's."""
    return not os.path.exists(f"{root}/{TEACHERS[0]}")


def write_handout(assignments, out, root=ROOT):
    """Copy the repository at `root` to the new folder `out`, without what the assignments ask for."""
    left_out = [path for assignment in assignments for path in assignment.left_out]
    copy_files(root, out, [*TEACHERS, *left_out])
    if is_handout(root):        # it is cut already, and what a student wrote there need not be Python yet
        return
    for assignment in assignments:
        for path, source in cut_sources(assignment, out).items():
            with open(f"{out}/{path}", "w", encoding="utf-8") as f:
                f.write(source)
