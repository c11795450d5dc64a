"""The course: handouts, the grader, the parts one by one. The sweep over all assignments is slow."""
import ast
import collections
import dataclasses
import glob
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT

import tokenizer
from course import adapters, cut, gradescope, grading, parts, sweep
from course.__main__ import main
from course.assignments import ASSIGNMENTS, names_of_tests, read_test_file, short
from course.wrong import WRONG

DECODER, GRADED = ASSIGNMENTS[3], [a for a in ASSIGNMENTS.values() if a.tests]


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


@pytest.fixture(scope="module")
def handout(tmp_path_factory):
    """The handout of assignment 3, as the command writes it."""
    folder = tmp_path_factory.mktemp("course") / "handout"
    sys.argv = ["course", "handout", "3", "--out", str(folder)]
    main()
    return folder


# ---- handouts ----

def test_a_body_goes_and_signature_decorators_and_docstring_stay():
    source = '''
class A:
    @staticmethod
    def f(x,
          y=1):
        """Doc
        string."""
        # a hint
        @other
        def g():
            return 1

        return g()      # the end

    def after(self): return 2


KEY = [
    1]
def h():
    return KEY
'''
    got = cut.without(source, ["A.f", "KEY"], 3)
    assert got == source.replace('''        # a hint
        @other
        def g():
            return 1

        return g()      # the end
''', '        raise NotImplementedError("assignment 3: A.f")\n').replace("KEY = [\n    1]\n", "")
    with pytest.raises(ValueError, match="the source has no A.z"):
        cut.without(source, ["A.z"], 3)


def definitions(source):
    """{name: (what stands before the body, all of it)} of the functions and methods of a source."""
    found = {}
    for node in ast.parse(source).body:
        for inner in getattr(node, "body", []) if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(inner, ast.FunctionDef):
                name = inner.name if inner is node else f"{node.name}.{inner.name}"
                head = [ast.unparse(part) for part in (inner.args, *inner.decorator_list)]
                found[name] = (*head, ast.get_docstring(inner)), ast.unparse(inner)
    return found


@pytest.mark.parametrize("assignment", ASSIGNMENTS.values(), ids=lambda a: str(a.number))
def test_a_handout_lacks_exactly_the_bodies_of_its_assignment(assignment):
    gone = cut.by_file([*assignment.functions, *assignment.hidden, *assignment.plain])
    sources = cut.cut_sources(assignment)
    assert {path for path in sources if not path.startswith("docs/")} == gone.keys()
    for path, names in gone.items():
        was, now = definitions(read(f"{ROOT}/{path}")), definitions(sources[path])
        changed = {name for name in was if was[name][1] != now[name][1]}
        assert changed == {name for name in names if name in was}, path
        assert all(was[name][0] == now[name][0] for name in was), f"{path}: a signature or docstring changed"
    for function in assignment.functions:
        path, _, name = function.partition(":")
        message = f'raise NotImplementedError("assignment {assignment.number}: {name}")'
        assert message in cut.source_of(sources[path], name)
    assert all(os.path.exists(f"{ROOT}/{path}") for path in assignment.left_out)


@pytest.mark.parametrize("assignment", ASSIGNMENTS.values(), ids=lambda a: str(a.number))
def test_no_line_of_an_answer_stands_elsewhere_in_its_handout(assignment):
    lines = set()
    for function in assignment.functions:
        path, _, name = function.partition(":")
        own = cut.source_of(read(f"{ROOT}/{path}"), name).split('"""')[-1]
        lines |= {line.strip() for line in own.split("\n") if len(line.strip()) >= 40}
    sources = cut.cut_sources(assignment)
    for path in cut.files_of(ROOT):
        if path.endswith((".py", ".md")) and path not in [*assignment.left_out, *cut.TEACHERS]:
            text = sources[path] if path in sources else read(f"{ROOT}/{path}")
            found = [line for line in lines if line in text]
            assert not found, f"{path} gives {found} away"


def test_the_rest_of_a_handout_is_the_repository(handout):
    cut_out = cut.cut_sources(DECODER)
    for path in cut.files_of(ROOT):
        if path in DECODER.left_out or path in cut.TEACHERS:
            assert not os.path.exists(handout / path)
        elif path in cut_out:
            assert read(handout / path) == cut_out[path]
        else:
            assert (handout / path).read_bytes() == open(f"{ROOT}/{path}", "rb").read(), path


def test_the_first_page_of_a_handout_names_page_and_command(handout):
    page = read(handout / "START.md")
    assert "course/3-decoder.md" in page and "`.venv/bin/python -m course grade . 3`" in page


def test_a_handout_of_two_assignments_lacks_both(tmp_path):
    cut.write_handout([ASSIGNMENTS[1], DECODER], tmp_path)
    for assignment in (ASSIGNMENTS[1], DECODER):
        for function in assignment.functions:
            path, _, name = function.partition(":")
            message = f'raise NotImplementedError("assignment {assignment.number}: {name}")'
            assert message in cut.source_of(read(tmp_path / path), name)
        assert not any(os.path.exists(tmp_path / path) for path in assignment.left_out)


def test_in_a_handout_only_grade_works(tmp_path, handout, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cut, "ROOT", str(handout))
    for argv in (["handout", "3", "--out", "x"], ["bundle", "3", "--out", "x.zip"], ["sweep", "3"]):
        monkeypatch.setattr("sys.argv", ["course", *argv])
        with pytest.raises(ValueError, match="this is a handout: only `grade` works here"):
            main()


def test_a_student_s_own_handout_need_not_be_python_yet(tmp_path, handout):
    shutil.copytree(handout, tmp_path / "own")
    (tmp_path / "own/model.py").write_text("def f(:")
    assert not grading.build_tree(f"{tmp_path}/own", DECODER, f"{tmp_path}/tree", root=f"{tmp_path}/own")
    assert read(tmp_path / "tree/model.py") == "def f(:"


def test_pages_name_every_test_with_its_points():
    for a in ASSIGNMENTS.values():
        page = read(a.page())
        for name, (points, needs) in a.tests.items():
            row = f"| {name} | {points} | {', '.join(f'`{n}`' for n in needs.split())} |"
            assert row in page, f"{a.page()} lacks {row}"
        for function in a.functions:
            assert short(function).split(".")[-1] in page
            assert any(short(function) in needs.split() for _, needs in a.tests.values()), function
        if a.tests:
            assert list(a.tests) == names_of_tests(read_test_file(a.number))
            assert all(grading.hints(a.number).values())
            by_hand = sum(map(int, re.findall(r"report has (\d+) points", page)))
            assert a.points() + by_hand == 100, a.page()


def test_the_table_of_wrong_versions_is_in_the_readme():
    table = read(f"{ROOT}/course/README.md")
    for number, function, mistake, *_ in WRONG:
        assert f"| {number} | `{short(function)}` | {mistake} |" in table


# ---- the grader ----

NASTY = {
    "rms_norm": "    while True:\n        pass\n",
    "layer_norm": "    import os\n    for fd in range(3, 100):\n        try:\n"
                  "            os.write(fd, b'[\"a guess\", [\"passed\", \"\"]]')\n"
                  "        except OSError:\n            pass\n    os._exit(0)\n",
    "swiglu": "    return torch.ones(2 ** 33)\n",
    "gelu": "    import sys\n    for _ in range(20_000):\n        print('x' * 1000, file=sys.stderr)\n"
            '    print(\'["token", "3", "gelu_in_its_tanh_form", "passed", ""]\', flush=True)\n'
            "    return F.gelu(x, approximate='tanh')\n",
    "alibi_slopes": "    import threading, time\n"
                    "    threading.Thread(target=time.sleep, args=(900,)).start()\n"
                    "    import os, signal\n    if os.fork() == 0:\n        time.sleep(900)\n"
                    "    p = 2 ** math.floor(math.log2(H))\n"
                    "    return 2 ** (-8 / p * (torch.arange(p) + 1.0))\n",
    "attention": "    raise KeyError('mask')\n",
    "places": "    import os\n    for fd in range(3, 100):\n        try:\n            os.write(fd, b'5')\n"
              "        except OSError:\n            pass\n    os._exit(0)\n",
}
VERDICTS = {"layer_norm_by_hand": "ended", "rms_norm_by_hand": "late", "gelu_in_its_tanh_form": "passed",
            "swiglu_by_hand": "ended", "rope_scores_depend_on_the_distance": "passed",
            "slopes_of_a_power_of_two": "passed", "slopes_of_any_number_of_heads": "wrong",
            "attention_by_hand": "error", "positions_begin_behind_the_padding": "ended",
            "heads_are_cut_and_put_together": "missing"}
OTHERS = ["conftest.py", "sitecustomize.py", "torch.py", "pytest.py", "config.py", "numpy.py", "json.py",
          "course/tests/test_3.py", "course/runner.py", "tests/conftest.py"]


@pytest.fixture(scope="module")
def nasty(tmp_path_factory, handout):
    """A submission in which each function does harm of its own, and files that nobody asked for."""
    folder = tmp_path_factory.mktemp("nasty")
    source, ours = read(handout / "model.py"), read(f"{ROOT}/model.py")
    bodies = dict(NASTY)
    for name in ("rope_angles", "rope"):
        bodies[name] = cut.source_of(ours, name).split('"""')[-1].lstrip("\n")
    for name, body in bodies.items():
        source = cut.with_body(source, name, body.replace("\n    ", "\n")[4:])
    (folder / "model.py").write_text(source)
    for name in OTHERS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("raise SystemExit('a file of a student was read')")
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --help\n")
    few = dataclasses.replace(DECODER, tests={name: DECODER.tests[name] for name in VERDICTS}, seconds=4)
    return grading.grade(str(folder), few)


def test_a_nasty_submission_costs_its_own_points_only(nasty):
    results, missing = nasty
    got = {r.test: r.verdict for r in results}
    assert got in (VERDICTS, VERDICTS | {"swiglu_by_hand": "error"}) and not missing
    assert sum(r.points for r in results) == 3 + 5 + 4


def test_sentences_help_and_say_no_answer(nasty):
    said = {r.test: r.sentence for r in nasty[0]}
    assert said["rms_norm_by_hand"] == "Not done after 4 seconds. Does each loop end?"
    assert said["heads_are_cut_and_put_together"] == "Not written yet: assignment 3: Attention.forward."
    assert said["attention_by_hand"].startswith("KeyError: 'mask' (model.py, line ")
    assert said["slopes_of_any_number_of_heads"].startswith("3 heads have 1/16, 1/256, 1/4.")
    assert said["rope_scores_depend_on_the_distance"] == ""


def test_results_have_gradescope_s_form(nasty):
    results, missing = nasty
    got = json.loads(json.dumps(grading.as_gradescope(results, ["model.py"])))
    assert got["score"] == 12 and got["output"] == "Not handed in: model.py"
    assert {tuple(t) for t in got["tests"]} == {
        ("name", "score", "max_score", "output", "status", "visibility")}
    assert {t["status"] for t in got["tests"]} == {"passed", "failed"}


def test_files_are_found_in_their_place_or_beside_each_other(tmp_path):
    (tmp_path / "course").mkdir()
    for name in ("parts.py", "course/parts.py", "model.py"):
        (tmp_path / name).write_text("")
    assert grading.handed_in(tmp_path, "course/parts.py") == f"{tmp_path}/course/parts.py"
    os.remove(tmp_path / "course/parts.py")
    assert grading.handed_in(tmp_path, "course/parts.py") == f"{tmp_path}/parts.py"
    assert grading.handed_in(tmp_path, "train.py") is None
    (tmp_path / "model.py").write_text("#" * 2_000_000)
    with pytest.raises(ValueError, match="more than 1,000,000 bytes"):
        grading.build_tree(str(tmp_path), DECODER, str(tmp_path / "tree"))


def test_what_a_user_can_cause_is_one_line(tmp_path, monkeypatch):
    for argv, words in ((["handout", "11", "--out", "x"], "there is no assignment 11"),
                        (["handout", "3", "--out", ROOT], "is not empty"),
                        (["handout", "3", "--out", f"{ROOT}/README.md"], "is not empty"),
                        (["sweep", "10"], "graded by people"),
                        (["grade", f"{tmp_path}/none", "3"], "is no folder"),
                        (["grade", str(tmp_path), "10"], "graded by people"),
                        (["bundle", "10", "--out", "x.zip"], "graded by people")):
        monkeypatch.setattr("sys.argv", ["course", *argv])
        with pytest.raises(ValueError, match=words):
            main()


def test_a_missing_library_is_said_with_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "runner.py").write_text("import safetensorz")
    monkeypatch.setattr(grading, "HERE", str(tmp_path))
    with pytest.raises(OSError, match="No module named 'safetensorz'; `make .venv/ready` installs it"):
        grading.run({"token": ""}, [], 60)


def test_wrong_versions_fail_and_a_missing_body_is_missing():
    few = [one for one in WRONG if one[1] in ("model.py:swiglu", "model.py:gelu")]
    one = dataclasses.replace(DECODER, functions=["model.py:swiglu"], hidden=[], plain={}, tests={
        name: DECODER.tests[name] for name in ("swiglu_by_hand", "gelu_in_its_tanh_form")})
    rows, problems = sweep.run_sweep([one], wrong=few, handouts=False)
    assert not problems and len(rows) == len(few) == 3 and all(failed for *_, failed in rows)
    with pytest.raises(ValueError, match="swiglu has no 'tanhx' any more"):
        sweep.wrong_source(read(f"{ROOT}/model.py"), "swiglu", "tanhx", "")


def test_a_bundle_has_scripts_that_run_and_no_solution(tmp_path):
    gradescope.write_bundle(DECODER, tmp_path / "a.zip", tmp_path / "scratch")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        names = archive.namelist()
        assert {"setup.sh", "run_autograder", "grader/course/tests/test_3.py"} <= {*names}
        assert not {f"grader/{path}" for path in [*cut.TEACHERS, *DECODER.left_out]} & {*names}
        modes = [archive.getinfo(name).external_attr >> 16 for name in ("setup.sh", "run_autograder")]
        assert modes == [0o755, 0o755]
        source = archive.read("grader/model.py").decode()
        for name in ("setup.sh", "run_autograder"):
            (tmp_path / name).write_bytes(archive.read(name))
            assert subprocess.run(["bash", "-n", str(tmp_path / name)]).returncode == 0
    own = read(f"{ROOT}/model.py")
    for function in DECODER.functions:
        last = cut.source_of(own, short(function)).splitlines()[-1].strip()
        assert source.count(last) < own.count(last)


@pytest.mark.slow
@pytest.mark.parametrize("line, said", [
    ("def f(:", "SyntaxError: invalid syntax (model.py, line 1). "),
    ("import os; os.kill(os.getppid(), 9)", "Your code ended the program: "),
    ("open(__file__.replace('model.py', 'course/tests/test_3.py'), 'a').write('# mine')",
     "Your code wrote into the files of the grader; nothing counts."),
    ("import os, time; os.fork() or (os.setsid(), time.sleep(60), os._exit(0))", "")])
def test_harm_that_is_done_while_a_file_is_imported(tmp_path, line, said):
    (tmp_path / "model.py").write_text(f"{line}\n{read(f'{ROOT}/model.py')}")
    few = dataclasses.replace(DECODER, tests={"swiglu_by_hand": DECODER.tests["swiglu_by_hand"]})
    [result], _ = grading.grade(str(tmp_path), few)
    assert result.sentence.startswith(said) and result.points == (0 if said else 5)


@pytest.mark.slow
def test_a_bundle_grades_as_on_gradescope(tmp_path, handout):
    gradescope.write_bundle(DECODER, tmp_path / "a.zip", tmp_path / "scratch")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        archive.extractall(tmp_path / "source")
    for name in ("submission", "results"):
        (tmp_path / name).mkdir()
    (tmp_path / "submission/model.py").write_text(read(f"{ROOT}/model.py"))
    environment = {**os.environ, "AUTOGRADER": str(tmp_path), "VENV": sys.prefix}
    scores = []
    for _ in range(2):
        done = subprocess.run(["bash", str(tmp_path / "source/run_autograder")], env=environment,
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        scores.append(json.loads(read(tmp_path / "results/results.json")))
    assert scores[0] == scores[1] and scores[0]["score"] == 100


@pytest.mark.slow
def test_every_mistake_fails_a_test_and_every_missing_body_exactly_its_tests():
    rows, problems = sweep.run_sweep(GRADED)
    assert not problems, "\n".join(problems)
    assert sweep.table(rows) in read(f"{ROOT}/course/README.md"), "python -m course sweep prints the table"
    assert len(rows) == len(WRONG) >= 40 and {n for n, *_ in rows} == {a.number for a in GRADED}


# ---- the parts one by one ----

def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_attention_of_plain_tensors():
    q, k, v = draw(2, 3, 4, 8), draw(2, 3, 6, 8, seed=1), draw(2, 3, 6, 8, seed=2)
    mask = torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(3)) > 0.4
    mask[..., 0] = True
    for given in (None, mask, mask[0, 0]):
        want = F.scaled_dot_product_attention(q, k, v, given)
        assert torch.allclose(adapters.run_scaled_dot_product_attention(q, k, v, given), want, atol=1e-5)
    got = adapters.run_scaled_dot_product_attention(q[0, 0], k[0, 0], v[0, 0], mask[0, 0])
    want = F.scaled_dot_product_attention(q[0, 0], k[0, 0], v[0, 0], mask[0, 0])
    assert torch.allclose(got, want, atol=1e-5)
    causal = adapters.run_scaled_dot_product_attention(
        q[:, :, :4], k[:, :, :4], v[:, :, :4], torch.ones(4, 4).tril().bool(), adapters.run_alibi_slopes(3))
    assert causal.shape == (2, 3, 4, 8)


def test_multihead_attention_is_that_of_torch():
    x, w = draw(2, 5, 12), [draw(12, 12, seed=s) for s in range(4)]
    want, _ = F.multi_head_attention_forward(
        *(x.transpose(0, 1),) * 3, 12, 3, torch.cat(w[:3]), None, None, None, False, 0.0, w[3], None,
        attn_mask=torch.ones(5, 5).triu(1).bool(), need_weights=False)
    got = adapters.run_multihead_self_attention(12, 3, *w, x)
    assert torch.allclose(got, want.transpose(0, 1), atol=1e-4)


def test_rope_turns_neighbours_as_complex_numbers():
    x, pos = draw(2, 3, 4, 8), torch.tensor([3, 0, 7, 1])
    angle = pos[:, None] * 100.0 ** (-torch.arange(0, 8, 2) / 8)
    turned = torch.view_as_complex(x.unflatten(-1, (4, 2))) * torch.polar(torch.ones_like(angle), angle)
    want = torch.view_as_real(turned).flatten(-2)
    assert torch.allclose(adapters.run_rope(8, 100.0, 16, x, pos), want, atol=1e-5)
    assert torch.allclose(adapters.run_rope(8, 100.0, 16, x[0, 0], pos), want[0, 0], atol=1e-5)
    rows = adapters.run_rope(8, 100.0, 16, x, pos.expand(2, 1, 4))
    assert torch.allclose(rows, want, atol=1e-5)
    assert not torch.allclose(adapters.run_rope(8, 100.0, 16, x, pos, "halves"), want, atol=1e-2)


def weights_of_llama(C, width, layers, V):
    found = {"token_embeddings.weight": draw(V, C), "ln_final.weight": draw(C), "lm_head.weight": draw(V, C)}
    shapes = {**{f"attn.{name}_proj": (C, C) for name in ("q", "k", "v", "output")}, "ffn.w1": (width, C),
              "ffn.w2": (C, width), "ffn.w3": (width, C), "ln1": (C,), "ln2": (C,)}
    for i in range(layers):
        for j, (name, shape) in enumerate(shapes.items()):
            found[f"layers.{i}.{name}.weight"] = draw(*shape, seed=20 * i + j) / 3
    return found


def test_a_language_model_from_weights_alone():
    """Written out with PyTorch's functions."""
    C, H, width, layers, V, T = 16, 4, 24, 2, 19, 5
    w = weights_of_llama(C, width, layers, V)
    ids = torch.tensor([[1, 5, 18, 2, 2], [0, 7, 7, 3, 4]])
    angle = torch.arange(T)[:, None] * 10_000.0 ** (-torch.arange(0, 4, 2) / 4)
    turn = torch.polar(torch.ones_like(angle), angle)
    x = F.embedding(ids, w["token_embeddings.weight"])
    for i in range(layers):
        own = {name.split(".", 2)[2].removesuffix(".weight"): p for name, p in w.items()
               if f"layers.{i}." in name}
        y = F.rms_norm(x, (C,), own["ln1"], 1e-5)
        q, k, v = (F.linear(y, own[f"attn.{n}_proj"]).view(2, T, H, 4).transpose(1, 2) for n in "qkv")
        q, k = (torch.view_as_complex(z.unflatten(-1, (2, 2))) * turn for z in (q, k))
        q, k = (torch.view_as_real(z).flatten(-2) for z in (q, k))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(-2)
        x = x + F.linear(y, own["attn.output_proj"])
        y = F.rms_norm(x, (C,), own["ln2"], 1e-5)
        x = x + F.linear(F.silu(F.linear(y, own["ffn.w1"])) * F.linear(y, own["ffn.w3"]), own["ffn.w2"])
    want = F.linear(F.rms_norm(x, (C,), w["ln_final.weight"], 1e-5), w["lm_head.weight"])
    got = adapters.run_transformer_lm(V, 8, C, layers, H, width, 10_000.0, w, ids)
    assert torch.allclose(got, want, atol=1e-4)


def test_losses_norms_and_elementwise_parts_are_those_of_torch():
    x = draw(3, 4, 7)
    targets = torch.randint(0, 7, (3, 4), generator=torch.Generator().manual_seed(1))
    want = F.cross_entropy(x.flatten(0, 1), targets.flatten())
    assert torch.allclose(adapters.run_cross_entropy(x, targets), want)
    assert torch.allclose(adapters.run_cross_entropy(1000 * x, targets), F.cross_entropy(
        1000 * x.flatten(0, 1), targets.flatten()))
    assert torch.allclose(adapters.run_silu(x), F.silu(x))
    assert adapters.run_softmax(x, 1).sum(1).allclose(torch.ones(3, 7))
    want = F.rms_norm(x, (7,), draw(7), 1e-5)
    assert torch.allclose(adapters.run_rmsnorm(7, 1e-5, draw(7), x), want, atol=1e-6)
    w1, w2, w3 = draw(5, 7), draw(7, 5), draw(5, 7, seed=2)
    want = (F.silu(x @ w1.t()) * (x @ w3.t())) @ w2.t()
    assert torch.allclose(adapters.run_swiglu(7, 5, w1, w2, w3, x), want, atol=1e-5)


def train_with(cls, **settings):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    optimizer = cls(net.parameters(), lr=1e-2, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, **settings)
    return net, optimizer


def steps(net, optimizer, numbers):
    for n in numbers:
        optimizer.zero_grad()
        (net(draw(5, 3, seed=n)) ** 2).mean().backward()
        adapters.run_gradient_clipping(net.parameters(), 0.5)
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def test_adamw_clipping_and_the_schedule_are_those_of_torch():
    ours = steps(*train_with(adapters.get_adamw_cls()), range(20))
    theirs = steps(*train_with(torch.optim.AdamW), range(20))
    assert torch.allclose(ours, theirs, atol=1e-5)
    p = [torch.nn.Parameter(torch.zeros(3)) for _ in range(2)]
    q = [torch.nn.Parameter(torch.zeros(3)) for _ in range(2)]
    for a, b, s in zip(p, q, (0, 1)):
        a.grad, b.grad = draw(3, seed=s), draw(3, seed=s)
    adapters.run_gradient_clipping(p, 0.1)
    torch.nn.utils.clip_grad_norm_(q, 0.1)
    assert all(torch.allclose(a.grad, b.grad, atol=1e-6) for a, b in zip(p, q))
    got = [adapters.run_get_lr_cosine_schedule(i, 1.0, 0.1, 7, 21) for i in (0, 1, 7, 14, 21, 25)]
    assert got == pytest.approx([0, 1 / 7, 1, 0.55, 0.1, 0.1])


@pytest.mark.parametrize("cls", [torch.optim.AdamW, adapters.AdamW])
def test_a_saved_state_goes_on_to_the_bit(cls, tmp_path):
    net, optimizer = train_with(cls)
    steps(net, optimizer, range(5))
    buffer = io.BytesIO()
    for out in (tmp_path / "state", buffer):
        adapters.run_save_checkpoint(net, optimizer, 5, out)
    want = steps(net, optimizer, range(5, 9))
    buffer.seek(0)
    for source in (tmp_path / "state", buffer):
        other, its = train_with(cls)
        assert adapters.run_load_checkpoint(source, other, its) == 5
        assert its.param_groups[0]["betas"] == (0.9, 0.99)
        assert torch.equal(steps(other, its, range(5, 9)), want)


def test_batches_of_plain_arrays():
    tokens = np.arange(101, dtype=np.uint16)
    x, y = adapters.run_get_batch(tokens, 64, 7, "cpu", seed=0)
    assert x.shape == (64, 7) and torch.equal(x + 1, y) and {0, 93} & {*x[:, 0].tolist()} and y.max() <= 100
    windows = [adapters.run_rows(tokens, 5, 10, step, seed=1) for step in range(4)]
    assert all(torch.equal(x + 1, y) for x, y in windows)
    firsts = torch.cat([x[:, 0] for x, _ in windows]).tolist()
    assert sorted(firsts[:10]) == sorted(firsts[10:]) == list(range(0, 100, 10))
    assert firsts[:10] != firsts[10:]


def test_bpe_with_special_tokens(tmp_path):
    """Ties go to the greater pair, as in the example of CS336's handout."""
    text = "low low low low low lower lower widest widest widest newest newest newest newest newest newest"
    (tmp_path / "text.txt").write_text("<|end|>".join([text, ""]))
    vocab, merges = adapters.run_train_bpe(tmp_path / "text.txt", 256 + 1 + 6, ["<|end|>"], pattern=r"\S+")
    assert [(a + b).decode() for a, b in merges] == ["st", "est", "ow", "low", "west", "ne"]
    assert len(vocab) == 263 and b"<|end|>" in vocab.values()
    tok = adapters.get_tokenizer(vocab, merges, ["<|end|>"], pattern=r"\S+|\s+")
    assert [vocab[i] for i in tok.encode("newest<|end|>")] == [b"ne", b"west", b"<|end|>"]
    for text in ("", "é न 😀 low<|end|><|end|>", " <|end"):
        assert tok.decode(tok.encode(text)) == text
    assert list(tok.encode_iterable(["low ", "newest"])) == tok.encode("low newest")


def test_merges_and_ids_are_those_of_the_program():
    words = read(f"{ROOT}/samples/en.txt").split()
    count = collections.Counter(" " + word for word in words)
    want = tokenizer.merge_most_frequent(count, 260 + 80)
    bpe = tokenizer.BPE(want)
    age = {entry: i for i, entry in enumerate(bpe.entries)}

    def older(pairs):
        return min(pairs, key=lambda pair: (age[pair[0]], age[pair[1]]))
    assert parts.train_bpe({word.encode(): n for word, n in count.items()}, 80, older) == want
    plain = adapters.get_tokenizer(dict(enumerate(bpe.entries)), want, pattern=tokenizer.PIECES)
    text = read(f"{ROOT}/samples/fr.txt")
    assert plain.encode(text) == bpe.encode(text)


def test_filters_of_plain_strings(tmp_path):
    mask = "|||EMAIL_ADDRESS|||"
    assert adapters.run_mask_emails("a@b.org and c@d.com") == (f"{mask} and {mask}", 2)
    assert adapters.run_mask_ips("at 192.168.0.1 or 1.2.3.4.5", "IP") == ("at IP or 1.2.3.4.5", 1)
    for number in ("2831823829", "(283)-182-3829", "(283) 182 3829", "283-182-3829"):
        assert adapters.run_mask_phone_numbers(f"call {number} now") == ("call |||PHONE_NUMBER||| now", 1)
    assert adapters.run_mask_phone_numbers("12345678901234567") == ("12345678901234567", 0)
    assert adapters.run_extract_text_from_html_bytes(b"<p>Caf\xc3\xa9 &amp; <b>bar</b></p>") == "Café & bar"
    assert adapters.run_rule("one\nif {", "lines_with_code") == "one"
    good = "The quick brown fox jumps over the lazy dog. " * 10
    assert adapters.run_gopher_quality_filter(good)
    bullets = "- " + "word " * 20 + "# # #\n"
    assert adapters.run_gopher_quality_filter(5 * bullets), "the other limits are off"
    for bad in ("word " * 49, "a " * 100, "incomprehensibilities " * 100, "1234 " * 100,
                "the word is...\n" * 30):
        assert not adapters.run_gopher_quality_filter(bad)


def test_duplicates_of_plain_files(tmp_path):
    (tmp_path / "a.txt").write_text("head\none\ncommon\n")
    (tmp_path / "b.txt").write_text("two\ncommon\nthree\n\n")
    adapters.run_exact_line_deduplication([tmp_path / "a.txt", tmp_path / "b.txt"], tmp_path / "out")
    assert read(tmp_path / "out/a.txt") == "head\none\n" and read(tmp_path / "out/b.txt") == "two\nthree\n\n"
    words = [f"w{i}" for i in range(200)]
    texts = {
        "x": " ".join(words),
        "y": " ".join(words).upper() + "!",
        "z": " ".join(words[:190] + ["new"] * 10),
        "other": " ".join(f"v{i}" for i in range(200)),
        "half": " ".join(words[:100] + [f"u{i}" for i in range(100)]),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    adapters.run_minhash_deduplication([tmp_path / n for n in texts], 100, 20, 3, 0.8, tmp_path / "kept")
    assert sorted(os.listdir(tmp_path / "kept")) == ["half", "other", "x"]


def test_nothing_in_the_program_knows_the_course():
    for path in glob.glob(f"{ROOT}/**/*.py", recursive=True):
        name = os.path.relpath(path, ROOT)
        if not name.startswith(("course", "tests", ".venv")):
            assert "import course" not in read(path) and "from course" not in read(path), name
