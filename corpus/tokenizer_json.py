"""Hugging Face's tokenizer files, read for tiktoken and SentencePiece, which encode here; or refused, where the ids could be others than theirs.

    byte_level(files)        tokenizer.json of BLOOM, Llama 3, SmolLM: {bytes: id} and a regular expression, for tiktoken
    sentencepiece_model(…)   tokenizer.json of LLaMA, Llama 2, TinyLlama: the bytes of a tokenizer.model
    facts(…)                 the ids of bos, eos, unk and pad; the ids that are put before a text

files is {name: bytes} of FILES, as read(folder) finds them. All functions raise ValueError for a file they refuse; a malformed one also raises what
Python makes of it (KeyError, TypeError, ...): tokenizer.load makes one message of all. An entry is a string of the vocabulary: in byte-level files
each of its characters stands for one byte (CHAR); in LLaMA's a space is written U+2581. Read it from vocabulary() to sentencepiece_model().
"""
import functools
import json
import os
import re
import struct

import numpy as np
import regex
import tiktoken

FILES = "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"
MOST_IDS = 4_000_000                                # above every vocabulary: an id of 10 ** 18 would ask for as much memory
ROLES = "unk", "bos", "eos", "pad"
# Names where a folder gives none: BLOOM's, and those of the classes of transformers that have their own
DEFAULT = {None: ("<unk>", "<s>", "</s>", "<pad>"), "LlamaTokenizer": ("<unk>", "<s>", "</s>", None), "GPT2Tokenizer": ("<|endoftext|>",) * 3 + (None,)}

# The printable stand-in of each byte: itself, or the next unused character from U+0100 on.
PRINTABLE = {*range(33, 127), *range(161, 173), *range(174, 256)}
spare = iter(range(256, 512))
CHAR = {b: chr(b if b in PRINTABLE else next(spare)) for b in range(256)}
BYTE = {c: b for b, c in CHAR.items()}

# ByteLevel's own pattern, GPT-2's. Where Digits cuts first, each digit is a piece, no space joins it, and white space before it ends as before
# the end of a text. Digits takes what the Rust standard library calls numeric: newer Unicode than \p{N} has in both regex engines.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
NUMERIC = r"\p{N}\x{11de0}-\x{11de9}\x{16ff4}-\x{16ff6}"
DIGITS = GPT2.replace(r" ?\p{N}+", f"[{NUMERIC}]").replace(r"\p{N}]+", NUMERIC + "]+").replace(r"|\s+(", rf"|\s+(?=[{NUMERIC}])|\s+(", 1)
# What Hugging Face's engine (Oniguruma) and tiktoken's (fancy-regex) read alike. Not here: ^ and $, nested or subtracted classes, {n}+ and {n}?,
# back references, and (?i) of letters that a ligature could stand for.
SAFE = re.compile(r"""(?x: \\[pP]\{[A-Z][a-z]?\} | \\[sSdrnt] | \\[!-/:-@\[-`{-~] | \(\?!\\S\)(?![?*+{]) | \((?:\?:|(?!\?)) | [)|]
    | \(\?i: (?![^)]*(?:ss|ff|fi|fl|st)) [a-z'|]+ \) | \{\d{1,3}(?:,\d{0,3})?\}(?![?*+{]) | [?*+]
    | \[ \^? (?: \\[pP]\{[A-Z][a-z]?\} | \\[sSdrnt] | \\[!-/:-@\[-`{-~] | (?!&&|--|~~|\|\|)[^\[\]\\^] )+ \] | [^\\\[\](){}.^$|?*+] )*\Z""")


def read(folder):
    files = {}
    for name in FILES:
        if os.path.isfile(os.path.join(folder, name)):
            with open(os.path.join(folder, name), "rb") as f:
                files[name] = f.read()
    return files


def write(folder, files):
    os.makedirs(folder, exist_ok=True)
    for name, data in files.items():
        with open(os.path.join(folder, name), "wb") as f:
            f.write(data)


def parse(files, name):
    """The JSON object in a file; an empty one if the file is not there."""
    try:
        value = json.loads(files.get(name, b"{}"))
    except (ValueError, RecursionError) as e:
        raise ValueError(f"{name} is not JSON: {e}") from e
    if not isinstance(value, dict):
        raise ValueError(f"{name} is not a JSON object")
    return value


def is_byte_level(files):
    model = parse(files, "tokenizer.json")["model"]
    if model.get("type") != "BPE":
        raise ValueError(f"its model is {model.get('type')}, not BPE")
    for key in "dropout", "continuing_subword_prefix", "end_of_word_suffix":
        if model.get(key):
            raise ValueError(f"its model has {key} = {model[key]!r}, which this program has not")
    return not model.get("byte_fallback")


def vocabulary(file):
    """({entry: id} without the added tokens, {added token: (id, special)}), checked. The ids of added tokens are Hugging Face's own count."""
    vocab, added = dict(file["model"]["vocab"]), {}
    whole, top = len(vocab), -1
    for token in file.get("added_tokens") or []:
        name, i, special = token["content"], token["id"], token["special"]
        theirs = file["model"]["vocab"].get(name, top + 1 if top >= whole else whole)
        if not name or name in added or i != theirs:
            raise ValueError(f"its added token {name!r} has the id {i!r}; Hugging Face would take {theirs!r}")
        if not special and not re.fullmatch(r"(?s)<.*>|\[.*\]", name):
            raise ValueError(f"its added token {name!r} is ordinary text, which Hugging Face would cut out before any merge")
        vocab.pop(name, None)
        added[name], top = (i, special), max(top, i)
    ids = [*vocab.values(), *(i for i, _ in added.values())]
    if "" in vocab:
        raise ValueError("one of its entries is empty")
    wrong = [i for i in ids if type(i) is not int or not 0 <= i < MOST_IDS]
    if wrong or len(set(ids)) < len(ids):
        raise ValueError(f"its id {wrong[0]!r} is not a number from 0 to {MOST_IDS}" if wrong else "two of its entries have the same id")
    return vocab, added


def pairs(file):
    for merge in file["model"]["merges"]:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise ValueError(f"its merge {merge!r} is not of two parts")
        yield tuple(pair)


def ages(vocab, merges, units, whole):
    """{entry: age}: the units, then what merges make, in order. Refuses a list of merges that the encoders would not follow.

    Hugging Face joins neighbours that are listed, the first of the list first. tiktoken and SentencePiece join neighbours whose text is an entry,
    the oldest entry first. What decides is that an entry's text, alone or inside another, goes through the same states as long as nothing is joined
    across its borders. So of the pairs that make an entry only one ever stands there to be joined; the others never meet. Hence both agree if
    for each entry that pair is listed, or there is none. whole: an entry that is a whole piece is taken at once, without merges, by both
    (ignore_merges); None: by neither (SentencePiece); False: by tiktoken alone, so that merges have to reach each entry.
    """
    age, left, right, joined, listed, last = {u: n for n, u in enumerate(units)}, {}, {}, {}, {}, None
    made = lambda n: n < len(units) or n in left

    def meet(a, b):
        """Whether a and b, entries by age, come to be neighbours: undo the younger one, the later merge, and see that none was due across the border."""
        limit = float("inf")
        while joined.get((a, b), limit) >= limit:
            if max(a, b) < len(units):
                return True
            if a > b:
                limit, a = a, right[a]
            else:                                   # of two equal merges the left one is made first
                limit, b = b + 1, left[b]
        return False
    for l, r in merges:
        entry = l + r
        if not {l, r, entry} <= vocab.keys() or (l, r) in listed:
            raise ValueError(f"its merge of {l!r} and {r!r} is {'there twice' if (l, r) in listed else 'not of entries into an entry'}")
        if entry != last and entry in age and age[entry] not in left:
            raise ValueError(f"its merges make {entry!r} in two places of their order")
        n, last = age.setdefault(entry, len(age)), entry
        a, b = age.get(l, n), age.get(r, n)
        listed[l, r] = max(a, b) < n                # some converters also list parts that are made later than the whole
        if listed[l, r] and n not in left and made(a) and made(b) and meet(a, b):
            left[n], right[n], joined[a, b] = a, b, n
    for entry in vocab:
        if len(entry) > 1 and age.get(entry) not in left:
            if whole is False:
                raise ValueError(f"its entry {entry!r} is reached by no merges")
            for cut in range(1, len(entry)):
                l, r = entry[:cut], entry[cut:]
                a, b = age.get(l), age.get(r)
                if a is not None and b is not None and not listed.get((l, r)) and made(a) and made(b) and meet(a, b):
                    raise ValueError(f"its entry {entry!r} would be joined of {l!r} and {r!r}, which no merge says in time")
    return age


def pattern(file):
    """The regular expression of the pieces, as the file has it or as its steps amount to."""
    before = file.get("pre_tokenizer") or {}
    steps = before.get("pretokenizers", [before])
    kinds, last = [s.get("type") for s in steps], steps[-1]
    if file.get("normalizer"):
        raise ValueError(f"it normalises the text ({file['normalizer'].get('type')}), so that a text could not come back as it was")
    if last.get("type") == "ByteLevel" and last.get("add_prefix_space", True):
        raise ValueError("its pre-tokenizer ByteLevel has add_prefix_space, so that a text could not come back as it was")
    if kinds == ["ByteLevel"] and last.get("use_regex", True):
        return GPT2
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and last.get("use_regex", True):
        return DIGITS
    if kinds == ["Split", "ByteLevel"] and not last.get("use_regex", True) and steps[0]["behavior"] == "Isolated" and not steps[0].get("invert") \
            and isinstance(steps[0]["pattern"].get("Regex"), str):
        return steps[0]["pattern"]["Regex"]
    raise ValueError(f"it cuts the text into pieces by {' and '.join(map(str, kinds))} with settings that this program has not")


def total(own):
    """A regular expression that also takes what lies between two matches of `own`, as one piece: tiktoken would drop it."""
    if own in (GPT2, DIGITS):
        return own
    if len(own) > 10_000 or not SAFE.match(own):
        raise ValueError(f"its regular expression {own!r:.60} has parts that two regex engines may read differently")
    if re.match(re.sub(r"\\[pP]\{\w+\}", "x", own), ""):
        raise ValueError(f"its regular expression {own!r:.60} matches the empty text")
    return rf"{own}|(?:(?!{own})[\s\S])+"


@functools.lru_cache(2)
def spelled_out(pattern):
    """`pattern` for a third engine, which bears a piece of any length, with each class written as the characters that tiktoken's has in it."""
    every = "".join(chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000)

    @functools.cache
    def members(name):
        engine = tiktoken.Encoding("class", pat_str=name, mergeable_ranks={bytes([b]): b for b in range(256)}, special_tokens={})
        of = np.frombuffer(bytes(engine.encode_ordinary(every)).decode().encode("utf-32-le"), np.uint32)
        first, last = of[np.r_[True, np.diff(of) > 1]], of[np.r_[np.diff(of) > 1, True]]
        return "[" + "".join(rf"\U{a:08x}-\U{b:08x}" for a, b in zip(first, last)) + "]"
    braces = re.sub(r"\\x\{(\w+)\}", lambda x: chr(int(x[1], 16)), pattern)
    return regex.compile(re.sub(r"\\[pP]\{\w+\}|\\[sSd]", lambda found: members(found[0]), braces), regex.V1)


def byte_level(files):
    """({bytes: id}, {id: bytes to show} of added tokens, {name: id} of added tokens, regular expression) of a byte-level BPE tokenizer.json."""
    file = parse(files, "tokenizer.json")
    vocab, added = vocabulary(file)
    if any(c not in vocab for c in BYTE):
        raise ValueError("its vocabulary lacks some of the 256 bytes")
    age = ages(vocab, pairs(file), list(BYTE), bool(file["model"].get("ignore_merges")))
    lost = next((e for e in vocab if len(e) == 1 and e not in BYTE or not set(e) <= BYTE.keys()), None)
    if lost is not None:
        raise ValueError(f"its entry {lost!r} is neither bytes nor an added token")
    made = [vocab[e] for e in age if len(e) > 1]
    if made != sorted(made):
        raise ValueError("the order of its merges is not the order of their ids")
    shown = {i: b"" if special else name.encode() for name, (i, special) in added.items()}
    return {bytes(BYTE[c] for c in e): i for e, i in vocab.items()}, shown, {name: i for name, (i, _) in added.items()}, pattern(file)


def prompt(file):
    """The ids that the post-processor of a tokenizer.json puts before a text. Where there is one, transformers ignores add_bos_token."""
    after = file.get("post_processor") or {"type": "ByteLevel"}
    steps = [s for s in after.get("processors", [after]) if s["type"] != "ByteLevel"]
    if not steps:
        return []
    if [s["type"] for s in steps] != ["TemplateProcessing"]:
        raise ValueError(f"its post-processor is {' and '.join(s['type'] for s in steps)}, not TemplateProcessing")
    *before, text = steps[0]["single"]
    if text.get("Sequence", {}).get("id") != "A":
        raise ValueError("its post-processor puts something after a text")
    return [i for part in before for i in steps[0]["special_tokens"][part["SpecialToken"]["id"]]["ids"]]


def facts(files, ids, vocab, own):
    """{"bos": id or None, ..., "prompt": [id], "ends": {id}}. ids: {special token: id}. own: ids by role of a tokenizer.model, where the files name none.

    special_tokens_map.json counts where transformers reads it, without added_tokens_decoder. A tokenizer.model alone begins a text with bos, as Meta's
    code does, unless add_bos_token is false.
    """
    said = parse(files, "tokenizer_config.json")
    if "added_tokens_decoder" not in said:
        said = said | parse(files, "special_tokens_map.json")
    kind = str(said.get("tokenizer_class")).removesuffix("Fast") if any(f"{role}_token" in said for role in ROLES) else None
    found = {}
    for role, default in zip(ROLES, DEFAULT.get(kind, (None,) * 4)):
        token = said.get(f"{role}_token", default if default in ids else None)
        name = token["content"] if isinstance(token, dict) else token
        if name and name not in ids:
            raise ValueError(f"{role}_token is {name!r}, which is no special token of the vocabulary")
        found[role] = ids[name] if name else own.get(role)
    before = [found["bos"]] * bool(said.get("add_bos_token", True) and found["bos"] is not None)
    if "tokenizer.json" in files:
        before = prompt(parse(files, "tokenizer.json"))
    if any(type(i) is not int or not 0 <= i < vocab for i in before):
        raise ValueError(f"its post-processor puts {before} before a text, which are no ids of its vocabulary")
    return found | {"prompt": before, "ends": {found["eos"]} - {None}}


def field(number, value):
    """One field of a protobuf message: an int as varint, a float as four bytes, the rest with its length before it."""
    def varint(n):
        return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def sentencepiece_model(file):
    """The bytes of a tokenizer.model that encodes as a LLaMA tokenizer.json does (ModelProto of sentencepiece_model.proto): older is a higher score.

    One text differs: Metaspace gives " a" the ids of "a". A model made here keeps that space, as every tokenizer.model does, so that it comes back.
    """
    vocab, added = vocabulary(file)
    model, normal, before = file["model"], file.get("normalizer") or {}, file.get("pre_tokenizer") or {}
    steps = normal.get("normalizers", [normal] if normal else [])
    if [s["type"] for s in steps] in (["Prepend", "Replace"], ["Replace"]) and not before:
        space = len(steps) == 2
        plain = steps[-1]["pattern"] == {"String": " "} and {s.get("prepend", s.get("content")) for s in steps} == {"\u2581"}
    else:
        space = before.get("prepend_scheme") in ("first", "always")
        plain = not normal and before.get("type") == "Metaspace" and before["replacement"] == "\u2581" and before.get("split") is False \
            and before.get("prepend_scheme") in ("first", "always", "never")
    if not plain:
        raise ValueError("it normalises the text or cuts it into pieces otherwise than LLaMA's")
    if model.get("ignore_merges") or not all(special for _, special in added.values()):
        raise ValueError("it ignores merges, or has added tokens that are not special: SentencePiece would not do the same")
    codes, names = {f"<0x{b:02X}>" for b in range(256)}, {i: e for e, i in vocab.items()} | {i: name for name, (i, _) in added.items()}
    unk = model.get("unk_token") or min(added, key=lambda name: added[name][0], default=None)      # SentencePiece must have one; the bytes leave it no use
    if codes - vocab.keys() or unk not in names.values() or sorted(names) != list(range(len(names))):
        raise ValueError("its vocabulary lacks some of the 256 bytes, or an unknown token, or some id")
    pieces = {e: i for e, i in vocab.items() if e not in codes and e != unk}
    age = ages(pieces, pairs(file), sorted(set("".join(pieces))), None)
    kind = lambda e: 2 if e == unk else 6 if e in codes else 3 if e in added else 1         # unknown, byte, control, normal
    return b"".join(field(1, field(1, e.encode()) + field(2, -float(age.get(e, len(age)))) + field(3, kind(e))) for _, e in sorted(names.items())) \
        + field(2, field(3, 2) + field(35, 1)) \
        + field(3, field(1, b"identity") + field(3, int(space)) + field(4, 0) + field(5, 1))                # BPE, byte fallback; dummy prefix, spaces kept
