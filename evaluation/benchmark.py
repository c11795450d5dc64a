"""The laptop benchmark: tasks that a model of a few minutes can pass or fail. Read it from Story to
generated_items().

    python evaluate.py runs/bloom-toy --tasks who ending grammar
    python -m evaluation.tasks who              # prints the items

    who what where      a name or a thing that the story named before, among others of its kind: remembering
    ending              the end of this story, among the end of another and its own beginning: sense
    order               a sentence, and the same with two neighbouring words exchanged
    grammar sense       written by hand (samples/tasks): words of the corpus, in sentences that are not in it

The stories come from the grammars of the sample corpus (samples/stories), but with other random numbers.
"""
import functools
import glob
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
    files = glob.glob(f"{ROOT}/samples/stories/*.txt")
    return sorted(os.path.basename(file).removesuffix(".txt") for file in files)


@functools.cache
def story_corpus(lang):
    """(slots, plots, all the stories of the sample corpus as one text)."""
    with open(f"{ROOT}/samples/stories/{lang}.txt", encoding="utf-8") as f:
        slots, plots = stories.parse(f.read(), lang)
    drawn = [stories.draw((slots, plots), lang, n) for n in range(stories.PER_LANGUAGE)]
    return slots, plots, "\n".join(drawn)


class Story:
    """A story drawn by `random`: its `lines`, with slots that are not filled in yet, and their `values`."""
    def __init__(self, slots, plots, lang, random):
        self.slots, self.plots, self.random = slots, plots, random
        self.space = "" if lang.startswith("zh") else " "
        self.values = {slot: random.choice(options) for slot, options in slots.items()}
        self.plot = random.choice(plots)
        self.lines = [random.choice(alternatives) for alternatives in self.plot]

    def told(self, line, **other):
        """A line with its slots filled in, some of them with `other` values."""
        values = {**self.values, **other}
        return re.sub(r"{(.*?)}", lambda m: values[m[1]], line)

    def remembering(self, slots):
        """(number of a line, choices, the right one first): one of `slots` that an earlier line named. None
        if there is none."""
        asked = []
        for i in range(1, len(self.lines)):
            before = "".join(self.lines[:i])
            asked += [(i, s) for s in slots if f"{{{s}}}" in self.lines[i] and f"{{{s}}}" in before]
        if not asked:
            return None
        at, slot = self.random.choice(asked)
        others = [option for option in self.slots[slot] if option != self.values[slot]]
        options = [self.values[slot], *self.random.sample(others, WRONG)]
        return at, [self.told(self.lines[at], **{slot: option}) for option in options]

    def ending(self):
        """As remembering(): this story's end, the end of another one, this one's beginning."""
        another = self.random.choice([plot for plot in self.plots if plot is not self.plot])
        choices = [self.lines[-1], self.random.choice(another[-1]), self.random.choice(self.plot[0])]
        return len(self.lines) - 1, [self.told(line) for line in choices]

    def order(self):
        """As remembering(): a line, and the line with neighbouring words exchanged (Chinese: characters)."""
        at = self.random.randrange(1, len(self.lines))
        line = self.told(self.lines[at])
        words = line.split(" ") if self.space else list(line)
        different = [i for i in range(len(words) - 1) if words[i] != words[i + 1]]
        i = self.random.choice(different or [0])
        exchanged = [*words[:i], *words[i:i + 2][::-1], *words[i + 2:]]
        return at, [line, self.space.join(exchanged)]


def story_items(task, lang):
    """Items of a generated task in one language, the same on every machine. No item, with its right answer,
    stands in a story of the corpus."""
    slots, plots, corpus = story_corpus(lang)
    found, number = [], stories.PER_LANGUAGE
    while len(found) < PER_LANGUAGE:
        story = Story(slots, plots, lang, random.Random(f"{task} {lang} {number}"))
        number += 1
        if task in ("ending", "order"):
            question = getattr(story, task)()
        else:
            question = story.remembering(GENERATED[task])
        if question is None:
            continue
        at, choices = question
        context = story.space.join(map(story.told, story.lines[:at]))
        if len(set(choices)) == len(choices) and context + story.space + choices[0] not in corpus:
            order = story.random.sample(range(len(choices)), len(choices))
            mixed = [story.space + choices[i] for i in order]
            found.append({"lang": lang, "context": context, "choices": mixed, "label": order.index(0)})
    return found


def generated_items(task):
    """Items of a generated task in every language."""
    found = []
    for lang in languages():
        found += story_items(task, lang)
    return found
