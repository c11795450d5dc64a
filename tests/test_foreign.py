"""Tokenizers of other models. The oracle is the library that reads the same file."""
import base64
import json
import random
import sys

import pytest
import tiktoken
import tokenizers as hf
import transformers
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers as P

import tokenizer as T
from corpus.pieces import train_sentencepiece

TEXTS = [open(f"{ROOT}/samples/{x}.txt", encoding="utf-8").read()[:1500] for x in ("en", "fr", "hi", "ar")]
MORE = ["", " ", "  ", " a", "\n", "a   12 3", " \n 5", "it's I'LL 'ſ", "x\r\n\r\n  y\t\tz", "١٢٣ ²³ Ⅷ 𝟎",
        "e\u0301", "▁a", "👩‍👩‍👧‍👦 🇫🇷", "x" * 3000, " " * 900 + "end", "\x00\x1c\x85\u200b\ufeff",
        "½ €1,000.50!!", "(a|b)[c]\\ ^$"]
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" \
         r"|\s*[\r\n]+|\s+(?!\S)|\s+"
LEVEL = P.ByteLevel(add_prefix_space=False)
NO_REGEX = P.ByteLevel(add_prefix_space=False, use_regex=False)
CUTS = {"neox": LEVEL, "llama3": P.Sequence([P.Split(hf.Regex(LLAMA3), "isolated"), NO_REGEX]),
        "smollm": P.Sequence([P.Digits(individual_digits=True), LEVEL])}
CHARACTERS = st.one_of(st.sampled_from(" '.1234\n\r\t\u00a0abstTmdveLlr²٣\u0301ſ▁"),
                       st.characters(exclude_categories=["Cs"]))
some = settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def write(folder, file, says={}):
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(file))
    (folder / "tokenizer_config.json").write_text(json.dumps(says))


def token(name, i, special=True):
    return {"id": i, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": special}


def byte_level(name):
    """tokenizer.json as a family has it: special tokens last or first, ids with gaps, added spaces."""
    t = hf.Tokenizer(hf.models.BPE())
    t.pre_tokenizer, t.decoder = CUTS[name], hf.decoders.ByteLevel()
    t.train_from_iterator(TEXTS, hf.trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=P.ByteLevel.alphabet(), show_progress=False))
    file = json.loads(t.to_str())
    vocab = file["model"]["vocab"]
    if name == "llama3":
        file["added_tokens"] = [token("<s>", len(vocab)), token("</s>", len(vocab) + 1)]
        file["model"]["ignore_merges"] = True
        file["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
        file["post_processor"] = json.loads(hf.processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", len(vocab))]).__getstate__())
    elif name == "neox":
        file["normalizer"] = {"type": "NFC"}
        added = {"</s>": 0, "<s>": 1, "    ": 8, "  ": 9, " ": 12}
        file["model"]["vocab"] = {e: 3 * i + 7 for e, i in vocab.items()} | added
        file["added_tokens"] = [token(name, i, special=i < 2) for name, i in added.items()]
    else:
        file["model"]["vocab"] = {"<s>": 0, "</s>": 1} | {e: i + 2 for e, i in vocab.items()}
        file["added_tokens"] = [token("<s>", 0), token("</s>", 1, special=False)]
    return file


def llama_family(file):
    """{name: tokenizer.json} made of what transformers 5 saves: the older form, and what people did to it."""
    steps = [{"type": "Prepend", "prepend": "▁"},
             {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    old = file | {"pre_tokenizer": None, "normalizer": {"type": "Sequence", "normalizers": steps}}
    found = {"llama2": old}
    added = [*file["added_tokens"], token("<|im|>", 1000), token("[x]", 1001, False),
             token("  ", 1002, False)]
    for scheme in "first", "always", "never":
        cut = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": scheme == "always"}
        found[scheme] = file | {"pre_tokenizer": cut, "added_tokens": added}
    found["mistral"] = old | {"added_tokens": added}
    merged = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    found["gemma"] = file | {"pre_tokenizer": merged, "normalizer": steps[1], "added_tokens": added}
    model = file["model"]
    late = {piece: 1000 + i for i, piece in enumerate(["▁hellox", "你", "好", "你好", "世"])}
    found["extended"] = old | {"model": model | {"vocab": model["vocab"] | late,
                                                 "merges": [*model["merges"], ["你", "好"]]}}
    shuffled = random.Random(0).sample(model["merges"], len(model["merges"]))
    found["any order"] = file | {"model": model | {"merges": shuffled}}
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """{family: (folder, ours, Hugging Face's)}; "metaspace" is what transformers 5 makes of LLaMA's."""
    base = tmp_path_factory.mktemp("foreign")
    says = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    for name in CUTS:
        write(base / name, byte_level(name), says)
    T.SentencePiece(train_sentencepiece(TEXTS, 1000)).save(base / "model")
    transformers.AutoTokenizer.from_pretrained(base / "model").save_pretrained(base / "metaspace")
    file = json.loads((base / "metaspace/tokenizer.json").read_text(encoding="utf-8"))
    llama_says = json.loads((base / "metaspace/tokenizer_config.json").read_text())
    llamas = llama_family(file)
    for name, made_of_it in llamas.items():
        write(base / name, made_of_it, llama_says)
    found = {}
    for name in [*CUTS, "metaspace", *llamas]:
        theirs = hf.Tokenizer.from_file(f"{base}/{name}/tokenizer.json")
        theirs.no_truncation()
        theirs.encode_special_tokens = True
        found[name] = base / name, T.load(base / name), theirs
    return found


def same(made, text):
    for name, (_, ours, theirs) in made.items():
        ids = ours.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False).ids, (name, text[:80])
        if not ours.lost:
            assert ours.decode(ids) == text, (name, text[:80])


def test_ids_of_samples_are_those_of_hugging_face(made):
    begins = "", " ", "  ", "\n", "\t", "[x]", "a"
    ends = "", "a", " a", "  ", " \n", "[x] a", "  a你好 hellox"
    for text in [*MORE, *TEXTS, *(begin + end for begin in begins for end in ends)]:
        same(made, text)
    assert {name for name, (_, ours, _) in made.items() if not ours.lost} == {"llama3", "smollm"}
    metaspace, llama2 = made["metaspace"][1], made["llama2"][1]
    assert metaspace.encode(" a") == metaspace.encode("a") == llama2.encode("a") != llama2.encode(" a")


@given(st.text(CHARACTERS, max_size=50))
@some
def test_ids_of_any_text_are_those_of_hugging_face(made, text):
    if "s>" not in text:
        same(made, text)


def test_a_text_cannot_spell_a_special_token_and_each_id_has_its_bytes(made):
    for name, (_, ours, theirs) in made.items():
        ids = ours.encode("a</s>b<s>")
        assert ours.decode(ids) == "a</s>b<s>" and not {ours.eos, ours.bos, ours.unk} & {*ids}, name
        assert ours.vocab == 1 + max(theirs.get_vocab().values()) and ours.bytes_of(ours.eos) == b""
        assert [ours.bos, ours.eos] == [theirs.token_to_id(t) for t in ("<s>", "</s>")]
    neox = made["neox"][1]
    assert neox.encode("a    b")[1] == 8 and neox.bytes_of(8) == b"    " and neox.encode("a b")[1] == 12
    assert neox.bytes_of(11) == b"", "no entry has this id"


def test_special_tokens_of_a_prompt_are_those_of_hugging_face(made):
    for name, (folder, ours, _) in made.items():
        theirs = hf.Tokenizer.from_file(f"{folder}/tokenizer.json")
        theirs.no_truncation()
        for special in ours.special_ids:
            for text in "{}", "{}a", " {} a", "a{} {}  b", "{}\n{}[x] ", "[x]{}":
                text = text.replace("{}", special)
                ids = ours.encode(text, special=True)
                assert ids == theirs.encode(text, add_special_tokens=False).ids, (name, text)
                assert ours.special_ids[special] in ids and ours.encode(text) != ids


def test_transformers_begins_a_text_with_the_same_ids(made):
    for name in [*CUTS, "metaspace", "llama2"]:
        folder, ours, _ = made[name]
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        assert ours.prompt + ours.encode("a b") == theirs("a b")["input_ids"], name
        assert (ours.bos, ours.eos, ours.pad) == (theirs.bos_token_id, theirs.eos_token_id, None)
        assert ours.ends == {ours.eos} and ours.begin == (ours.prompt or [ours.eos])
        assert T.load(folder, imported=True).begin == ours.prompt
    assert made["llama3"][1].prompt == [made["llama3"][1].bos] and made["smollm"][1].prompt == []


def test_what_was_read_is_what_is_saved(made, tmp_path):
    prints = {}
    for name, (folder, ours, _) in made.items():
        ours.save(tmp_path / name)
        for path in folder.iterdir():
            assert (tmp_path / name / path.name).read_bytes() == path.read_bytes()
        assert T.fingerprint(T.load(tmp_path / name)) == T.fingerprint(ours)
        prints[name] = T.fingerprint(ours)
    model = T.load(made["llama2"][0].parent / "model")
    assert prints["llama2"] == prints["metaspace"] == T.fingerprint(model), "runs imported earlier open"
    assert len({prints[name] for name in (*CUTS, "llama2", "first", "never", "extended")}) == len(CUTS) + 4


def test_a_json_beside_a_model_counts_as_in_transformers(made, tmp_path):
    model = T.load(made["llama2"][0].parent / "model")
    for name in "llama2", "first":
        write(tmp_path, json.loads((made[name][0] / "tokenizer.json").read_text(encoding="utf-8")),
              {"add_bos_token": False, "bos_token": "<s>"})
        (tmp_path / "tokenizer.model").write_bytes(model.model)
        found = T.load(tmp_path)
        assert isinstance(found, T.Foreign) and found.prompt == [1], "add_bos_token is for tokenizer.model"
        assert found.encode(" a[x]") == made[name][1].encode(" a[x]")
    (tmp_path / "tokenizer.json").unlink()
    assert T.load(tmp_path).prompt == [] and isinstance(T.load(tmp_path), T.SentencePiece)


def test_tokens_that_no_file_of_entries_has_are_refused(made, tmp_path):
    model = T.load(made["llama2"][0].parent / "model")
    model.save(tmp_path)
    (tmp_path / "added_tokens.json").write_text('{"<s>": 1}')
    assert T.load(tmp_path).bos == 1
    (tmp_path / "added_tokens.json").write_text('{"[PAD]": 1000}')
    with pytest.raises(ValueError, match=r"added token '\[PAD\]' is not among"):
        T.load(tmp_path)
    file = json.loads((made["smollm"][0] / "tokenizer.json").read_text(encoding="utf-8"))
    write(tmp_path, file, {"added_tokens_decoder": {"702": token("<x>", 702)}})
    with pytest.raises(ValueError, match="added token '<x>'"):
        T.load(tmp_path)


def test_what_transformers_reads_otherwise_is_said(made, tmp_path):
    """Its LlamaTokenizer builds LLaMA's tokenizers anew, without a second space before a text."""
    for name in "llama2", "metaspace", "smollm":
        folder, ours, _ = made[name]
        same = transformers.AutoTokenizer.from_pretrained(folder).encode(" a", add_special_tokens=False)
        assert (ours.encode(" a") == same) == (name != "llama2")
        assert any("no second one" in line for line in ours.remarks()) == (name == "llama2")
    for name, prefix, as_theirs in (("never", None, False), ("first", False, False), ("never", False, True),
                                    ("gemma", True, False), ("first", True, True)):
        file = json.loads((made[name][0] / "tokenizer.json").read_text(encoding="utf-8"))
        write(tmp_path, file, {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": prefix})
        theirs, ours = transformers.AutoTokenizer.from_pretrained(tmp_path), T.load(tmp_path)
        same = theirs.encode("a b", add_special_tokens=False) == ours.encode("a b")
        said = [line for line in ours.remarks() if "gives other ids: as LlamaTokenizer" in line]
        assert same == as_theirs and len(said) == (not same)


def test_tiktoken_s_format_is_llama_3_s(made, tmp_path):
    ranks = {}
    for entry in [*T.BYTES, b"00", b"000", *(entry for entry in made["llama3"][1].entries if len(entry) > 1)]:
        ranks[entry] = len(ranks)
    lines = [f"{base64.b64encode(entry).decode()} {i}\n" for entry, i in ranks.items()]
    (tmp_path / "tokenizer.model").write_text("".join(lines))
    ours, n = T.load(tmp_path), len(ranks)
    theirs = tiktoken.Encoding("theirs", pat_str=LLAMA3, mergeable_ranks=ranks,
                               special_tokens=ours.special_ids)
    for text in [*MORE, *TEXTS, "<|eot_id|>a", "10000000"]:
        assert ours.encode(text) == theirs.encode_ordinary(text) and ours.decode(ours.encode(text)) == text
        whole = "<|begin_of_text|>" + text + "<|eot_id|>"
        assert ours.encode(whole, special=True) == theirs.encode(whole, allowed_special="all")
    assert [ours.bos, ours.eos, ours.prompt, ours.vocab] == [n, n + 1, [n], n + 256]
    names = {2: "reserved_special_token_0", 7: "end_header_id", 8: "reserved_special_token_4", 9: "eot_id",
             255: "reserved_special_token_250"}
    for i, name in names.items():
        assert ours.special_ids[f"<|{name}|>"] == n + i
    spaces = " " * 1_000_000 + "a"
    assert [*ours.remarks()] == ["its tokenizer.model is read as Llama 3's"]
    assert ours.decode(ours.encode(spaces)) == spaces, "more than tiktoken bears"
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": null}')
    assert T.load(tmp_path).prompt == [] and T.load(tmp_path).begin == [n + 1]
    write(tmp_path, json.loads((made["llama3"][0] / "tokenizer.json").read_text(encoding="utf-8")))
    assert isinstance(T.load(tmp_path), T.Foreign), "tokenizer.json counts"


@pytest.mark.parametrize("path, value, words", [
    ("model.type", "Unigram", "only BPE"), ("model", None, "NoneType"), ("model.merges", [["x", "yz"]], "yz"),
    ("model.end_of_word_suffix", "</w>", "spell"), ("model.ignore_merges", "x", "ignore_merges|bool"),
    ("normalizer", {"type": "Lowercase"}, "Lowercase"), ("pre_tokenizer", {"type": "Whitespace"}, "spell")])
def test_what_is_not_supported_is_refused_in_one_line(made, tmp_path, path, value, words):
    at = file = json.loads((made["smollm"][0] / "tokenizer.json").read_text(encoding="utf-8"))
    *way, last = path.split(".")
    for key in way:
        at = at[key]
    at[last] = value
    write(tmp_path, file)
    with pytest.raises(ValueError, match=f"has no tokenizer that this program can use: .*{words}"):
        T.load(tmp_path)


def test_without_the_library_the_pip_command_is_named(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match="pip install tokenizers"):
        T.load(made["smollm"][0])
    assert T.load(made["llama2"][0].parent / "model").vocab == 1000
