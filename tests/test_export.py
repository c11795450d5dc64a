"""What leaves: the tokenizer's files, the one beginning of a text, and the file for llama.cpp."""
import glob
import json
import pathlib
import shutil

import numpy as np
import pytest
import torch
from conftest import ROOT
from test_convert import LINEAR, LLAMA3, come_in, edit, save, small

import checkpoint
import config
import convert
import tokenizer as tokenizers
from generate import Draw, generate, prompt_ids
from hub import gguf, tokenizer_files, transfer

transformers = pytest.importorskip("transformers")
BOTH = pytest.mark.parametrize("name", ["bloom", "llama"])
EDGES = ["", " ", "   ", " a", "  a", "a ", "a  ", "\n", "\na", "a\n\n", "\t a", "a\r\n", "\x00",
         "aaaaaaa", "ababab", "e\u0301 \ufb01 \u00bd", "\u3000a\u00a0b", "👩‍👩‍👧 🙂🏽",
         "<0x41>", "a  b   c    d", "...!!!  (x)"]


@pytest.fixture
def trained(work, runs):
    """runs/bloom and runs/llama: 100 steps."""
    shutil.copytree(runs, "runs")


def sample_texts():
    texts = []
    for path in sorted(glob.glob(f"{ROOT}/samples/*.txt")):
        with open(path, encoding="utf-8") as f:
            texts.append(f.read())
    assert len(texts) >= 28
    return texts


# ---- the tokenizer ----

@BOTH
def test_ids_of_an_exported_folder_are_ours_in_every_language_and_at_every_edge(name, trained):
    tokenizer = checkpoint.open_run(f"runs/{name}").tokenizer()
    transfer.export_run(f"runs/{name}", "out")
    automatic = transformers.AutoTokenizer.from_pretrained("out")
    fast = transformers.PreTrainedTokenizerFast.from_pretrained("out")
    first = "</s>" if name == "bloom" else "<s>"        # of our rows: the end of the text before, or <s>
    assert automatic.convert_ids_to_tokens(tokenizer.begin) == [first] == [automatic.bos_token]
    for text in [*sample_texts(), *EDGES]:
        ids = tokenizer.begin + tokenizer.encode(text)
        assert automatic(text).input_ids == fast(text).input_ids == ids, text[:40]
        assert fast.decode(ids, skip_special_tokens=True) == text
    back = tokenizers.load("out", imported=True)
    assert back.begin == tokenizer.begin and back.prompt == tokenizer.prompt
    assert tokenizers.fingerprint(back) == tokenizers.fingerprint(tokenizer), "data prepared with it fits"
    automatic.save_pretrained("again")
    assert tokenizers.load("again", imported=True).begin == tokenizer.begin, "as transformers writes it"


@BOTH
def test_the_same_prompt_gives_the_same_greedy_text(name, trained):
    run = checkpoint.open_run(f"runs/{name}")
    (model, _), tokenizer = run.load(), run.tokenizer()
    transfer.export_run(run.path, "out")
    hf = transformers.AutoModelForCausalLM.from_pretrained("out")
    theirs = transformers.AutoTokenizer.from_pretrained("out")
    for prompt in "Once upon a time", "Il", "":
        ids = theirs(prompt, return_tensors="pt").input_ids
        greedy = hf.generate(ids, do_sample=False, max_new_tokens=12)[0].tolist()
        own = prompt_ids(tokenizer, prompt)
        ours = own + [i for _, i, _ in generate(model, tokenizer, [own], 12, Draw(temperature=0))]
        assert greedy[:len(ours)] == ours and (len(ours) == len(greedy) or greedy[len(ours)] == tokenizer.eos)


def test_a_run_with_another_models_tokenizer_begins_as_it_was_trained(trained):
    """Its files add nothing to a text, and in the rows a text follows the end of another."""
    path = "runs/bloom/tokenizer/tokenizer.json"
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    edit(path, pre_tokenizer=level, post_processor=level)
    edit("runs/bloom/tokenizer/tokenizer_config.json", add_bos_token=False)
    tokenizer = tokenizers.load("runs/bloom/tokenizer")
    assert isinstance(tokenizer, tokenizers.Foreign) and tokenizer.begin == [tokenizer.eos]
    edit("runs/bloom/config.json",
         tokenizer={"kind": "bpe", "fingerprint": tokenizers.fingerprint(tokenizer)})
    transfer.export_run("runs/bloom", "out")
    theirs = transformers.AutoTokenizer.from_pretrained("out")
    for text in EDGES:
        assert theirs(text).input_ids == tokenizer.begin + tokenizer.encode(text)
    for imported in True, False:
        back = tokenizers.load("out", imported)
        assert back.prompt == [] and back.begin == [tokenizer.eos], "one end before a text, in rows too"
        for file, content in tokenizer_files.files_of(back).items():
            assert content == pathlib.Path("out", file).read_bytes(), "exported again it is put there once"
    with pytest.raises(ValueError, match="its tokenizer cannot be written: llama.cpp knows"):
        gguf.export_run("runs/bloom", "out.gguf")


def test_merges_of_pieces_are_all_pairs_in_the_order_of_the_pieces():
    merges = tokenizer_files.merges_of(["ab", "aba", "abab", "a", "b"])
    assert merges == [("a", "b"), ("ab", "a"), ("ab", "ab"), ("aba", "b")]


# ---- GGUF: read back with llama.cpp's own library ----

def written(run, dtype="float32"):
    """({name: tensor}, {key: value}) of an exported file."""
    library = pytest.importorskip("gguf")
    gguf.export_run(run, f"{dtype}.gguf", dtype=dtype)
    reader = library.GGUFReader(f"{dtype}.gguf")
    return {t.name: t.data for t in reader.tensors}, {k: f.contents() for k, f in reader.fields.items()}


def check_tensors(tensors, run, family, entries):
    """Every parameter, under the name that llama.cpp's converter gives to transformers' name of it."""
    library = pytest.importorskip("gguf")
    transfer.export_run(run, "hf-of-it")
    model = transformers.AutoModelForCausalLM.from_pretrained("hf-of-it")
    cfg = model.config
    arch = library.MODEL_ARCH.BLOOM if family == "bloom" else library.MODEL_ARCH.LLAMA
    names = library.get_tensor_name_map(arch, cfg.num_hidden_layers)
    left = {*tensors} - {"rope_freqs.weight"}
    for theirs, p in model.named_parameters():
        name = names.get_name(theirs.removeprefix("transformer."), (".weight", ".bias"))
        left.remove(name)
        t = torch.from_numpy(np.array(tensors[name]))
        if "embed_tokens" in theirs or "word_embeddings.weight" in theirs or "lm_head" in theirs:
            p = p[:entries]
        if "query_key_value" in theirs:             # (head, {q, k, v}, D) there, ({q, k, v}, head, D) here
            t = t.unflatten(0, (3, cfg.n_head, -1)).transpose(0, 1).reshape(p.shape)
        if "q_proj" in theirs or "k_proj" in theirs:    # rows 0, 2, 4 ... of a head here are its first half
            heads = t.unflatten(0, (-1, cfg.head_dim))
            t = torch.cat((heads[:, 0::2], heads[:, 1::2]), 1).reshape(p.shape)
        assert torch.equal(t, p), theirs
    assert not left


@BOTH
def test_a_gguf_file_has_the_parameters_and_the_vocabulary(name, trained):
    run = checkpoint.open_run(f"runs/{name}")
    m, t = run.shape, run.tokenizer()
    tensors, facts = written(f"runs/{name}")
    check_tensors(tensors, f"runs/{name}", name, t.vocab)
    for key, value in {"context_length": m.context, "embedding_length": 24, "block_count": 2,
                       "attention.head_count": 3, "attention.head_count_kv": 3}.items():
        assert facts[f"{name}.{key}"] == value, key
    eps = facts["bloom.attention.layer_norm_epsilon" if name == "bloom" else
                "llama.attention.layer_norm_rms_epsilon"]
    assert eps == pytest.approx(m.eps, rel=1e-6) and facts["general.architecture"] == name
    says = {key.removeprefix("tokenizer.ggml."): value for key, value in facts.items() if ".ggml." in key}
    assert [says["eos_token_id"], says["unknown_token_id"]] == [t.eos, t.unk]
    assert [says["bos_token_id"]] == t.begin and says["add_bos_token"] and len(says["tokens"]) == t.vocab
    assert says["add_space_prefix"] == (name == "llama")
    if name == "bloom":
        assert (says["model"], says["pre"], says["padding_token_id"]) == ("gpt2", "bloom", 3)
        file = json.loads(t.own_files()["tokenizer.json"])
        assert says["merges"] == [" ".join(pair) for pair in file["model"]["merges"]]
        assert {entry: i for i, entry in enumerate(says["tokens"])} == file["model"]["vocab"]
        assert says["token_type"] == [3] * 4 + [1] * (t.vocab - 4)
    else:
        assert (says["model"], says["pre"]) == ("llama", "default") and "padding_token_id" not in says
        assert says["tokens"] == [t.sp.id_to_piece(i) for i in range(t.vocab)]
        assert says["token_type"] == [2, 3, 3] + [6] * 256 + [1] * (t.vocab - 259)
        assert says["scores"][259:] == [-float(i) for i in range(t.vocab - 259)]
        assert facts["llama.rope.freq_base"] == 10_000 and facts["llama.rope.dimension_count"] == 8
    halves, about = written(f"runs/{name}", "float16")
    assert (facts["general.file_type"], about["general.file_type"]) == (0, 1)
    for key, whole in tensors.items():
        assert halves[key].dtype == (np.float16 if whole.ndim > 1 else np.float32)
        assert np.array_equal(halves[key], whole.astype(halves[key].dtype))


@pytest.mark.parametrize("scaling", [LLAMA3, LINEAR])
def test_gguf_of_an_import_with_grouped_heads_a_tied_head_and_scaled_rope(scaling, work, prepared):
    hf = small("llama", **scaling, num_key_value_heads=2, tie_word_embeddings=True)
    come_in(save(hf, "hf", prepared))
    tensors, facts = written("runs/in")
    check_tensors(tensors, "runs/in", "llama", 500)
    assert len(tensors["token_embd.weight"]) == 500 and "output.weight" not in tensors
    assert facts["llama.attention.head_count_kv"] == 2
    if scaling is LINEAR:
        assert facts["llama.rope.scaling.type"] == "linear" and facts["llama.rope.scaling.factor"] == 4
    else:
        rotary = hf.model.rotary_emb
        plain, _ = rotary.compute_default_rope_parameters(hf.config)
        assert tensors["rope_freqs.weight"] == pytest.approx((plain / rotary.inv_freq).numpy(), rel=1e-5)
        assert facts["llama.rope.freq_base"] == 5e5
    theirs = transformers.AutoTokenizer.from_pretrained("hf-of-it")     # hf had a tokenizer.model only
    tokenizer = checkpoint.open_run("runs/in").tokenizer()
    assert [theirs(text).input_ids for text in EDGES] == [[1, *ids] for ids in tokenizer.encode_batch(EDGES)]
    imported = config.read_json("runs/in/config.json")["imported"]
    edit("runs/in/config.json", imported=imported | {"eos": [2, 5]})
    with pytest.raises(ValueError, match=r"the ids \[2, 5\] end its texts; only one"):
        gguf.export_run("runs/in", "more.gguf")


def test_gguf_writes_nothing_over_and_leaves_nothing_half_written(trained, monkeypatch):
    library = pytest.importorskip("gguf")
    with open("there", "w") as f:
        f.write("mine")
    with pytest.raises(ValueError, match="there is there"):
        gguf.export_run("runs/bloom", "there")
    assert pathlib.Path("there").read_text() == "mine"

    def full(self):
        raise OSError("no space left on device")
    monkeypatch.setattr(library.GGUFWriter, "write_tensors_to_file", full)
    with pytest.raises(OSError, match="no space"):
        gguf.export_run("runs/bloom", "out.gguf")
    assert not glob.glob("out.gguf*")
    monkeypatch.setattr("sys.argv", ["convert.py", "export", "runs/bloom", "out", "--dtype", "float16"])
    with pytest.raises(ValueError, match="--dtype is for --gguf"):
        convert.main()
