import os

import pytest
import sample
import torch
import train
from conftest import run, tiny
from sample import Text, choose, continuations, generate

BOTH = pytest.mark.parametrize("name", ["bloom", "llama"])
PROMPTS = ["Once upon a time", "One day, Mina heard", "", "Un"]


@pytest.fixture(scope="module")
def runs(prepared, tmp_path_factory):
    folder, before = tmp_path_factory.mktemp("runs"), os.getcwd()
    os.chdir(folder)
    os.symlink(prepared / "data", "data")
    for name in ("bloom", "llama"):
        train.train(tiny(name, name, "run.tokens=12800", "optim.lr=1e-2", "run.save_every=50", "run.eval_every=100"))
    os.chdir(before)
    return folder / "runs"


def texts(model, tokenizer, prompts, **settings):
    out = [""] * len(prompts)
    for b, new in continuations(model, tokenizer, prompts, **settings):
        out[b] += new
    return out


@BOTH
@pytest.mark.parametrize("temperature", [0, 0.8])
def test_a_batch_of_unequal_prompts_equals_one_by_one(runs, name, temperature):
    model, tokenizer = sample.load(runs / name)
    settings = dict(tokens=12, temperature=temperature, top_p=0.95, seed=3)
    batch = texts(model, tokenizer, PROMPTS, **settings)
    assert batch == [texts(model, tokenizer, [p], **settings)[0] for p in PROMPTS] and len(set(batch)) > 1


@BOTH
def test_greedy_generation_is_the_argmax_of_the_uncached_model(runs, name):
    model, tokenizer = sample.load(runs / name)
    ids = tokenizer.prompt + tokenizer.encode("Once upon a")
    drawn = [i for _, i in generate(model, tokenizer, [ids], 12, temperature=0)]
    for i in drawn:
        assert i == model(torch.tensor([ids]))[0, -1, :tokenizer.vocab].argmax()
        ids = ids + [i]


def test_top_k_top_p_and_temperature_by_hand():
    logits = torch.log(torch.tensor([0.1, 0.5, 0.3, 0.1]))
    def drawn(**k):
        g = torch.Generator().manual_seed(0)
        return [choose(logits, k.get("t", 1.0), k.get("top_k"), k.get("top_p", 1.0), g) for _ in range(2000)]
    assert set(drawn(top_k=2)) == {1, 2} and set(drawn(top_p=0.5)) == {1} and set(drawn(top_p=0.51)) == {1, 2} and set(drawn(t=0)) == {1}
    counts = torch.bincount(torch.tensor(drawn()), minlength=4) / 2000
    assert torch.allclose(counts, logits.exp(), atol=0.04), "2000 draws: three standard deviations are 0.034"
    assert (torch.tensor(drawn(t=0.25)) == 1).float().mean() > 0.85, "0.5^4 / (0.1^4 + 0.5^4 + 0.3^4 + 0.1^4) = 0.883"


def test_padding_ids_are_never_drawn(runs):
    model, tokenizer = sample.load(runs / "bloom")
    assert model.cfg.vocab == 512 and tokenizer.vocab == 500
    with torch.no_grad():
        model.embed.weight[500:] = 100 * model.norm.bias + 10       # make them the likeliest by far
    drawn = [i for _, i in generate(model, tokenizer, [[5, 6]], 50, temperature=5.0)]
    assert drawn and max(drawn) < 500


def test_end_of_text_ends_a_prompt(runs, monkeypatch):
    model, tokenizer = sample.load(runs / "bloom")
    order = iter([7, 8, 9, tokenizer.eos, 10, 11, 12, 13])
    monkeypatch.setattr(sample, "choose", lambda *a: next(order))
    assert list(generate(model, tokenizer, [[5], [6]], 4)) == [(0, 7), (1, 8), (0, 9), (0, 10), (0, 11)]


def test_streaming_never_shows_half_a_character_or_the_beginning_of_a_stop_string():
    text, shown = Text(["END", "\n\n"]), []
    for byte in "né 🦙 E ENx EN".encode():
        shown.append(text.add(bytes([byte])))
    assert "\ufffd" not in "".join(shown) and "".join(shown) == "né 🦙 E ENx "
    assert text.add(b"D and more") == "" and text.stopped and text.text == "né 🦙 E ENx "
    half = Text()
    assert half.add("é".encode()[:1]) == "" and half.add(b"", final=True) == "\ufffd"


def test_stop_strings_are_not_shown(runs):
    model, tokenizer = sample.load(runs / "bloom")
    free = texts(model, tokenizer, ["Once"], tokens=40, temperature=1.0, seed=1)[0]
    stop = free[5:8]
    assert len(stop) == 3 and texts(model, tokenizer, ["Once"], tokens=40, temperature=1.0, seed=1, stops=[stop])[0] == free[:free.index(stop)]


def test_beyond_the_context_alibi_goes_on_and_rope_says_no(runs):
    long = "Once upon a time there was a girl. " * 6
    model, tokenizer = sample.load(runs / "bloom")
    assert len(tokenizer.encode(long)) > model.cfg.context and texts(model, tokenizer, [long], tokens=4)[0]
    model, tokenizer = sample.load(runs / "llama")
    with pytest.raises(ValueError, match="more than the 32 this model was trained on"):
        texts(model, tokenizer, [long], tokens=4)


def test_the_command_takes_its_prompt_from_argument_file_and_standard_input(runs, tmp_path):
    (tmp_path / "p.txt").write_text("Once upon\nOne day\n")
    args = [runs / "bloom", "--tokens", 5, "--seed", 1]
    one = run("sample.py", *args, "--prompt", "Once upon")
    assert one.returncode == 0 and one.stdout.startswith("Once upon"), one.stderr
    assert run("sample.py", *args, input="Once upon\n").stdout == one.stdout
    both = run("sample.py", *args, "--file", tmp_path / "p.txt").stdout
    assert both.split("\n---\n")[0] == one.stdout.rstrip("\n") and "One day" in both
    for bad, words in ([runs / "none", "--prompt", "a"], "is not a run"), ([*args, "--prompt", "a", "--step", 7], "no checkpoint of step 7"), ([*args, "--prompt", "a", "--top-p", 0], "--top-p above 0"), ([*args, "--prompt", "a", "--device", "mps"], "this machine has none"):
        out = run("sample.py", *bad)
        assert out.returncode == 1 and words in out.stderr and out.stderr.count("\n") == 1, out


def test_a_damaged_checkpoint_is_passed_over_when_sampling(runs, tmp_path, capsys):
    import shutil
    shutil.copytree(runs / "bloom", tmp_path / "r")
    newest = tmp_path / "r/checkpoints/0000100/model"
    path = newest / os.listdir(newest)[0]
    path.write_bytes(path.read_bytes()[:-4])
    sample.load(tmp_path / "r")
    assert "using the one before it" in capsys.readouterr().out
