import glob
import json
import random
import re

import pytest
import tokenizer as T
from conftest import ROOT, run

SCRIPTS = ["Hello, world!  Two", "naïve café — “quotes” …", "Привет, мир", "你好，世界。", "こんにちは", "नमस्ते दुनिया।", "مرحبا، كيف الحال؟", "שלום", "สวัสดี", "안녕하세요",
           "👩‍👩‍👧‍👦 🇫🇷 🦙", "e\u0301 a\u0308", "\u0301", "\x00\x01\x7f\x1c\x1f", "\u200b\ufeff\u202e", "\t\tif x:\r\n    y = 1\n", " ", "  ", "\n", "", "a  b", " a", "\u2581", "\u2581\u2581 a \u2581", " \u2581",
           "<s></s><unk><pad><0x0A>", "12345 67", "\ue000\ue001\u2581\ue000", "x" * 3000, " " * 60_000 + "end"]


@pytest.fixture(scope="module")
def texts():
    """Samples and code; files that spell a special token are left out, since Hugging Face reads it as one."""
    found = [open(p, encoding="utf-8").read() for p in sorted(glob.glob(f"{ROOT}/samples/*.txt") + glob.glob(f"{ROOT}/*.py"))]
    return [t for t in found if "s>" not in t]


@pytest.fixture(scope="module", params=["bpe", "sentencepiece"])
def tokenizer(request, texts):
    return T.train(request.param, texts, 1500)


def random_text(seed):
    r = random.Random(seed)
    pick = [lambda: r.choice(" .\n\u2581,。!a"), lambda: chr(r.randrange(32, 127)), lambda: chr(r.randrange(0x80, 0xD800)), lambda: chr(r.randrange(0xE000, 0x110000))]
    return "".join(r.choice(pick)() for _ in range(200))


def test_any_text_comes_back_exactly(tokenizer, texts):
    for text in SCRIPTS + texts + [random_text(i) for i in range(200)]:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    everything = "".join(chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000)
    assert tokenizer.decode(tokenizer.encode(everything)) == everything


def test_a_run_of_spaces_longer_than_the_regex_engine_bears(texts):
    bpe = T.train("bpe", texts, 400)
    text = "a" + " " * 1_200_000 + "b"
    assert bpe.decode(bpe.encode(text)) == text
    assert all(bpe.encode_long(t) == bpe.encode(t) for t in SCRIPTS + texts), "the way around it gives the same ids"


def test_a_batch_is_encoded_as_its_texts_are_and_unk_never_appears(tokenizer):
    batch = tokenizer.encode_batch(SCRIPTS)
    assert batch == [tokenizer.encode(t) for t in SCRIPTS]
    assert all(tokenizer.unk not in ids and tokenizer.eos not in ids and tokenizer.bos not in ids for ids in batch), "text cannot spell a special token"


def test_half_a_surrogate_pair_is_refused(tokenizer):
    with pytest.raises(ValueError, match="character 1 .* surrogate"):
        tokenizer.encode("a\ud800")


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = T.load(tmp_path)
    assert again.encode_batch(SCRIPTS) == tokenizer.encode_batch(SCRIPTS) and T.fingerprint(again) == T.fingerprint(tokenizer)


def test_training_twice_gives_the_same(tokenizer, texts):
    assert T.fingerprint(T.train(tokenizer.kind, texts, 1500)) == T.fingerprint(tokenizer)


def test_transformers_opens_the_folder_with_the_same_ids(tokenizer, tmp_path, texts):
    import transformers
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in texts[:10]:
        assert theirs(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text)
    assert (theirs.bos_token_id, theirs.eos_token_id) == (tokenizer.bos, tokenizer.eos)


def test_pieces_are_bloom_s():
    for text, pieces in {"Hello, world!  Two": ["Hello", ",", " world", "! ", " Two"], "a   b": ["a", "  ", " b"], "a,,b ,c": ["a", ",,", "b", " ,", "c"], "[0]": ["[0]"]}.items():
        assert re.findall(T.PIECES, text) == pieces


def test_merges_and_ids_are_those_of_hugging_face_tokenizers(texts, tmp_path):
    import tokenizers as hf
    ours = T.train("bpe", texts, 1500)
    ours.save(tmp_path)
    split = hf.pre_tokenizers.Split(hf.Regex(T.REGEX), "isolated")
    theirs = hf.Tokenizer(hf.models.BPE())
    theirs.pre_tokenizer = hf.pre_tokenizers.Sequence([split, hf.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    theirs.train_from_iterator(texts, hf.trainers.BpeTrainer(vocab_size=1500, special_tokens=T.SPECIALS, initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    assert theirs.get_vocab() == json.load(open(tmp_path / "tokenizer.json", encoding="utf-8"))["model"]["vocab"]
    for text in texts + [random_text(i) for i in range(100)] + [s for s in SCRIPTS if "<s>" not in s]:
        assert theirs.encode(text, add_special_tokens=False).ids == ours.encode(text)


def test_bpe_by_hand():
    ids = [1, 2, 3]
    assert T.join(ids, (1, 2), 9) == [((2, 3), -1), ((9, 3), 1)] and ids == [9, 3]
    assert T.train_bpe(["aaa aaa ab"], 262) == [(b"a", b"a"), (b"aa", b"a")], "'aa' is the commonest pair; ' aaa' begins with a space of its own"
    tie = T.train_bpe(["xy xy cd cd", "xy cd"], 262)
    assert tie[0] == (b"c", b"d"), "of equally frequent pairs the one with the older parts is joined"


def test_ids_have_the_papers_layout(texts):
    bpe, sp = T.train("bpe", texts, 400), T.train("sentencepiece", texts, 1500)
    assert bpe.bytes_of(4) == b"!" and bpe.bytes_of(17) == b"." and (bpe.unk, bpe.bos, bpe.eos, bpe.pad) == (0, 1, 2, 3)
    assert sorted(bpe.bytes_of(i) for i in range(4, 260)) == [bytes([b]) for b in range(256)]
    assert [sp.bytes_of(i) for i in range(3, 259)] == [bytes([b]) for b in range(256)] and (sp.unk, sp.bos, sp.eos) == (0, 1, 2)
    assert len(sp.encode("12345")) == 6, "a space, then digit by digit"
    assert sp.encode("\n")[-1] == 3 + 10 and bpe.prompt == [] and sp.prompt == [1]


def test_more_entries_than_the_text_gives_are_refused():
    for kind in T.KINDS:
        with pytest.raises(ValueError, match=r"vocabulary of 5000: .*\d"):
            T.train(kind, ["some words, some more words"] * 20, 5000)


def test_the_train_command(tmp_path):
    out = run("tokenizer.py", "train", "--input", f"{ROOT}/samples/en.txt", "--vocab", 400, "--out", tmp_path / "t")
    assert out.returncode == 0 and "400 entries" in out.stdout, out.stderr
    again = run("tokenizer.py", "train", "--input", f"{ROOT}/samples/en.txt", "--vocab", 400, "--out", tmp_path / "t")
    assert again.returncode == 1 and "not empty" in again.stderr and again.stderr.count("\n") == 1
