import codecs
import glob
import io
import json
import os
import pathlib
import random
import re

import pytest
import sentencepiece
import tokenizers as hf
import transformers
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tokenizer as T
import vocabulary
from corpus import bpe, pieces
from corpus.pieces import count_pieces, train_tokenizer
from hub import tokenizer_files

SCRIPTS = [
    "Hello, world!  Two", "naïve café — “quotes” …", "Привет, мир", "你好，世界。", "こんにちは",
    "नमस्ते दुनिया।", "مرحبا، كيف الحال؟", "שלום", "สวัสดี", "안녕하세요", "👩‍👩‍👧‍👦 🇫🇷 🦙",
    "e\u0301 a\u0308", "\u0301",
    "\x00\x01\x7f\x1c\x1f", "\u200b\ufeff\u202e", "\t\tif x:\r\n    y = 1\n", " ", "  ", "\n", "", "a  b",
    " a", "\u2581", "\u2581\u2581 a \u2581", " \u2581", "\ue000\ue001\u2581\ue000", "<s></s><unk><pad><0x0A>",
    "12345 67", "x" * 3000, " " * 60_000 + "end"]
CHARACTERS = st.characters(exclude_categories=["Cs"])
SIGNS = st.sampled_from(" .,!?…。，、।۔()|\u00a0\u2028\n\tab")
many = settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def texts():
    """Samples and code without special tokens, which Hugging Face would read as such."""
    paths = sorted(glob.glob(f"{ROOT}/samples/*.txt") + glob.glob(f"{ROOT}/*.py"))
    found = [pathlib.Path(path).read_text("utf-8") for path in paths]
    return [text for text in found if "s>" not in text]


@pytest.fixture(scope="module")
def trained(texts):
    return {kind: train_tokenizer(kind, texts, 1500) for kind in T.KINDS}


@pytest.fixture(scope="module", params=T.KINDS)
def tokenizer(request, trained):
    return trained[request.param]


# ---- training ----

def test_bpe_by_hand():
    for train in T.merge_most_frequent, bpe.train_bpe:
        assert train({"low": 5, "lot": 2}, 262) == [(b"l", b"o"), (b"lo", b"w")], "both docstrings"
        assert train({"aaa": 1, " aaa": 1, " ab": 1}, 262) == [(b"a", b"a"), (b"aa", b"a")]
        assert train({"xy": 3, "cd": 3}, 261) == [(b"c", b"d")], "of equal pairs the one with the older parts"


def test_merges_are_those_of_counting_anew_each_time():
    """Few letters, long runs: overlapping pairs, runs of one letter, merges of merges, ties."""
    for seed in range(60):
        r = random.Random(seed)
        words = ["".join(r.choices("aab c", k=r.randrange(1, 80))) for _ in range(r.randrange(1, 12))]
        count = count_pieces(words * 2)[0]
        expected = T.merge_most_frequent(count, 260 + r.randrange(1, 30))
        assert bpe.train_bpe(count, 260 + len(expected)) == expected, seed


def train_theirs(texts, vocab):
    split = hf.pre_tokenizers.Split(hf.Regex(T.REGEX), "isolated")
    level = hf.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    theirs = hf.Tokenizer(hf.models.BPE())
    theirs.pre_tokenizer = hf.pre_tokenizers.Sequence([split, level])
    theirs.train_from_iterator(texts, hf.trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=T.SPECIALS, initial_alphabet=level.alphabet(), show_progress=False))
    return theirs


@pytest.fixture(scope="module")
def hugging_face(texts):
    """Hugging Face's tokenizer, trained on the same text."""
    return train_theirs(texts, 1500)


def test_only_pieces_that_are_left_out_part_us_from_hugging_face(texts, monkeypatch):
    """They are noticed at the first pair that they make more frequent than another."""
    long = [*texts[:6], "zq" * 600]

    def merges(tokenizer):
        return json.loads(tokenizer)["model"]["merges"]
    theirs = merges(train_theirs(long, 400).to_str())
    ours = merges(train_tokenizer("bpe", long, 400).own_files()["tokenizer.json"])
    first = next(i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b)
    assert theirs[first] in (["z", "q"], ["q", "z"]) and ["z", "q"] not in ours
    monkeypatch.setattr(pieces, "LONGEST", 1200)
    assert merges(train_tokenizer("bpe", long, 400).own_files()["tokenizer.json"]) == theirs


def test_merges_and_ids_are_those_of_hugging_face_tokenizers(trained, hugging_face, texts):
    ours, theirs = json.loads(trained["bpe"].own_files()["tokenizer.json"]), json.loads(hugging_face.to_str())
    assert ours["model"]["vocab"] == theirs["model"]["vocab"]
    assert ours["model"]["merges"] == theirs["model"]["merges"]
    for text in texts + [text for text in SCRIPTS if "<s>" not in text]:
        assert trained["bpe"].encode(text) == hugging_face.encode(text).ids


def test_counting_is_the_same_for_any_workers_and_stays_within_its_bounds(texts, monkeypatch):
    whole = count_pieces(texts)
    monkeypatch.setattr(pieces, "BATCH", 10_000)
    assert count_pieces(texts, 2) == count_pieces(texts) == whole
    found = count_pieces(["x" * 1001 + " y" * 3, "é" * 501, "é" * 500])
    assert found == ({" y": 3, "é" * 500: 1}, 2), "pieces of more than 1000 bytes would fill the vocabulary"
    count, left_out = count_pieces((f"a a a b b w{i}" for i in range(100_000)), most=10)
    assert len(count) <= 20 and count["a"] == 100_000 and count.total() + left_out == 600_000


def test_languages_get_their_share_of_the_training_text():
    assert pieces.shares({"en": 900, "yo": 100}, 500, 0.5) == {"en": pytest.approx(375 / 900), "yo": 1.0}
    assert pieces.shares({"a": 300, "b": 100}, 200, 1.0) == {"a": 0.5, "b": 0.5}
    chosen = [{i for i in range(2000) if pieces.chosen(i, share)} for share in (0, 0.3, 0.5, 1)]
    assert chosen[0] < chosen[1] < chosen[2] < chosen[3] and 500 < len(chosen[1]) < 700


@pytest.mark.parametrize("kind", T.KINDS)
def test_more_entries_than_the_text_gives_are_refused_with_how_many_it_gives(kind):
    text = pathlib.Path(f"{ROOT}/samples/en.txt").read_text("utf-8")
    with pytest.raises(bpe.TooManyEntries, match="vocabulary of 5000: this text gives at most") as e:
        train_tokenizer(kind, [text], 5000)
    assert f"--vocab {e.value.most}" in str(e.value)
    assert train_tokenizer(kind, [text], e.value.most).vocab == e.value.most
    for texts, vocab, words in ([text], 299, "at least 300"), (["a"], 400, "at most|cannot train"):
        with pytest.raises(ValueError, match=words):
            train_tokenizer(kind, texts, vocab)


# ---- encoding ----

def test_any_text_comes_back_exactly(tokenizer, texts):
    everything = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    for text in [*SCRIPTS, *texts, everything]:
        assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.text(CHARACTERS, max_size=80))
@many
def test_whatever_a_person_could_type_comes_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    decoder = codecs.getincrementaldecoder("utf-8")()   # strict: a stream waits for the rest of a character
    streamed = "".join(decoder.decode(tokenizer.bytes_of(i)) for i in ids) + decoder.decode(b"", True)
    assert streamed == (" " if tokenizer.space and ids else "") + text


@given(st.text(st.one_of(SIGNS, CHARACTERS), max_size=60))
@many
def test_pieces_and_ids_of_any_text_are_those_of_hugging_face(trained, hugging_face, text):
    if not any(name in text for name in T.SPECIALS):
        found = hugging_face.pre_tokenizer.pre_tokenize_str(text)
        assert re.findall(T.PIECES, text) == [text[a:b] for _, (a, b) in found]
        assert trained["bpe"].encode(text) == hugging_face.encode(text).ids


def test_a_run_of_spaces_longer_than_the_regex_engine_bears(trained, texts):
    whole = " " * 1_200_000 + "\n" + texts[0]
    ids = trained["bpe"].encode(whole)
    assert trained["bpe"].decode(ids) == whole and ids[-100:] == trained["bpe"].encode(texts[0])[-100:]


def test_no_text_gives_a_special_id_and_half_a_surrogate_pair_is_refused(tokenizer):
    batch = tokenizer.encode_batch(SCRIPTS)
    assert batch == [tokenizer.encode(text) for text in SCRIPTS]
    assert not {tokenizer.unk, tokenizer.bos, tokenizer.eos, tokenizer.pad} & {*sum(batch, [])}
    with pytest.raises(ValueError, match="position 1.*surrogate"):
        tokenizer.encode("a\ud800")


def test_ids_are_sentencepiece_s_own(trained, texts):
    ours = trained["sentencepiece"]
    theirs = sentencepiece.SentencePieceProcessor(model_proto=ours.model)
    for text in SCRIPTS + texts:
        if "\u2581" not in text:
            assert ours.encode(text) == theirs.encode(text)
    sign = [ours.ids[f"<0x{b:02X}>"] for b in "\u2581".encode()]
    assert ours.encode(" a\u2581b") == theirs.encode(" a") + sign + [ours.ids["b"]], "U+2581 is three bytes"


def test_a_folder_of_an_earlier_run_keeps_the_sign(trained, tmp_path):
    trained["sentencepiece"].save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(vocabulary.EARLIER))
    earlier = T.load(tmp_path)
    assert earlier.decode(earlier.encode("a\u2581b")) == "a\u2581b"
    assert T.fingerprint(earlier) == T.fingerprint(trained["sentencepiece"])


def test_pieces_are_bloom_s():
    for text in "Hello|,| world|! | Two", "a|  | b", "a|,,|b| ,|c", "[0]":
        assert re.findall(T.PIECES, text.replace("|", "")) == text.split("|")


def test_ids_have_the_papers_layout(trained):
    every_byte = [bytes([b]) for b in range(256)]
    bpe, sp = trained["bpe"], trained["sentencepiece"]
    assert [bpe.unk, bpe.bos, bpe.eos, bpe.pad] == [0, 1, 2, 3] and bpe.prompt == [] and bpe.begin == [2]
    assert bpe.entries[4] == b"!" and bpe.entries[17] == b"." and sorted(bpe.entries[4:260]) == every_byte
    assert [sp.unk, sp.bos, sp.eos, sp.pad] == [0, 1, 2, None] and sp.prompt == sp.begin == [1]
    assert sp.entries[3:259] == every_byte
    assert len(sp.encode("12345")) == 6, "a space, then digit by digit"


# ---- folders ----

def test_saved_and_loaded_here_and_by_transformers_it_gives_the_same_ids(tokenizer, tmp_path, texts):
    tokenizer.save(tmp_path)
    again, theirs = T.load(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert again.encode_batch(SCRIPTS) == tokenizer.encode_batch(SCRIPTS)
    assert T.fingerprint(again) == T.fingerprint(tokenizer) and again.begin == tokenizer.begin
    assert T.load(tmp_path, imported=True).begin == tokenizer.prompt
    for text in texts[:10]:
        assert theirs(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text)
    assert (theirs.bos_token_id, theirs.eos_token_id) == (tokenizer.bos, tokenizer.eos)


def test_the_fingerprint_of_a_tokenizer_never_changes():
    """Every config.json of a run and every manifest.json of data has it."""
    assert T.fingerprint(T.BPE([(b"a", b"b")])) == "12f82324b355eb28"


def test_blooms_published_file_needs_no_library(trained, tmp_path):
    """BLOOM's has merges as "a b", fewer options, and a post-processor that adds nothing."""
    ours = trained["bpe"]
    file = json.loads(ours.own_files()["tokenizer.json"])
    file["model"]["merges"] = [" ".join(merge) for merge in file["model"]["merges"]]
    del file["model"]["byte_fallback"]
    file["post_processor"] = vocabulary.LEVEL | {"add_prefix_space": True, "trim_offsets": False}
    (tmp_path / "tokenizer.json").write_text(json.dumps(file), encoding="utf-8")
    found = T.load(tmp_path)
    assert isinstance(found, T.BPE) and found.eos == 2 and T.fingerprint(found) == T.fingerprint(ours)
    file["model"]["vocab"]["new"] = 1500
    (tmp_path / "tokenizer.json").write_text(json.dumps(file), encoding="utf-8")
    assert isinstance(T.load(tmp_path), T.Foreign)


def test_roles_are_those_of_the_config_or_else_blooms(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    says = tmp_path / "tokenizer_config.json"
    for said, eos in ("{}", 2), ('{"eos_token": "<s>"}', 1), ('{"eos_token": {"content": "<s>"}}', 1):
        says.write_text(said)
        assert T.load(tmp_path).eos == eos
    for said in "{", "[1]":
        says.write_text(said)
        with pytest.raises(ValueError, match="has no tokenizer that this program can use: "):
            T.load(tmp_path)
    with pytest.raises(ValueError, match="needs tokenizer.json or tokenizer.model"):
        T.load("nowhere")


def test_a_model_that_drops_extra_spaces_is_known_to_be_lossy(texts, monkeypatch, tmp_path):
    """SentencePiece's default, and that of small LLaMAs in the wild; LLaMA's own keeps them."""
    prints = set()
    for more in {}, {"normalization_rule_name": "nmt_nfkc"}, {"remove_extra_whitespaces": True}:
        monkeypatch.setattr(pieces, "LLAMA", pieces.LLAMA | more)
        model = pieces.train_sentencepiece(texts[:8], 700)
        (tmp_path / "tokenizer.model").write_bytes(model)
        found, theirs = T.load(tmp_path), sentencepiece.SentencePieceProcessor(model_proto=model)
        changed = sum(found.lost.values(), [])
        assert found.space and (changed == ["\u2581"]) == (not more), "read as a space, as by SentencePiece"
        assert all(found.encode(text) == theirs.encode(text) for text in [*texts[:8], "  two  spaces "])
        prints.add(T.fingerprint(found))
    assert len(prints) == 3


# ---- models of SentencePiece that are not LLaMA's ----

UNIGRAM, SMALL = {"model_type": "unigram"}, {"byte_fallback": False}
MODELS = {
    "unigram": UNIGRAM, "unigram without bytes": UNIGRAM | SMALL, "bpe without bytes": SMALL,
    "no prefix": {"add_dummy_prefix": False},
    "no prefix, no bytes": UNIGRAM | SMALL | {"add_dummy_prefix": False},
    "symbols": SMALL | {"user_defined_symbols": ["<sep>", "▁▁", "\n", "é"]},
    "char": SMALL | {"model_type": "char"},
    "other ids": SMALL | {"unk_id": 3, "bos_id": 5, "eos_id": 4, "pad_id": 0, "bos_piece": "[B]",
                          "eos_piece": "[E]", "unk_surface": "?"},
    "no roles": {"bos_id": -1, "eos_id": -1}, "spaces behind": SMALL | {"treat_whitespace_as_suffix": True},
    "changes": SMALL | {"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True}}


@pytest.fixture(scope="module")
def models(texts):
    """{name: bytes of a tokenizer.model}; "merged" has pieces that were put in later, as in Chinese LLaMA."""
    found = {}
    for name, more in MODELS.items():
        settings = pieces.LLAMA | {"hard_vocab_limit": False, "minloglevel": 2} | more
        file = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=pieces.short_lines(texts[:8]),
                                                 vocab_size=1000, model_writer=file, **settings)
        found[name] = file.getvalue()
    late = ["你好", "世界", "hellox", "नमस्ते"]
    # of protobuf: pieces { piece: p, score: 0 }
    more = [bytes([10, 7 + len(p.encode()), 10, len(p.encode()), *p.encode(), 21, 0, 0, 0, 0]) for p in late]
    found["merged"] = found["no roles"] + b"".join(more)
    return found


def test_any_model_of_sentencepiece_gives_its_ids_and_what_is_lost_is_shown(models, texts, tmp_path):
    begins, ends = ("", " ", "  ", "\n", "\t"), ("", "a", "a ", " \n", "Ж", "▁", "<sep>é")
    nasty = [a + b for a in begins for b in ends]
    nasty += [*SCRIPTS[:-1], *texts[:3], "a  b<sep>é  \n", "<s>a</s>", "▁a▁▁"]
    for name, model in models.items():
        (tmp_path / "tokenizer.model").write_bytes(model)
        ours, theirs = T.load(tmp_path), sentencepiece.SentencePieceProcessor(model_proto=model)
        for text in nasty:
            ids = ours.encode(text)
            assert ids == theirs.encode(text), (name, text[:50])
            if name != "spaces behind":
                assert ours.decode(ids) == theirs.decode(ids), (name, text[:50])
        said = " ".join(ours.remarks())
        lossy = "<0x00>" not in ours.ids
        assert ("'Ж'" in said and "(<unk>)" in said) == lossy, (name, said)
    assert ours.encode("a你好世界")[-2:] == [ours.vocab - 4, ours.vocab - 3], "merged of what is there"


def test_roles_of_a_bare_model_are_its_own(models, tmp_path):
    for name, roles in ("other ids", [3, 5, 4, 0]), ("no roles", [0, None, None, None]):
        (tmp_path / "tokenizer.model").write_bytes(models[name])
        t = T.load(tmp_path)
        assert [t.unk, t.bos, t.eos, t.pad] == roles and t.prompt == [t.bos] * (t.bos is not None), name
    assert T.load(tmp_path).begin == []


@pytest.mark.parametrize("data, words", [
    (b"IQ== 0\nIg== 1\n", "256 bytes and more entries"), (b"IQ== 0\nIg==\n", "not an entry in base64"),
    (b"version https://git-lfs.github.com/spec/v1\n", "neither SentencePiece's nor in"), (b"", "neither")])
def test_a_model_in_no_format_is_refused_by_name(tmp_path, data, words):
    (tmp_path / "tokenizer.model").write_bytes(data)
    with pytest.raises(ValueError, match=words):
        T.load(tmp_path)


# ---- special tokens ----

def test_a_text_may_spell_special_tokens_if_that_is_asked_for(tokenizer):
    t = tokenizer
    expected = [*t.encode("a "), t.eos, *t.encode("b"), t.bos, *t.encode(" c")]
    assert t.encode("a </s>b<s> c", special=True) == expected
    assert t.encode("</s></s>", special=True) == [t.eos, t.eos]
    for text in SCRIPTS:
        if "<s>" not in text:
            assert t.encode(text, special=True) == t.encode(text)
            assert t.decode(t.encode("</s>" + text, special=True)) == text
    with pytest.raises(ValueError, match="surrogate"):
        t.encode("a\ud800", special=True)


@pytest.mark.parametrize("kind", T.KINDS)
def test_special_tokens_of_one_s_own(kind, texts, tmp_path):
    names = ["<|user|>", "<|user|>2", "a,b", "[x]", "<qzqz>"]
    chats = [text.replace(". ", "<qzqz>") for text in texts]
    t = train_tokenizer(kind, chats, 1000, special=names)
    assert t.vocab == 1000 and len({t.special_ids[name] for name in names}) == 5
    assert not [e for e in t.entries if b"zq" in e or b"qz" in e], "learned from the letters of a name"
    t.save(tmp_path)
    again = T.load(tmp_path)
    os.mkdir(tmp_path / "exported")
    for name, content in tokenizer_files.files_of(again).items():
        (tmp_path / "exported" / name).write_bytes(content)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    assert type(again) is type(t) and again.special_ids == t.special_ids
    for text in "<|user|>a b<|user|>2 c", "a [x] b</s>c<s> d", "a,b[x]a,b\n<|user|>\n", "x<|user|>":
        ids = again.encode(text, special=True)
        assert ids == theirs(text, add_special_tokens=False)["input_ids"], text
        assert not {*t.special_ids.values()} & {*t.encode(text)} and t.decode(t.encode(text)) == text
    found = again.encode("<|user|>2<|user|>", special=True)
    assert found == [t.special_ids["<|user|>2"], t.special_ids["<|user|>"]], "the longest first"
    for wrong in ["<s>"], ["x"], ["a b"], ["<x>", "<x>"]:
        with pytest.raises(ValueError, match="special token"):
            train_tokenizer(kind, chats, 1000, special=wrong)
