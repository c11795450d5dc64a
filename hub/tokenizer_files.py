"""The tokenizer's files of an exported folder: others get the ids that ours gives, and begin a text as ours.

transformers reads tokenizer.json alone. tokenizer.model is beside it for the programs that know LLaMA by it.
"""
import itertools
import json

from tokenizer import BPE, SentencePiece
from vocabulary import ROLES, json_bytes

FILE, CONFIG, MAP = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
TO_SIGN = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
TO_SPACE = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}


def first_id(tokenizer):
    """The one id that begins a text, or None: GGUF has room for one."""
    if len(tokenizer.begin) > 1:
        raise ValueError(f"its texts begin with the ids {tokenizer.begin}; only one id can be written")
    return tokenizer.begin[0] if tokenizer.begin else None


def name_of(tokenizer, i):
    """The name of special token i."""
    names = [name for name, number in tokenizer.special_ids.items() if number == i]
    return names[0] if names else None


# ---- SentencePiece ----

def normal_ids(tokenizer):
    """The ids that are neither special nor bytes."""
    special = {*tokenizer.special_ids.values()}
    return [i for i in range(tokenizer.vocab) if i not in special and not tokenizer.sp.is_byte(i)]


def is_plain(tokenizer):
    """Whether it is SentencePiece's BPE as LLaMA has it. Nothing is lost. The scores of the pieces are 0, -1,
    -2 and so on, which is the order in which pieces are joined; pieces that a user defined have others."""
    lost = {*itertools.chain(*tokenizer.lost.values())} - {"\u2581"}
    if type(tokenizer) is not SentencePiece or lost:
        return False
    sp, normal = tokenizer.sp, normal_ids(tokenizer)
    in_order = [sp.get_score(i) for i in normal] == [-k for k in range(len(normal))]
    return in_order and not any(sp.is_unused(i) for i in normal)


def merges_of(pieces):
    """SentencePiece joins two neighbours if both together are a piece, the earliest piece first. Hugging Face
    needs the list of such neighbours. merges_of(["ab", "aba", "a", "b"]) -> [("a", "b"), ("ab", "a")]"""
    known = {*pieces}
    merges = []
    for piece in pieces:
        for cut in range(1, len(piece)):
            if piece[:cut] in known and piece[cut:] in known:
                merges.append((piece[:cut], piece[cut:]))
    return merges


def of_sentencepiece(tokenizer):
    """tokenizer.json of a SentencePiece model that is_plain(). One difference stays: U+2581 in a text is
    three bytes in ours, and a space in the file's."""
    sp, space = tokenizer.sp, tokenizer.space
    before = [{"type": "Prepend", "prepend": "\u2581"}] if space else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if space else []
    decoders = [TO_SPACE, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": name, **FLAGS} for name, i in tokenizer.special_ids.items()],
        "normalizer": {"type": "Sequence", "normalizers": [*before, TO_SIGN]},
        "pre_tokenizer": None, "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {"type": "BPE", "dropout": None, "unk_token": sp.id_to_piece(sp.unk_id()),
                  "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True,
                  "byte_fallback": True, "ignore_merges": False, "vocab": tokenizer.ids,
                  "merges": merges_of([sp.id_to_piece(i) for i in normal_ids(tokenizer)])}}


# ---- the folder ----

def put_before(name, i):
    """The post_processor of a tokenizer.json that puts special token `name`, whose id is i, before a text."""
    one, two = ([{"SpecialToken": {"id": name, "type_id": n}}, {"Sequence": {"id": text, "type_id": n}}]
                for n, text in enumerate("AB"))
    return {"type": "TemplateProcessing", "single": one, "pair": [*one, *two],
            "special_tokens": {name: {"id": name, "ids": [i], "tokens": [name]}}}


def own_config(tokenizer, first, template):
    """{name: bytes}. This class reads tokenizer.json as it is. transformers' LlamaTokenizer would cut a text
    that begins with a space in its own way."""
    ids = {role: getattr(tokenizer, role) for role in ROLES}
    if first is not None:
        ids["bos"] = first
    names = {f"{role}_token": name_of(tokenizer, i) for role, i in ids.items() if i is not None}
    says = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
            "add_bos_token": first is not None, **names}
    if template:
        says["chat_template"] = template
    return {CONFIG: json_bytes(says), MAP: json_bytes(names)}


def files_of(tokenizer):
    """{name: bytes}. The files of an imported model stay as they are, if tokenizer.json is there. Those of a
    run of ours are written so that a text begins as in `begin`, whatever tokenizer its data was made with."""
    files = dict(tokenizer.files or tokenizer.own_files())
    ours = type(tokenizer) is BPE or is_plain(tokenizer)
    stays = tokenizer.imported or not ours and (tokenizer.prompt or tokenizer.after_end)
    if stays if FILE in files else not ours:
        return files
    file = json.loads(files[FILE]) if FILE in files else of_sentencepiece(tokenizer)
    first, after = first_id(tokenizer), file.get("post_processor")
    if first is not None:
        before = put_before(name_of(tokenizer, first), first)
        file["post_processor"] = before
        if after and not ours:
            file["post_processor"] = {"type": "Sequence", "processors": [after, before]}
    says = json.loads(files.get(CONFIG, b"{}"))
    if ours:
        return files | {FILE: json_bytes(file)} | own_config(tokenizer, first, says.get("chat_template"))
    for key in "add_bos_token", "add_eos_token":    # else transformers writes the post_processor anew
        says.pop(key, None)
    return files | {FILE: json_bytes(file), CONFIG: json_bytes(says)}
