"""What a model is asked: items of the papers' tasks (formats.py), of your own, of the laptop benchmark.

    python -m evaluation.tasks piqa=valid.jsonl who     # prints items as the model reads them (first prompt)

A task is FORMAT=PATH or FORMAT.LANG=PATH for a released file (folder, glob), the name of one of ours
(benchmark.py), or a file of items, one JSON object in a line:
    {"context", "choices", "label"}     which choice is likeliest; context may be a list, one for each choice
    {"context", "answer"}               the model writes, up to "stop", the answer, or one of a list of them
    {"context", "target"}               the target's probability, and whether the model would write it
The model reads context + choice to the letter: write the space between them. Results are also given for each
"lang" of the items. Read load_items() first.
"""
import csv
import glob
import json
import os
import pathlib
import random
import re
import sys

import config
from evaluation.benchmark import BENCHMARK, GENERATED, ROOT, languages, story_items
from evaluation.formats import FORMATS, OWN

NO_ITEM = ('it needs "context", and "answer", "target" or two "choices" of which "label" says the right one, '
           'counted from 0. None may be blank')


def as_list(texts):
    return [texts] if isinstance(texts, str) else texts


def kind_of(item):
    return next((kind for kind in ("choices", "answer", "target") if kind in item), None)


# ---- a file to items ----

def raw_records(path):
    """Yield the records of a released file or a generated task; a line of JSON is not parsed yet."""
    if path in GENERATED:
        for language in languages():
            yield from story_items(path, language)
        return
    name, end = os.path.splitext(os.path.basename(path))
    with open(path, encoding="utf-8", newline="") as f:
        if end == ".jsonl":
            yield from f
        elif end == ".tsv":
            yield from csv.DictReader(f, delimiter="\t", quoting=csv.QUOTE_NONE)
        elif end == ".csv":             # MMLU's table has no head, and the name of the file is the subject
            subject = re.sub("_(test|dev|val)$", "", name).replace("_", " ")
            for row in csv.DictReader(f, ("question", "A", "B", "C", "D", "answer")):
                yield {**row, "subject": subject}
        else:
            text = f.read()
            if text.lstrip().startswith("{"):
                document = json.loads(text)
                yield from document.get("Data", [document])         # TriviaQA; RACE has just one
            else:
                yield from ({"text": line} for line in text.splitlines())       # LAMBADA


def fill(record, fields, prompt):
    """An item from a record, the fields that its format found there, and a prompt."""
    before, after = prompt
    item = {key: record[key] for key in ("lang", "subject") if key in record}
    item |= {key: fields[key] for key in ("label", "answer", "stop", "number", "shot") if key in fields}
    fields = {**record, **fields}
    if "choices" in fields:
        each = [{**fields, "choice": choice} for choice in fields["choices"]]
        contexts = [before.format(**f) for f in each]
        item["choices"] = [after.format(**f) for f in each]
        item["context"] = contexts if len(set(contexts)) > 1 else contexts[0]
    else:
        item["context"] = before.format(**fields)
    if "target" in fields:
        item["target"] = after.format(**fields)
    return item


def check_item(item):
    """Stop what is not an item."""
    context, label = item.get("context"), item.get("label")
    answers = as_list(item.get(kind_of(item), []))
    several = "choices" in item and isinstance(context, list)
    contexts = context if several else [context] * len(answers)
    fine = len(contexts) == len(answers) > 0
    others = [item.get("lang") or "", *as_list(item.get("stop", "\n"))]
    fine = fine and all(isinstance(text, str) for text in [*contexts, *answers, *others])
    fine = fine and all(text.strip() for text in answers)
    if "choices" in item:
        fine = fine and type(label) is int and 0 <= label < len(answers) > 1
    if not fine:
        raise ValueError(NO_ITEM)


def items_of(record, form, lang, prompt):
    """The items of one record."""
    fields = record if form is OWN else form.item(record, lang)
    items = fields if isinstance(fields, list) else [fields]
    if form is not OWN:
        items = [fill(record, item, form.prompts[prompt]) for item in items]
    for item in items:
        check_item(item)
    return items


def read_items(path, form, lang, prompt, skip_bad=False):
    """The items of one file or generated task. With `skip_bad` a malformed record is named and left out."""
    file = pathlib.Path(path.removesuffix(".jsonl") + "-labels.lst")        # of PIQA, SIQA and WinoGrande
    labels = file.read_text().split() if file.exists() else None
    found = []
    for n, record in enumerate(raw_records(path), 1):
        where = f"{path}, record {n}"
        try:
            with config.blame(f"{where} is no such item"):
                record = json.loads(record) if isinstance(record, str) else record
                if labels:
                    record = {"label": labels[n - 1], **record}
                items = items_of(record, form, lang, prompt)
        except ValueError as e:
            if not skip_bad:
                raise ValueError(f"{e}; --skip-bad leaves such records out") from e
            print(f"left out: {e}", file=sys.stderr)
        else:
            found += [{"where": where, **item} for item in items]
    return found


# ---- examples before an item ----

def solved(item):
    """An item with its right answer, as it stands before another one."""
    context = item["context"]
    if "choices" in item:
        before = context if isinstance(context, str) else context[item["label"]]
        return before + item["choices"][item["label"]]
    if "answer" in item and "shot" not in item:
        space = "" if context.endswith((" ", "\n")) else " "
        return context + space + as_list(item["answer"])[0]
    return context + item.get("shot", item.get("target"))


def with_examples(items, given, shots, seed, form):
    """The items, each behind the head of its format and `shots` solved ones: the first that are `given`, or,
    where that is None, others of the items, drawn by (seed, number)."""
    most = len(items) - 1 if given is None else len(given)
    if shots > most:
        raise ValueError(f"--shots {shots}: there are {most} examples for {items[0]['where']}; ask for fewer")
    found = []
    for i, item in enumerate(items):
        before = (given or [])[:shots]
        if shots and given is None:
            before = random.Random(f"{seed} {i}").sample(items[:i] + items[i + 1:], shots)
        text = form.head.format(**item) + "".join(solved(e) + form.between for e in before)
        if isinstance(item["context"], str):
            context = text + item["context"]
        else:
            context = [text + one for one in item["context"]]
        found.append({**item, "context": context})
    return found


# ---- a task ----

def parse(spec):
    """(format, language, path) of a task. parse("xcopa.it=a.jsonl") -> (FORMATS["xcopa"], "it", "a.jsonl")"""
    left, equals, path = spec.partition("=")
    if not equals:
        return OWN, "", spec
    name, _, lang = left.partition(".")
    if name not in FORMATS:
        raise ValueError(f"unknown format {name!r}; known: {', '.join(FORMATS)}")
    return FORMATS[name], lang, path


def files(path):
    """Files of the name of a task of ours, a path, a folder, a glob; a generated task is its own name."""
    if path in BENCHMARK:
        return [path if path in GENERATED else f"{ROOT}/samples/tasks/{path}.jsonl"]
    inside = f"{path}/**" if os.path.isdir(path) else path
    found = sorted(f for f in glob.glob(inside, recursive=True) if os.path.isfile(f))
    if not found:
        raise ValueError(f"no task {path!r}: there is no such file, and ours are {', '.join(BENCHMARK)}; "
                         "a released file is FORMAT=PATH")
    return found


def load_items(spec, prompt=0, shots=None, shots_file=None, seed=0, skip_bad=False):
    """(items, prompt as a text, format) of a task with its prompt number `prompt`. Before an item stand
    `shots` others of its file, drawn by the seed, or the first ones of `shots_file`."""
    form, lang, path = parse(spec)
    shots = form.shots if shots is None else shots
    found = []
    for file in files(path):
        items, other, given = read_items(file, form, lang, prompt, skip_bad), shots_file, None
        if form is FORMATS["mmlu"] and not other:       # it has a file of examples for each subject
            other = re.sub("(?<![a-zA-Z])test(?=[/.][^/]*$)", "dev", file)
        if shots and other:
            if os.path.abspath(other) == os.path.abspath(file):
                raise ValueError(f"{file} cannot have the examples of its own items: give --shots-file")
            given = read_items(other, form, lang, prompt, skip_bad)
        if items:
            found += with_examples(items, given, shots, seed, form)
    if len({kind_of(item) for item in found}) != 1:
        raise ValueError(f"{spec} must have items, of one kind")
    return found, "".join(form.prompts[prompt]), form


def main():
    ap = config.Parser(__doc__)
    ap.add_argument("tasks", nargs="+", metavar="TASK")
    for spec in ap.parse_args().tasks:
        for item in load_items(spec)[0]:
            print(json.dumps(item, ensure_ascii=False))


if __name__ == "__main__":
    config.command(main)
