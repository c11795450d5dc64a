"""What a model is asked: items of the papers' tasks (formats.py), of tasks of your own, of the laptop
benchmark (benchmark.py).

    python evaluate.py runs/NAME --tasks piqa=valid.jsonl who mine.jsonl        # scores them
    python -m evaluation.tasks piqa=valid.jsonl         # prints them as the model reads them (first prompt)

A task is  FORMAT=PATH  or  FORMAT.LANG=PATH  for a released file (folder, glob), the name of one of ours, or
a file of items, one JSON object in a line:
    {"context", "choices", "label"}     which choice is likeliest; context may be a list, one for each choice
    {"context", "answer"}               the model writes, up to "stop", the answer, or one of a list of them
    {"context", "target"}               the target's probability, and whether the model would write it
    {"text"}                            the text's probability: perplexity and bits per byte
The model reads context + choice to the letter: write the space between them where there is one. Results are
also given for each "lang", if items have one. A shot is a solved example that stands before an item. Read
load_items() first.
"""
import csv
import difflib
import glob
import json
import os
import random
import re

import config
from evaluation.benchmark import BENCHMARK, GENERATED, ROOT, generated_items
from evaluation.formats import FORMATS, LINKS, OWN, copa

KINDS = ("choices", "answer", "target", "text")
# fields of a record that an item of a kind keeps
KEPT = {"choices": ("lang", "subject", "label"), "answer": ("lang", "answer", "stop", "number"),
        "target": ("lang",)}


# ---- a file to records ----

def table_rows(table):
    """Yield (line, row) of a csv reader."""
    try:
        for row in table:
            yield table.line_num, row       # a row may have several lines
    except csv.Error as e:
        raise ValueError(f"line {table.line_num}: {e}") from e


def raw_records(path):
    """Yield (line, raw record) of a released file: a row of a table, a line of JSON, a part of a document."""
    end = os.path.splitext(path)[1]
    with open(path, encoding="utf-8", newline="") as f, config.blame(path):
        if end == ".tsv":
            yield from table_rows(csv.DictReader(f, delimiter="\t", quoting=csv.QUOTE_NONE))
        elif end == ".csv":
            yield from table_rows(csv.reader(f))
        elif end == ".jsonl":
            yield from enumerate(f, 1)
        else:
            text = f.read()
            if text.lstrip().startswith("{"):
                document = json.loads(text)
                yield from enumerate(document.get("Data", [document]), 1)       # TriviaQA; RACE has just one
            else:
                yield from enumerate(({"text": line} for line in text.splitlines()), 1)     # LAMBADA


def separate_labels(path):
    """PIQA, SIQA and WinoGrande keep the labels in a file of their own, a line each; else None."""
    labels = path.removesuffix(".jsonl") + "-labels.lst"
    if not os.path.exists(labels):
        return None
    with open(labels, encoding="utf-8") as f:
        return f.read().split()


def record_of(raw, path):
    """A raw record as a dictionary."""
    if isinstance(raw, str):
        return json.loads(raw)
    if isinstance(raw, list):           # MMLU's table has no head, and the name of the file is the subject
        subject = re.sub("_(test|dev|val)$", "", os.path.splitext(os.path.basename(path))[0])
        columns = zip(("question", "A", "B", "C", "D", "answer"), raw, strict=True)
        return {**dict(columns), "subject": subject.replace("_", " ")}
    return raw


# ---- a record to items ----

def as_list(texts):
    """One text or several, as a list."""
    return [texts] if isinstance(texts, str) else texts


def is_texts(texts):
    return isinstance(texts, (list, tuple)) and bool(texts) and all(isinstance(text, str) for text in texts)


def kind_of(item):
    return next((kind for kind in KINDS if kind in item), None)


def check_item(item):
    """Stop what is not an item, saying what is wrong; returns it."""
    kind = kind_of(item)
    if kind is None or kind != "text" and "context" not in item:
        raise ValueError('it needs "context" and one of "choices", "answer", "target"; or "text"')
    context, answers = item.get("context", ""), as_list(item[kind])
    if not is_texts(answers) or not all(map(str.strip, answers)) or not is_texts(as_list(context)):
        raise ValueError(f'"context" must be text and "{kind}" text that is not blank')
    if not is_texts(as_list(item.get("stop", ""))) or not isinstance(item.get("lang", ""), str):
        raise ValueError('"lang" must be text, and "stop" text or a list of texts')
    if isinstance(context, list) and (kind != "choices" or len(context) != len(answers)):
        raise ValueError('a list as "context" must have one text for each of the "choices"')
    if kind == "choices":
        label, n = item.get("label"), len(answers)
        if n < 2 or type(label) is not int or not 0 <= label < n:
            raise ValueError('"label" must be the number of one of at least two "choices", counted from 0; '
                             f"it is {label!r} of {n}")
    return item


def fill(fields, prompt):
    """An item from the fields of a record and a prompt's two templates."""
    before, after = prompt
    kind = kind_of(fields)
    item = {key: fields[key] for key in KEPT[kind] if key in fields}
    if kind == "choices":
        each = [{**fields, "choice": choice} for choice in fields["choices"]]
        contexts = [before.format(**f) for f in each]
        item["choices"] = [after.format(**f) for f in each]
        item["context"] = contexts if len(set(contexts)) > 1 else contexts[0]
    else:
        item["context"] = before.format(**fields)
    if kind == "target":
        item["target"] = after.format(**fields)
    if "shot" in fields:                # as an example it has the whole solution
        item["shot"] = " " + fields["shot"]
    return item


def items_of(record, form, lang, prompt):
    """The items of one record with the format's prompt number `prompt`."""
    fields = form.item(record, lang)
    several = fields if isinstance(fields, list) else [fields]
    templates = form.prompts[prompt]
    if templates is None:
        return [check_item(dict(one)) for one in several]
    return [check_item(fill({**record, **one}, templates)) for one in several]


def read_items(path, form, lang, prompt, skip_bad):
    """(items of one file or generated task, how many records were left out as malformed)."""
    if path in GENERATED and not os.path.exists(path):
        return [{"where": f"{path}, item {n}", **item} for n, item in enumerate(generated_items(path), 1)], 0
    found, bad, labels = [], 0, separate_labels(path)
    for n, raw in raw_records(path):
        where = f"{path}, line {n}"
        try:
            with config.blame(f"{where} is no such item"):
                record = record_of(raw, path)
                if labels:
                    record = {"label": labels[n - 1], **record}
                found += [{"where": where, **item} for item in items_of(record, form, lang, prompt)]
        except ValueError as e:
            if not skip_bad:
                raise ValueError(f"{e}. --skip-bad leaves such lines out and counts them") from e
            bad += 1
    return found, bad


# ---- examples before an item ----

def solved(item):
    """An item with its right answer, as it stands before another one."""
    context = item["context"]
    if isinstance(context, list):
        context = context[item["label"]]
    if "choices" in item:
        return context + item["choices"][item["label"]]
    if "shot" in item or "target" in item:
        return context + item.get("shot", item.get("target"))
    space = "" if context.endswith((" ", "\n")) else " "
    return context + space + as_list(item["answer"])[0]


def pool(file, form, lang, prompt, shots_file, skip_bad):
    """The items that may be examples for those of `file`: of `shots_file`, or of the file that MMLU has for
    each subject. None: the other items of the file itself."""
    if not shots_file and form is FORMATS["mmlu"]:
        shots_file = file.replace(f"{os.sep}test{os.sep}", f"{os.sep}dev{os.sep}")
        shots_file = shots_file.replace("_test.csv", "_dev.csv")
    if not shots_file:
        return None
    if not os.path.exists(shots_file):
        raise ValueError(f"the examples of {file} should be in {shots_file}: it is not there; "
                         "give --shots-file, or --shots 0")
    if shots_file == file:
        raise ValueError(f"{file} holds its own examples: an item would have its answer before it; "
                         "give another --shots-file")
    return read_items(shots_file, form, lang, prompt, skip_bad)[0]


def check_shots(shots, items, given, file):
    """Stop where there are fewer examples than `shots`: `given` ones, or the other `items`."""
    if "text" in map(kind_of, [*items, *(given or ())]):
        raise ValueError("a text has no answer: it is no example, and has none before it; use --shots 0")
    most = len(items) - 1 if given is None else len(given)
    if shots > most:
        raise ValueError(f"--shots {shots}: {file} has {len(items if given is None else given)} items; "
                         "ask for fewer")


def examples(i, items, given, shots, seed):
    """The `shots` examples of item `i`: the first ones `given`, or others of `items`, drawn by (seed, i)."""
    if given is not None:
        return given[:shots]
    drawn = random.Random(f"{seed} {i}").sample(range(len(items) - 1), shots)
    return [items[j + 1 if j >= i else j] for j in drawn]           # item i itself is not counted


def with_examples(item, before, form):
    """An item behind the head of its format and the solved items `before`."""
    if kind_of(item) == "text":
        return item
    text = form.head.format(**item) + "".join(solved(e) + form.between for e in before)
    if isinstance(item["context"], str):
        return {**item, "context": text + item["context"]}
    return {**item, "context": [text + context for context in item["context"]]}


# ---- a task ----

def parse(spec):
    """(format, language, path) of a task. parse("xcopa.it=a.jsonl") -> (FORMATS["xcopa"], "it", "a.jsonl")"""
    left, equals, path = spec.partition("=")
    if not equals:
        return OWN, "", spec
    name, _, lang = left.partition(".")
    form = FORMATS.get(name)
    if form is None or form.item is copa and lang and lang not in LINKS:
        raise ValueError(f"unknown format {left!r}; known: {', '.join(FORMATS)}; "
                         f"copa and xcopa in {', '.join(LINKS)}")
    return form, lang, path


def files(path):
    """Files of a path, a folder, a glob, or the name of a task of ours; a generated task is its own name."""
    if path in BENCHMARK and not os.path.exists(path):
        return [path if path in GENERATED else f"{ROOT}/samples/tasks/{path}.jsonl"]
    inside = f"{path}/**" if os.path.isdir(path) else path
    found = sorted(f for f in glob.glob(inside, recursive=True) if os.path.isfile(f))
    if not found:
        near = difflib.get_close_matches(path, BENCHMARK, 1)
        if near:
            raise ValueError(f"no task {path!r}, did you mean {near[0]!r}?")
        raise ValueError(f"no task {path!r}: there is no such file, and ours are {', '.join(BENCHMARK)}; "
                         "a released file is FORMAT=PATH")
    return found


def load_items(spec, prompt=0, shots=None, shots_file=None, seed=0, skip_bad=False):
    """(items, how many were left out, format) of a task with its prompt number `prompt`. Before an item
    stand `shots` others of its file, drawn by the seed, or the first ones of `shots_file`."""
    form, lang, path = parse(spec)
    shots = form.shots if shots is None else shots
    everything, left_out = [], 0
    for file in files(path):
        items, bad = read_items(file, form, lang, prompt, skip_bad)
        given = None
        if shots:
            given = pool(file, form, lang, prompt, shots_file, skip_bad)
            check_shots(shots, items, given, shots_file or file)
        for i, item in enumerate(items):
            everything.append(with_examples(item, examples(i, items, given, shots, seed), form))
        left_out += bad
    return everything, left_out, form


def main():
    ap = config.Parser(__doc__)
    ap.add_argument("tasks", nargs="+", metavar="TASK")
    for spec in ap.parse_args().tasks:
        for item in load_items(spec)[0]:
            print(json.dumps(item, ensure_ascii=False))


if __name__ == "__main__":
    config.command(main)
