"""Simple stories in several languages, drawn from small grammars with a fixed seed. They are the part of the
default corpus that a model of a few minutes can learn to write. samples/stories/en.txt is a grammar; a new
language is one such file.

A grammar has slots, `hero: Mina | Sara`, and plots: lines of alternatives. A slot keeps its value through a
story, so the model must remember who the story is about and what was lost.
"""
import random
import re

PER_LANGUAGE = 1500


def parse(text, name):
    """({slot: [options]}, [plot as [[alternatives of a line]]]) of the grammar in the file `name`."""
    slots, plots = {}, []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        options = [o.strip() for o in line.split("|")]
        if line.strip() == "plot":
            plots.append([])
        elif plots:
            unknown = set(re.findall(r"{(.*?)}", line)) - set(slots)
            if unknown:
                raise ValueError(f"{name}:{number}: no slot named {', '.join(sorted(unknown))}")
            plots[-1].append(options)
        else:
            slot, _, options = line.partition(":")
            slots[slot.strip()] = [o.strip() for o in options.split("|")]
    return slots, plots


def draw(grammar, lang, number):
    """Story `number` of a language: the same on every machine."""
    slots, plots = grammar
    random_ = random.Random(f"{lang} {number}")         # seeded by text: Python hashes it the same everywhere
    values = {slot: random_.choice(options) for slot, options in slots.items()}
    space = "" if lang.startswith("zh") else " "
    story = space.join(random_.choice(line) for line in random_.choice(plots))
    return re.sub(r"{(.*?)}", lambda m: values[m[1]], story)
