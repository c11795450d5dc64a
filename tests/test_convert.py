import builtins
import functools
import json
import os
import pickle
import shutil
import struct
import sys

import pytest
import torch
from conftest import ROOT, arguments, log, tiny
from safetensors.torch import load_file, save_file

import checkpoint
import config
import convert
import data
import evaluate
import sample
import tokenizer as tokenizers
import train
from generate import Draw, generate
from model import Cache

transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()
ROWS = 512          # of the embedding; the tokenizers have 500 entries
BOTH = pytest.mark.parametrize("name", ["bloom", "llama"])


def small(name, heads=4, dim=None, **changes):
    """A random model of transformers, with numbers nowhere at their starting values: a norm or bias that is left out would show."""
    torch.manual_seed(0)
    dim = dim or 48 // heads * heads
    if name == "bloom":
        model = transformers.BloomForCausalLM(transformers.BloomConfig(**{**dict(vocab_size=ROWS, hidden_size=dim, n_layer=2, n_head=heads, layer_norm_epsilon=1e-3), **changes}))
    else:
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**dict(vocab_size=ROWS, hidden_size=dim, num_hidden_layers=2, num_attention_heads=heads,
                                              intermediate_size=40, rms_norm_eps=1e-3, max_position_embeddings=64), **changes}))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    return model.eval()


def save(model, folder, data, **settings):
    """As a Hugging Face folder, with a tokenizer of the prepared corpus."""
    model.save_pretrained(folder, **settings)
    kind = "tiny" if model.config.model_type == "bloom" else "tiny-sp"
    shutil.copytree(data / "data" / kind / "tokenizer", folder, dirs_exist_ok=True)
    return str(folder)


def edit(path, **changes):
    """Change keys of a JSON file; None takes one out."""
    facts = {**json.load(open(path)), **changes}
    json.dump({k: v for k, v in facts.items() if v is not None}, open(path, "w"))


def come_in(folder, run="runs/in", **more):
    convert.import_folder(str(folder), run, **{"place": None, "size": 5e9, **more})
    return run


def go_out(run, out="out", step=None, size=5e9, licence=None):
    convert.export_run(run, out, step, size, licence)
    return out


def weights(folder):
    return {k: v for f in os.listdir(folder) if f.endswith(".safetensors") for k, v in load_file(f"{folder}/{f}").items()}


def equal(a, b):
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


IDS = torch.randint(4, 500, (2, 23), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name, changes, settings", [
    ("bloom", dict(heads=1), {}), ("bloom", dict(heads=6), {}), ("bloom", dict(heads=8), dict(max_shard_size="30KB")), ("bloom", dict(heads=12), {}),
    ("bloom", dict(tie_word_embeddings=False), {}),
    ("llama", dict(), dict(max_shard_size="30KB")), ("llama", dict(num_key_value_heads=2), {}), ("llama", dict(num_key_value_heads=1), {}),
    ("llama", dict(tie_word_embeddings=True, heads=6), {}), ("llama", dict(intermediate_size=256), {}),
    ("llama", dict(rope_parameters={"rope_type": "default", "rope_theta": 5e5}), {})])
def test_an_imported_model_has_the_logits_of_transformers_also_padded_on_the_left(name, changes, settings, work, prepared):
    hf = small(name, **changes)
    model, _ = sample.load(come_in(save(hf, work / "hf", prepared, **settings)))
    with torch.no_grad():
        assert (model(IDS) - hf(IDS).logits).abs().max() < 5e-4, "float32 products in another order differ in the sixth digit of logits near 10"
        mask = torch.ones_like(IDS)
        mask[0, :5] = 0
        ours = model(IDS, cache=Cache(model.cfg, 2, 23, pad=torch.tensor([5, 0])))
        assert (ours - hf(IDS, attention_mask=mask).logits)[mask.bool()].abs().max() < 5e-4


def test_rope_theta_is_found_under_its_old_name_too(work, prepared):
    hf = small("llama", rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    folder = save(hf, work / "hf", prepared)
    edit(f"{folder}/config.json", rope_parameters=None, rope_theta=500_000, rope_scaling=None)
    model, _ = sample.load(come_in(folder))
    assert config.read_json(f"{come_in(folder, 'runs/long', context=99)}/config.json")["model"]["context"] == 99 and model.cfg.context == 64
    assert model.cfg.theta == 5e5 and (model(IDS) - hf(IDS).logits).abs().max() < 5e-4


@BOTH
def test_greedy_continuations_of_unequal_prompts_are_those_of_transformers_for_100_tokens(name, work, prepared):
    hf = small(name, tie_word_embeddings=False, **({} if name == "bloom" else dict(num_key_value_heads=2, max_position_embeddings=128)))      # a tied one repeats itself
    model, tokenizer = sample.load(come_in(save(hf, work / "hf", prepared)))
    tokenizer.ends = set()
    prompts = [IDS[0, :n].tolist() for n in (4, 11, 1)]
    ours = [[] for _ in prompts]
    for r, i, _ in generate(model, tokenizer, prompts, 100, Draw(temperature=0)):
        ours[r].append(i)
    padded = torch.tensor([[0] * (11 - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (11 - len(p)) + [1] * len(p) for p in prompts])
    theirs = hf.generate(padded, attention_mask=mask, do_sample=False, max_new_tokens=100, min_new_tokens=100, eos_token_id=None, pad_token_id=0,
                         suppress_tokens=list(range(tokenizer.vocab, ROWS)))[:, 11:].tolist()
    assert ours == theirs and len(set(ours[0])) > 3


@BOTH
def test_training_goes_on_from_an_import_as_in_transformers_with_adamw(name, work, prepared):
    hf = small(name).train()
    come_in(save(hf, work / "hf", prepared))
    path, *settings = arguments(name, "on", "init_from=runs/in", "run.tokens=640", "run.eval_every=100", "optim.warmup=256", "optim.lr=1e-3", "machine.save_every=100")
    cfg = config.check_config(config.load(path, [s for s in settings if not s.startswith(("model.layers", "model.dim", "model.heads"))]))
    train.train(cfg)
    rows, o, theirs = data.Rows(cfg), cfg.optim, []
    matrices, vectors = ([p for p in hf.parameters() if (p.dim() > 1) == wanted] for wanted in (True, False))
    adamw = torch.optim.AdamW([{"params": matrices, "weight_decay": o.weight_decay}, {"params": vectors, "weight_decay": 0.0}], betas=(o.beta1, o.beta2), eps=o.eps)
    for step in range(5):
        x, y, _, valid = rows.rows(step)
        loss = torch.nn.functional.cross_entropy(hf(torch.from_numpy(x)).logits.flatten(0, 1), torch.from_numpy(y).flatten(), ignore_index=-100, reduction="sum") / valid
        loss.backward()
        torch.nn.utils.clip_grad_norm_(hf.parameters(), o.clip)
        for group in adamw.param_groups:
            group["lr"] = train.lr_at((step + 1) * cfg.run.batch * cfg.model.context, o, cfg.run.tokens)
        adamw.step()
        adamw.zero_grad()
        theirs.append(loss.item())
    ours = [r["loss"] for r in log("on") if "loss" in r]
    assert ours == pytest.approx(theirs, abs=1e-4) and len(ours) == 5 and ours[0] != pytest.approx(ours[4], abs=0.01)


def test_scaled_rope_is_refused_under_either_name_also_beside_a_plain_one(work, prepared):
    folder = save(small("llama"), work / "hf", prepared)
    for key, value in ("rope_scaling", {"type": "yarn", "factor": 4.0}), ("rope_scaling", {"rope_type": "llama3"}), ("rope_scaling", {"rope_type": ["default"]}), ("rope_parameters", {"rope_type": "default", "type": "linear", "rope_theta": 1e4}):
        edit(f"{folder}/config.json", rope_scaling=None, rope_parameters={"rope_type": "default", "rope_theta": 1e4})
        edit(f"{folder}/config.json", **{key: value})
        with pytest.raises(ValueError, match=f"RoPE as in {key}=.* is not supported"):
            come_in(folder)


def test_an_imported_model_is_evaluated_as_the_harness_would(work, prepared, capsys, monkeypatch):
    come_in(save(small("llama"), work / "hf", prepared))
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "runs/in", "--tasks", "who"])
    evaluate.main()
    facts = json.load(open("runs/in/evaluations/who.json"))
    assert facts["begin"] == "harness" and facts["step"] == 0 and "who " in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "runs/in", "--tasks", "loss", "--data", "tiny-sp"])
    evaluate.main()
    assert json.load(open("runs/in/evaluations/loss.json"))["all"]["loss"] > 0


@BOTH
def test_a_key_that_is_missing_means_the_default_of_transformers(name, work, prepared):
    folder = save(small(name), work / "hf", prepared)
    written = json.load(open(f"{folder}/config.json"))
    keep = {"vocab_size", "hidden_size", "n_layer", "n_head", "num_hidden_layers", "num_attention_heads", "intermediate_size"}
    json.dump({"model_type": name, **{k: v for k, v in written.items() if k in keep}}, open(f"{folder}/config.json", "w"))
    (_, cfg), hf = convert.read_config(folder), transformers.AutoConfig.from_pretrained(folder)
    eps = hf.layer_norm_epsilon if name == "bloom" else hf.rms_norm_eps
    assert (cfg.eps, cfg.tied, cfg.init_std) == (eps, hf.tie_word_embeddings, hf.initializer_range)
    assert cfg.context == 2048 and cfg.theta == 10_000 and cfg.kv_heads is None
    json.dump({"model_type": name}, open(f"{folder}/config.json", "w"))
    (_, cfg), hf = convert.read_config(folder), transformers.AutoConfig.from_pretrained(folder)
    assert (cfg.layers, cfg.dim, cfg.heads, cfg.vocab) == (hf.num_hidden_layers, hf.hidden_size, hf.num_attention_heads, hf.vocab_size)


@BOTH
def test_names_without_prefix_computed_buffers_and_a_written_out_tied_head_are_understood(name, work, prepared):
    hf = small(name, tie_word_embeddings=True)
    want, folder = weights(come_in(save(hf, work / "hf", prepared)) + "/checkpoints/0000000/model"), str(work / "hf")
    file = f"{folder}/model.safetensors"
    tensors = {k.removeprefix("transformer.").removeprefix("model."): v for k, v in load_file(file).items()}
    embed = tensors["word_embeddings.weight" if name == "bloom" else "embed_tokens.weight"]
    buffers = {"layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6)} if name == "llama" else {"h.0.self_attention.masked_bias": torch.tensor(-1e9), "h.1.attn.masked_bias": torch.tensor(1)}
    save_file({**tensors, **buffers, "lm_head.weight": embed.clone()}, file)
    edit(f"{folder}/config.json", architectures=["BloomModel" if name == "bloom" else "LlamaModel"])
    assert equal(want, weights(come_in(folder, "runs/bare") + "/checkpoints/0000000/model"))
    for other in embed + 1, embed.bfloat16(), embed[:5].clone():
        save_file({**tensors, "lm_head.weight": other}, file)
        with pytest.raises(ValueError, match="lm_head.weight is not the embedding"):
            come_in(folder, "runs/other")


@pytest.mark.parametrize("name, dtype", [("bloom", torch.float32), ("bloom", torch.bfloat16), ("llama", torch.bfloat16), ("llama", torch.float16)])
def test_import_then_export_gives_the_same_tensors_names_and_dtypes(name, dtype, work, prepared):
    hf = small(name, tie_word_embeddings=name == "bloom", **({"num_key_value_heads": 2} if name == "llama" else {})).to(dtype)
    folder = save(hf, work / "hf", prepared, max_shard_size="30KB")
    run = come_in(folder, size=20_000)
    parts = [load_file(f"{run}/checkpoints/0000000/model/{f}") for f in os.listdir(f"{run}/checkpoints/0000000/model")]
    assert len(parts) > 3 and all(sum(t.nbytes for t in p.values()) <= 20_000 or len(p) == 1 for p in parts)
    out = go_out(run, size=30_000)
    assert equal(weights(folder), weights(out)) and all(os.stat(f"{out}/{f}").st_mode & 0o044 for f in os.listdir(out)), "others may read it"
    index = json.load(open(f"{out}/model.safetensors.index.json"))
    assert index["weight_map"].keys() == weights(out).keys() and all(k in load_file(f"{out}/{f}") for k, f in index["weight_map"].items())
    facts = json.load(open(f"{folder}/config.json"))
    written = json.load(open(f"{out}/config.json"))
    assert {k: (facts[k], written[k]) for k in facts.keys() & written if facts[k] != written[k] and k not in ("bos_token_id", "pad_token_id")} == {}
    loaded, about = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert loaded.dtype == dtype and not any(about.values())
    assert torch.equal(loaded(IDS).logits, transformers.AutoModelForCausalLM.from_pretrained(folder)(IDS).logits)
    assert equal(weights(come_in(out, "runs/again", size=20_000) + "/checkpoints/0000000/model"), weights(f"{run}/checkpoints/0000000/model"))


@pytest.fixture
def trained(work):
    """runs/bloom and runs/llama, trained for a moment."""
    @functools.cache
    def one(name):
        train.train(tiny(name, name, "optim.lr=1e-2"))
        return f"runs/{name}"
    return one


@BOTH
def test_an_exported_run_opens_in_transformers_with_the_same_logits_ids_and_greedy_text(name, trained):
    run = trained(name)
    out = go_out(run, licence="cc-by-4.0")
    model, tokenizer = sample.load(run)
    hf, about = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(about.values()), "no weight is missing, unexpected or of another shape"
    text = "Once upon a time, été 2024.\n\n  Two  spaces"
    theirs, prompt = transformers.AutoTokenizer.from_pretrained(out), [tokenizer.eos, *tokenizer.prompt, *tokenizer.encode("The cat")]
    assert theirs(text).input_ids == tokenizer.prompt + tokenizer.encode(text) and theirs.eos_token_id == tokenizer.eos
    ids = torch.tensor([prompt])
    assert (model(ids) - hf(ids).logits).abs().max() < 5e-4
    drawn = [i for _, i, _ in generate(model, tokenizer, [prompt], 20, Draw(temperature=0)) if i not in tokenizer.ends]
    greedy = hf.generate(ids, do_sample=False, max_new_tokens=20)[0, len(prompt):].tolist()
    assert drawn == (greedy[:greedy.index(tokenizer.eos)] if tokenizer.eos in greedy else greedy)
    g = hf.generation_config
    assert (g.do_sample, g.temperature, g.top_p, g.top_k, g.eos_token_id) == (True, 0.8, 0.95, 0, tokenizer.eos)
    assert g.suppress_tokens == list(range(tokenizer.vocab, model.cfg.vocab)), "rows that stand for nothing are not drawn, as in sample.py"
    back = come_in(out, "runs/back")
    again, _ = sample.load(back)
    assert again.cfg == model.cfg and all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters()))
    facts = config.read_json(f"{back}/config.json")
    assert facts["imported"] == {"from": "out", "architecture": name, "eos": [tokenizer.eos]} and facts["tokenizer"] == config.read_json(f"{run}/config.json")["tokenizer"]
    assert config.read_json(f"{back}/checkpoints/0000000/state.json") == {"step": 0, "tokens": 0}


def test_the_card_says_what_the_run_knows(trained, monkeypatch):
    run = trained("bloom")
    os.makedirs(f"{run}/evaluations")
    config.write_json(f"{run}/evaluations/who.json", {"step": 20, "task": "who", "shots": 0, "prompts": [{"items": 9, "rule": "sum", "sum": [0.25, 0.1], "chance": 0.5}]})
    config.write_json(f"{run}/evaluations/old.json", {"step": 10, "task": "old one", "shots": 0, "prompts": []})
    card = open(go_out(run, licence="cc-by-4.0") + "/README.md").read()
    head = card.split("---")[1]
    assert 'license: "cc-by-4.0"' in head and '- "fr"' in head and "library_name: transformers" in head
    val = [r for r in map(json.loads, open(f"{run}/log.jsonl")) if "val" in r][-1]["val"]
    losses = {r["step"]: r["loss"] for r in map(json.loads, open(f"{run}/log.jsonl")) if "loss" in r}
    for words in (f"Training loss at step 20: {losses[20]:.4f}", "| validation at step 20 |", "| tied | True |", "| fr | 60 |", "| source | licence | permission |", "| fr | unknown | public |", "2,560 tokens in 20 steps", "AdamW", "seed 42", f"| fr | {round(val['sources']['fr']['loss'], 4)} | {round(val['sources']['fr']['bits_per_byte'], 4)} |",
                  f"| all | {round(val['loss'], 4)} |", "| who | 0 | 9 | sum | 0.25 | 0.5 |", "ids `[2]`", "Limits", "cc-by-4.0\n"):
        assert words in card, words
    assert "What was taken out" not in card and "old one" not in card and str(os.getcwd()) not in card
    sums = config.read_json(f"{run}/config.json")["data_sha256"]
    edit(f"{run}/config.json", data_sha256={**sums, "fr": "0"}, init_from="runs/before")
    assert "has changed since" not in card and "has changed since" in open(go_out(run, "out1") + "/README.md").read()
    assert "began from the weights of `before`" in open("out1/README.md").read() and "began from" not in card
    os.rename("data", "moved")
    card = open(go_out(run, "out2", step=10) + "/README.md").read()
    assert "was not there" in card and "en, fr" in card and "1,280 tokens in 10 steps" in card and "permits nothing" in card and f"Training loss at step 10: {losses[10]:.4f}" in card and "license" not in card.split("---")[1]
    card = open(go_out(come_in("out"), "out3") + "/README.md").read()
    assert "imported from `out`" in card and "How a text begins" not in card and "Training\n" not in card and "Limits" not in card and "permits" not in card


def test_a_card_says_of_which_step_its_losses_are(trained):
    run = trained("bloom")
    with open(f"{run}/log.jsonl") as f:
        records = [json.loads(line) for line in f]
    with open(f"{run}/log.jsonl", "w") as f:
        f.writelines(json.dumps(r) + "\n" for r in records if r["step"] in (0, 10) or "val" not in r and "loss" not in r)
    card = open(go_out(run) + "/README.md").read()
    assert "Training loss at step 10: " in card and "| validation at step 10 |" in card
    open(f"{run}/log.jsonl", "w").close()
    card = open(go_out(run, "out1") + "/README.md").read()
    assert "nan" not in card and "validation at" not in card and "tokens read" not in card


def test_an_export_takes_the_whole_checkpoint_before_a_damaged_one(trained):
    run = trained("llama")
    file = next(os.path.join(run, "checkpoints/0000020/model", f) for f in os.listdir(f"{run}/checkpoints/0000020/model"))
    os.truncate(file, 100)
    assert "1,280 tokens in 10 steps" in open(go_out(run) + "/README.md").read()
    with pytest.raises(ValueError, match="no checkpoint of step 15"):
        go_out(run, "other", step=15)
    edit(f"{run}/config.json", tokenizer={"kind": "sentencepiece", "fingerprint": "another"})
    with pytest.raises(ValueError, match="tokenizer is not the one"):
        go_out(run, "other")


@pytest.mark.parametrize("name, settings, words", [
    ("bloom", ["model.position=none"], "model.position=none"), ("bloom", ["model.position=rope"], "model.position=rope"), ("bloom", ["model.kv_heads=1"], "model.kv_heads=1"),
    ("bloom", ["model.mlp_dim=64"], "model.mlp_dim=64"), ("llama", ["model.norm=layer"], "model.norm=layer"), ("llama", ["model.bias=true", "model.embed_norm=true"], "model.bias=True, model.embed_norm=True")])
def test_a_mixture_that_neither_model_has_is_refused_by_name(name, settings, words, work):
    cfg = tiny(name, "mixed", *settings).model
    with pytest.raises(ValueError, match=words):
        convert.family_of(cfg, "runs/mixed")


@BOTH
def test_what_the_models_differ_in_freely_is_exported(name, work):
    for settings in (["model.tied=false"], ["model.tied=true"], ["model.eps=1e-3"], ["model.kv_heads=3"]):
        assert convert.family_of(tiny(name, "mixed", *settings).model, "runs/mixed") == name
    assert convert.family_of(tiny("llama", "mixed", "model.kv_heads=1", "model.mlp_dim=40").model, "runs/mixed") == "llama"


@pytest.fixture(scope="module")
def originals(prepared, tmp_path_factory):
    """A Hugging Face folder of each model, to be copied."""
    folder = tmp_path_factory.mktemp("originals")
    return {name: save(small(name), folder / name, prepared) for name in ("bloom", "llama")}


@pytest.fixture
def folder(originals, work):
    """Make a copy of an original in the work folder; afterwards nothing may have come of it."""
    yield lambda name="llama": shutil.copytree(originals[name], "hf", dirs_exist_ok=True)
    assert not os.path.exists("runs/in") and not os.path.exists("runs/in.new") and not os.path.exists("ran"), "a refused folder leaves something behind"


def refused(words, **more):
    with pytest.raises(ValueError, match=words) as e:
        come_in("hf", **more)
    assert len(str(e.value)) < 600


@pytest.mark.parametrize("changes, words", [
    (dict(model_type="mistral"), "mistral.*BloomForCausalLM and LlamaForCausalLM are"), (dict(model_type="qwen2"), "qwen2"), (dict(model_type=["llama"]), "model_type"),
    (dict(architectures=["MixtralForCausalLM"]), "MixtralForCausalLM"), (dict(architectures=["LlamaForSequenceClassification"]), "SequenceClassification"), (dict(architectures="LlamaForCausalLM"), "architectures"),
    (dict(rope_scaling={"rope_type": "llama3", "factor": 8}, rope_parameters=None), "llama3"), (dict(rope_scaling={"type": "linear", "factor": 2}, rope_parameters=None), "linear"),
    (dict(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4}), "yarn"), (dict(rope_parameters={"full": {"rope_type": "default"}}), "RoPE"), (dict(rope_parameters=[1]), "rope_parameters"),
    (dict(rope_parameters={"rope_type": "default", "partial_rotary_factor": 0.5}), "partial_rotary_factor"), (dict(rope_theta=1e6), "contradict"),
    (dict(attention_bias=True), "attention_bias"), (dict(mlp_bias=True), "mlp_bias"), (dict(sliding_window=128), "sliding_window"), (dict(hidden_act="gelu"), "hidden_act"),
    (dict(num_local_experts=8), "num_local_experts"), (dict(num_experts=8), "num_experts"), (dict(head_dim=16), "head_dim"), (dict(partial_rotary_factor=0.5), "partial_rotary_factor"),
    (dict(rope_interleaved=True), "rope_interleaved"), (dict(quantization_config={"bits": 4}), "quantization_config"),
    (dict(num_hidden_layers=10 ** 12), "num_hidden_layers"), (dict(num_hidden_layers=10 ** 6), "1000000 layers.* of 2"), (dict(num_hidden_layers=1), "1 layers.* of 2"), (dict(num_hidden_layers=True), "num_hidden_layers"),
    (dict(hidden_size="48"), "hidden_size"), (dict(hidden_size=-48), "hidden_size"), (dict(hidden_size=48.5), "hidden_size"), (dict(hidden_size=10 ** 400), "hidden_size"), (dict(num_attention_heads=7, head_dim=None), "7 heads"),
    (dict(num_attention_heads=0), "num_attention_heads"), (dict(num_key_value_heads=3), "3 key heads"), (dict(rms_norm_eps=float("nan")), "rms_norm_eps"), (dict(rms_norm_eps=[]), "rms_norm_eps"),
    (dict(tie_word_embeddings="yes"), "tie_word_embeddings"), (dict(vocab_size=500), "with these settings it must be"), (dict(intermediate_size=48), "with these settings it must be"),
    (dict(eos_token_id="</s>"), "eos_token_id"), (dict(eos_token_id=[2, 512]), "eos_token_id"), (dict(tie_word_embeddings=True), "lm_head.weight is not the embedding")])
def test_a_llama_that_this_model_is_not_is_refused_by_name(changes, words, folder):
    folder()
    edit("hf/config.json", **changes)
    os.remove("hf/generation_config.json")
    refused(words)


@pytest.mark.parametrize("changes, words", [
    (dict(apply_residual_connection_post_layernorm=True), "apply_residual"), (dict(n_inner=96), "n_inner"), (dict(num_attention_heads=8), "contradict"), (dict(model_type="gpt2"), "gpt2"),
    (dict(tie_word_embeddings=False), "no tensor lm_head.weight, and the head is not tied"), (dict(n_embed=96), "contradict")])
def test_a_bloom_that_this_model_is_not_is_refused_by_name(changes, words, folder):
    folder("bloom")
    edit("hf/config.json", **changes)
    refused(words)


def changed(file="hf/model.safetensors", **tensors):
    all_ = {**load_file(file), **{k.replace("__", "."): v for k, v in tensors.items()}}
    save_file({k: v for k, v in all_.items() if v is not None}, file)


NORM = "model__norm__weight"


@pytest.mark.parametrize("tensors, words", [
    ({NORM: None}, "hf: there is no tensor model.norm.weight"), ({"model__extra__weight": torch.ones(3)}, "model.safetensors: the tensor model.extra.weight is none"),
    ({NORM: torch.ones(47)}, "model.safetensors: model.norm.weight is \\[47\\].*\\[48\\]"), ({NORM: torch.full((48,), torch.nan)}, "model.safetensors: model.norm.weight has values that are NaN"),
    ({NORM: torch.full((48,), torch.inf)}, "infinite"), ({NORM: torch.ones(48, dtype=torch.float64)}, "model.norm.weight is F64"), ({NORM: torch.ones(48, dtype=torch.float8_e4m3fn)}, "F8_E4M3"),
    ({"model__layers__1__self_attn__k_proj__weight": torch.ones(48, 48, dtype=torch.float16)}, "the same for q, k and v"),
    ({"norm__weight": torch.ones(48)}, "norm.weight is there twice"), ({"model__layers__7__input_layernorm__weight": torch.ones(48)}, "2 layers.* of 3"), ({"lm_head__weight": None}, "lm_head.weight, and the head")])
def test_tensors_that_are_not_the_models_are_named_with_their_file(tensors, words, folder):
    folder()
    changed(**tensors)
    refused(words)


def split():
    """Two files and their index."""
    tensors = load_file("hf/model.safetensors")
    os.remove("hf/model.safetensors")
    where = {k: f"model-0000{1 + (k > 'model.layers.1')}-of-00002.safetensors" for k in tensors}
    for f in set(where.values()):
        save_file({k: v for k, v in tensors.items() if where[k] == f}, f"hf/{f}")
    json.dump({"weight_map": where}, open("hf/model.safetensors.index.json", "w"))
    return where


@pytest.mark.parametrize("place", ["../x.safetensors", "/etc/passwd", "a\\x.safetensors", "..", ".", "a/x.safetensors", 3, None, ["x.safetensors"], "model.bin", ".x.safetensors", "x\0.safetensors"])
def test_an_index_leads_nowhere_outside_its_folder(place, folder):
    folder()
    where = split()
    json.dump({"weight_map": {**where, "model.norm.weight": place}}, open("hf/model.safetensors.index.json", "w"))
    refused("not the plain name")


def test_an_index_and_its_files_say_the_same(folder):
    folder()
    where = split()
    first, second = sorted(set(where.values()))
    json.dump({"weight_map": {**where, "model.norm.weight": first}}, open("hf/model.safetensors.index.json", "w"))
    refused(f"{first} lacks the tensor model.norm.weight|{second} has the tensor model.norm.weight")
    json.dump({"weight_map": {**where, "x": "gone.safetensors"}}, open("hf/model.safetensors.index.json", "w"))
    with pytest.raises(OSError, match="gone.safetensors"):
        come_in("hf")
    json.dump({"weight_map": where}, open("hf/model.safetensors.index.json", "w"))
    changed(f"hf/{first}", model__norm__weight=torch.ones(48))
    refused(f"{first} has the tensor model.norm.weight, and the index says otherwise")
    os.remove("hf/model.safetensors.index.json")
    refused("2 .safetensors files, and no")
    for index in ({"weight_map": []}, {"weight_map": {}}, {}):
        json.dump(index, open("hf/model.safetensors.index.json", "w"))
        refused("no weight_map")


class Trap:
    """Opened as a pickle, it makes a file."""
    def __reduce__(self):
        return builtins.open, ("ran", "w")


def test_folders_made_to_harm_are_refused_in_one_line_and_nothing_in_them_runs(folder):
    folder()
    whole = open("hf/model.safetensors", "rb").read()
    for content in (pickle.dumps(Trap()), struct.pack("<Q", 2 ** 60) + b"{}", whole[:-1], whole[:100], b"", whole + b"x", struct.pack("<Q", 2 ** 20) + b"[" * 2 ** 20):
        open("hf/model.safetensors", "wb").write(content)
        refused("not a whole safetensors file")
    os.rename("hf/model.safetensors", "hf/pytorch_model.bin")
    open("hf/pytorch_model.bin", "wb").write(pickle.dumps(Trap()))
    refused("pytorch_model.bin, a pickle.*save_pretrained")
    os.remove("hf/pytorch_model.bin")
    refused("0 .safetensors files")
    for content, words in ((b"[1]", "no JSON object"), (b"{", "not JSON"), (b"\xff", "not JSON"), (b'{"a":' * 100_000, "not JSON"), (b'{"model_type": "llama", "hidden_size": 1' + b"0" * 5000 + b"}", "digits")):
        open("hf/config.json", "wb").write(content)
        refused(words)
    os.remove("hf/config.json")
    refused("neither config.json")
    edit_ = dict(model_type="llama", auto_map={"AutoModelForCausalLM": "evil.Model"}, trust_remote_code=True)
    json.dump(edit_, open("hf/config.json", "w"))
    open("hf/evil.py", "w").write("open('ran', 'w')")
    refused("0 .safetensors files")


def test_symbolic_links_are_followed_as_in_the_cache_of_hugging_face(originals, work):
    os.makedirs("cache")
    for f in os.listdir(originals["llama"]):
        os.symlink(f"{originals['llama']}/{f}", f"cache/{f}")
    os.rename("cache/model.safetensors", "cache/weights.safetensors")          # a single file may have any name
    come_in("cache")


def test_a_folder_without_its_tokenizer_is_refused_and_one_may_be_given(folder, prepared):
    folder()
    os.remove("hf/tokenizer.model")
    refused("no tokenizer in hf.*--tokenizer DIR")
    refused("1,000 entries|500 entries and the embedding|no tokenizer", place=".")
    convert.import_folder("hf", "runs/given", str(prepared / "data/tiny-sp/tokenizer"), 5e9)
    assert tokenizers.fingerprint(tokenizers.load("runs/given/tokenizer")) == tokenizers.fingerprint(tokenizers.load(f"{prepared}/data/tiny-sp/tokenizer"))


def test_a_tokenizer_with_more_entries_than_rows_is_refused(folder, prepared):
    save(small("llama", vocab_size=400), "hf", prepared)
    refused("500 entries and the embedding 400 rows")


def test_the_ids_that_end_a_text_come_from_the_generation_settings_first(originals, work):
    shutil.copytree(originals["llama"], "hf")
    for settings, written, want in (dict(eos_token_id=[2, 7]), dict(eos_token_id=5), [2, 7]), (dict(eos_token_id=9), dict(eos_token_id=5), [9]), ({}, dict(eos_token_id=5), [5]), ({}, {}, [2]):
        json.dump(settings, open("hf/generation_config.json", "w"))
        edit("hf/config.json", **{"eos_token_id": None, **written})
        come_in("hf", run := f"runs/{len(os.listdir('runs')) if os.path.exists('runs') else 0}")
        assert config.read_json(f"{run}/config.json")["imported"]["eos"] == want
        assert json.load(open(go_out(run, f"out{run[-1]}") + "/generation_config.json"))["eos_token_id"] == (want if len(want) > 1 else want[0])


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("No space left on device"), convert.SafetensorError("I/O error: no space left")])
def test_an_interrupted_conversion_leaves_nothing(error, originals, trained, monkeypatch):
    run = trained("llama")
    monkeypatch.setattr(convert, "save_file", lambda *a: (_ for _ in ()).throw(error))
    for act in (lambda: come_in(originals["llama"]), lambda: go_out(run)):
        with pytest.raises((KeyboardInterrupt, OSError)):
            act()
    assert os.listdir("runs") == ["llama"] and not {f for f in os.listdir(".") if f.startswith("out")}


def test_nothing_that_is_there_is_written_over(originals, trained):
    for act, place in (lambda p: come_in(originals["llama"], p), "runs/mine"), (lambda p: go_out(trained("llama"), p), "out"):
        os.makedirs(place)
        open(f"{place}/kept", "w").close()
        with pytest.raises(ValueError, match="there and not empty"):
            act(place)
        assert os.listdir(place) == ["kept"]
        os.makedirs(f"{place}2.new")
        with pytest.raises(ValueError, match="delete it"):
            act(f"{place}2")
        assert os.path.exists(f"{place}2.new")


def test_a_run_appears_only_when_it_is_whole(originals, work, monkeypatch):
    seal, seen = checkpoint.seal, []
    monkeypatch.setattr(checkpoint, "seal", lambda *a: (seal(*a), seen.append(os.path.exists("runs/in"))))
    come_in(originals["bloom"])
    assert seen == [False] and checkpoint.steps("runs/in") == [0] and not os.path.exists("runs/in.new")


def test_the_commands_say_what_they_wrote_and_end_errors_in_one_line(originals, work, monkeypatch, capsys):
    def type_(*words):
        monkeypatch.setattr(sys, "argv", ["convert.py", *words])
        config.command(convert.main)
        return capsys.readouterr().out
    assert "wrote runs/in:" in (said := type_("import", originals["bloom"], "runs/in", "--shard-size", "2e4")) and "python sample.py runs/in --prompt" in said
    assert "wrote out:" in (said := type_("export", "runs/in", "out")) and "out/README.md" in said
    for words in (["import", "nowhere", "runs/x"], ["import", originals["bloom"], "runs/in"], ["export", "runs/nowhere", "x"], ["export", "runs/in", "x", "--step", "5"], ["export", "runs/in", "x", "--shard-size", "-1"]):
        with pytest.raises(SystemExit) as e:
            type_(*words)
        err = capsys.readouterr().err
        assert e.value.code == 1 and err.startswith("error: ") and err.count("\n") == 1, err


def meta(hf, folder, shards, embed_side):
    """A model of transformers as Meta writes it, by hand: q and k with the rows of a head interleaved, matrices cut among the files."""
    c, w = hf.config, {k: v.detach() for k, v in hf.state_dict().items()}
    D = c.hidden_size // c.num_attention_heads

    def interleaved(m):
        out = m.clone()
        for head in range(len(m) // D):
            for i in range(D // 2):
                out[head * D + 2 * i], out[head * D + 2 * i + 1] = m[head * D + i], m[head * D + i + D // 2]
        return out
    whole, side = {"tok_embeddings.weight": w["model.embed_tokens.weight"], "norm.weight": w["model.norm.weight"], "output.weight": w["lm_head.weight"]}, {"tok_embeddings.weight": embed_side}
    for n in range(c.num_hidden_layers):
        theirs, ours = f"model.layers.{n}.", f"layers.{n}."
        for a, b in ("q", "wq"), ("k", "wk"), ("v", "wv"), ("o", "wo"):
            m = w[f"{theirs}self_attn.{a}_proj.weight"]
            whole[f"{ours}attention.{b}.weight"] = interleaved(m) if a in "qk" else m
        for a, b in ("gate", "w1"), ("down", "w2"), ("up", "w3"):
            whole[f"{ours}feed_forward.{b}.weight"] = w[f"{theirs}mlp.{a}_proj.weight"]
        side |= {f"{ours}attention.wo.weight": 1, f"{ours}feed_forward.w2.weight": 1}
        whole |= {f"{ours}attention_norm.weight": w[f"{theirs}input_layernorm.weight"], f"{ours}ffn_norm.weight": w[f"{theirs}post_attention_layernorm.weight"]}
    os.makedirs(folder)
    for s in range(shards):
        torch.save({"rope.freqs": torch.ones(D // 2), **{k: v.chunk(shards, side.get(k, 0))[s].clone() if v.dim() == 2 else v for k, v in whole.items()}}, f"{folder}/consolidated.{s:02d}.pth")
    json.dump({"dim": c.hidden_size, "n_layers": c.num_hidden_layers, "n_heads": c.num_attention_heads, "norm_eps": c.rms_norm_eps, "multiple_of": 256, "vocab_size": -1}
              | ({"n_kv_heads": c.num_key_value_heads} if c.num_key_value_heads != c.num_attention_heads else {}), open(f"{folder}/params.json", "w"))


@pytest.mark.parametrize("shards, embed_side, changes", [(1, 0, {}), (2, 1, dict(intermediate_size=96)), (2, 0, dict(num_key_value_heads=2))])
def test_metas_own_files_give_the_logits_of_the_same_model_at_hugging_face(shards, embed_side, changes, work, prepared):
    hf = small("llama", **changes)
    meta(hf, "meta/7B", shards, embed_side)
    shutil.copy(prepared / "data/tiny-sp/tokenizer/tokenizer.model", "meta")
    model, _ = sample.load(come_in("meta/7B"))
    assert (model(IDS) - hf(IDS).logits).abs().max() < 5e-4 and model.cfg.context == 2048
    assert equal({k: v.float() for k, v in weights(go_out("runs/in")).items()}, {k: v for k, v in hf.state_dict().items()})


def test_metas_files_are_refused_where_they_are_not_understood_and_never_run(folder, prepared):
    meta(small("llama"), "hf", 2, 1)
    params = json.load(open("hf/params.json"))
    shutil.copy(prepared / "data/tiny-sp/tokenizer/tokenizer.model", "hf")
    for changes, words in ((dict(use_scaled_rope=True), "use_scaled_rope"), (dict(quantization_args={}), "quantization_args"), (dict(dim="x"), "dim"), (dict(n_layers=3), "3 layers.* of 2")):
        json.dump({**params, **changes}, open("hf/params.json", "w"))
        refused(words)
    json.dump(params, open("hf/params.json", "w"))
    good = torch.load("hf/consolidated.01.pth", weights_only=True)
    for name, t, words in (("norm.weight", good["norm.weight"] + 1, "norm.weight do not go together"), ("output.weight", good["output.weight"][1:], "output.weight do not go together"),
                           ("layers.0.attention.wq.weight", good["layers.0.attention.wq.weight"] * torch.nan, "NaN"), ("norm.weight", 3, "does not hold the tensors"), ("output.weight", torch.tensor(1.0), "does not hold the tensors")):
        torch.save({**good, name: t}, "hf/consolidated.01.pth")
        refused(words)
    torch.save({k: t.to("meta") for k, t in good.items()}, "hf/consolidated.01.pth")
    refused("does not hold the tensors")
    os.rename("hf/consolidated.01.pth", "hf/consolidated.02.pth")
    refused("these are not all slices")
    os.remove("hf/consolidated.02.pth")
    refused("are all slices there")
    json.dump({**params, "vocab_size": -1}, open("hf/params.json", "w"))
    first = torch.load("hf/consolidated.00.pth", weights_only=True)
    torch.save({k: t for k, t in first.items() if k != "output.weight"}, "hf/consolidated.00.pth")
    refused("there is no tensor output.weight")
    torch.save(first, "hf/consolidated.00.pth")
    for content in (pickle.dumps(Trap()), b"", b"x" * 1000):
        open("hf/consolidated.01.pth", "wb").write(content)
        refused("consolidated.01.pth does not hold tensors alone")
    torch.save({"a": Trap()}, "hf/consolidated.01.pth")
    refused("consolidated.01.pth does not hold tensors alone")


def test_an_imported_model_begins_and_ends_its_texts_as_its_folder_says(originals, work):
    shutil.copytree(originals["llama"], "hf")
    json.dump({"eos_token_id": [2, 7]}, open("hf/generation_config.json", "w"))
    _, tokenizer = sample.load(come_in("hf"))
    assert tokenizer.ends == {2, 7} and tokenizer.begin == tokenizer.prompt == [tokenizer.bos]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_one_value_that_is_no_number_is_enough(value, folder):
    folder()
    changed(**{NORM: torch.tensor([1.0] * 47 + [value])})
    refused("model.norm.weight has values that are NaN or infinite")


def test_a_hugging_face_folder_is_no_run_and_the_way_to_make_one_is_said(originals, work):
    for way in (sample.load, go_out, lambda folder: config.load(f"{ROOT}/configs/llama.py", [f"init_from={folder}"])):
        with pytest.raises(ValueError, match="is not a run.*convert.py import makes one of a Hugging Face folder"):
            way(originals["llama"])


def test_an_export_says_its_dtype(work, prepared):
    folder = save(small("llama").to(torch.bfloat16), work / "hf", prepared)
    assert config.read_json(f"{go_out(come_in(folder))}/config.json")["dtype"] == "bfloat16"


def test_the_card_has_the_scores_of_the_exported_step_alone(trained):
    run = trained("bloom")
    os.makedirs(f"{run}/evaluations")
    for step in 10, 20:
        config.write_json(f"{run}/evaluations/{step}.json", {"step": step, "task": f"task {step}", "shots": 0, "prompts": [{"items": 9, "rule": "sum", "sum": [0.25, 0.1], "chance": 0.5}]})
    card = open(go_out(run) + "/README.md").read()
    assert "| task 20 | 0 | 9 | sum | 0.25 | 0.5 |" in card and "task 10" not in card


def test_a_model_of_unknown_data_is_given_the_named_tasks_and_no_loss(work, prepared, monkeypatch):
    come_in(save(small("llama"), work / "hf", prepared))
    monkeypatch.setattr(evaluate.tasks, "BENCHMARK", [*evaluate.tasks.BENCHMARK][:1])
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "runs/in"])
    evaluate.main()
    assert os.listdir("runs/in/evaluations") == [f"{evaluate.tasks.BENCHMARK[0]}.json"]
