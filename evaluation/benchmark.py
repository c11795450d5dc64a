"""The laptop benchmark: tasks that a model of a few minutes can pass or fail.

    who what where      a name or a thing that the story named before, among others of its kind: remembering
    ending              the end of this story, among the end of another and its own beginning: sense
    order               a sentence, and the same with two neighbouring words exchanged
    grammar sense       written by hand (samples/tasks): words of the corpus, in sentences that are not in it

The stories come from the grammars of samples/stories, but with other random numbers than the corpus.
"""
import itertools
import os
import random
import re

from corpus import stories

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# task: the slots of a story that it asks for
GENERATED = {"who": ("hero", "friend"), "what": ("thing", "animal", "food", "fruit"), "where": ("place",),
             "ending": (), "order": ()}
BENCHMARK = [*GENERATED, "grammar", "sense"]
PER_LANGUAGE = 40
WRONG = 3               # wrong choices beside the right one


def languages():
    return sorted(name.removesuffix(".txt") for name in os.listdir(f"{ROOT}/samples/stories"))


def told(line, values):
    """A line of a story with its slots filled in."""
    return re.sub(r"{(.*?)}", lambda m: values[m[1]], line)


def question(task, grammar, space, random_):
    """(context, choices, the right one first) about a story that `random_` draws. Equal choices: there is
    nothing to ask."""
    slots, plots = grammar
    values = {slot: random_.choice(options) for slot, options in slots.items()}
    plot = random_.choice(plots)
    lines = [random_.choice(alternatives) for alternatives in plot]
    if task == "ending":
        other = random_.choice([p for p in plots if p is not plot])
        at, ends = len(lines) - 1, [lines[-1], random_.choice(other[-1]), random_.choice(plot[0])]
        choices = [told(line, values) for line in ends]
    elif task == "order":
        at = random_.randrange(1, len(lines))
        right = told(lines[at], values)
        words = right.split(" ") if space else list(right)          # Chinese: characters
        i = random_.choice([i for i in range(len(words) - 1) if words[i] != words[i + 1]] or [0])
        words[i:i + 2] = words[i:i + 2][::-1]
        choices = [right, space.join(words)]
    else:
        asked = []
        for i, line in enumerate(lines):
            before = "".join(lines[:i])
            asked += [(i, s) for s in GENERATED[task] if f"{{{s}}}" in line and f"{{{s}}}" in before]
        if not asked:
            return "", ["", ""]
        at, slot = random_.choice(asked)
        wrong = random_.sample([option for option in slots[slot] if option != values[slot]], WRONG)
        choices = [told(lines[at], {**values, slot: option}) for option in (values[slot], *wrong)]
    return space.join(told(line, values) for line in lines[:at]), choices


def story_items(task, lang):
    """Items of a generated task in one language, the same on every machine. No item, with its right answer,
    stands in a story of the corpus."""
    with open(f"{ROOT}/samples/stories/{lang}.txt", encoding="utf-8") as f:
        grammar = stories.parse(f.read(), lang)
    corpus = "\n".join(stories.draw(grammar, lang, n) for n in range(stories.PER_LANGUAGE))
    space, found = "" if lang.startswith("zh") else " ", []
    for number in itertools.count(stories.PER_LANGUAGE):
        random_ = random.Random(f"{task} {lang} {number}")
        context, choices = question(task, grammar, space, random_)
        if len(set(choices)) == len(choices) and context + space + choices[0] not in corpus:
            order = random_.sample(range(len(choices)), len(choices))
            mixed = [space + choices[i] for i in order]
            found.append({"lang": lang, "context": context, "choices": mixed, "label": order.index(0)})
        if len(found) == PER_LANGUAGE:
            return found
