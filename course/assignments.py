"""The assignments: which functions are cut out, which tests grade them, for how many points.

A test is a function in course/tests/test_N.py. Its docstring is the sentence that a student reads when it
fails. It names the functions that it needs: without one of these it fails, and without any other it passes.
"""
import dataclasses
import glob
import os
import re

HERE = os.path.dirname(os.path.abspath(__file__))


@dataclasses.dataclass
class Assignment:
    number: int
    title: str
    functions: list             # what a student writes: "file.py:function" or "file.py:Class.method"
    tests: dict                 # {test: (points, the functions that it needs, by their short names)}
    # what would give the answer away gets another body, {function: body}, or none; constants are taken out
    plain: dict = dataclasses.field(default_factory=dict)
    hidden: list = dataclasses.field(default_factory=list)
    left_out: list = dataclasses.field(default_factory=list)        # files, for the same reason
    seconds: float = 20         # that one test may take

    def files(self):
        """The files that a student hands in."""
        return sorted({name.partition(":")[0] for name in self.functions})

    def page(self):
        return glob.glob(f"{HERE}/{self.number}-*.md")[0]

    def points(self):
        return sum(points for points, _ in self.tests.values())


def short(function):
    """short("model.py:Attention.forward") -> "Attention.forward" """
    return function.partition(":")[2]


DECODER = Assignment(
    3, "Parts of the decoder",
    ["model.py:layer_norm", "model.py:rms_norm", "model.py:gelu", "model.py:swiglu", "model.py:rope",
     "model.py:alibi_slopes", "model.py:attention", "model.py:Attention.forward", "model.py:places"],
    {
        "layer_norm_by_hand": (4, "layer_norm"),
        "rms_norm_by_hand": (4, "rms_norm"),
        "norms_survive_half_precision": (4, "layer_norm rms_norm"),
        "gelu_in_its_tanh_form": (3, "gelu"),
        "swiglu_by_hand": (5, "swiglu"),
        "rope_turns_a_pair_by_its_angle": (6, "rope"),
        "rope_scores_depend_on_the_distance": (6, "rope"),
        "rope_takes_a_position_for_each_row": (4, "rope"),
        "slopes_of_a_power_of_two": (4, "alibi_slopes"),
        "slopes_of_any_number_of_heads": (6, "alibi_slopes"),
        "attention_by_hand": (6, "attention"),
        "attention_looks_back_only": (6, "attention"),
        "attention_of_the_last_queries": (5, "attention"),
        "attention_obeys_a_mask": (5, "attention"),
        "attention_shares_key_heads": (5, "attention"),
        "attention_adds_the_bias_of_alibi": (6, "attention"),
        "places_of_a_whole_text_and_of_one_token": (3, "places"),
        "places_with_left_padding": (6, "places"),
        "heads_are_cut_and_put_together": (4, "Attention.forward"),
        "positions_turn_q_and_k_or_give_slopes": (2, "Attention.forward rope alibi_slopes"),
        "cached_equals_uncached_in_bloom": (3, "layer_norm gelu alibi_slopes attention Attention.forward places"),
        "cached_equals_uncached_in_llama": (3, "rms_norm swiglu rope attention Attention.forward places"),
    },
    plain={"fast/attention.py:choose": "return attention"},
    hidden=[f"fast/attention.py:{name}" for name in ("bias", "fused", "blocks", "flex", "folded")],
    left_out=["tests/test_model.py", "tests/test_attention.py"])

TRAINING = Assignment(
    4, "Loss, optimizer and schedule",
    ["model.py:cross_entropy", "train.py:lr_at", "train.py:adamw", "train.py:gradients",
     "course/parts.py:adamw_step", "course/parts.py:clip_gradients"],
    {
        "loss_of_equal_logits": (6, "cross_entropy"),
        "loss_leaves_out_what_is_not_scored": (6, "cross_entropy"),
        "loss_of_large_logits_is_finite": (5, "cross_entropy"),
        "rate_rises_from_zero_to_its_peak": (7, "lr_at"),
        "rate_falls_as_a_cosine": (7, "lr_at"),
        "rate_at_the_end_and_after_it": (6, "lr_at"),
        "decay_is_for_matrices": (8, "adamw"),
        "optimizer_has_its_settings": (5, "adamw"),
        "first_step_by_hand": (7, "adamw_step"),
        "steps_are_those_of_torch": (8, "adamw_step"),
        "decay_does_not_pass_the_moments": (5, "adamw_step"),
        "norm_is_that_of_all_gradients": (6, "clip_gradients"),
        "small_gradients_stay": (5, "clip_gradients"),
        "cutting_the_batch_changes_nothing": (8, "gradients"),
        "rows_of_unequal_length_weigh_by_their_targets": (6, "gradients"),
        "products_are_made_in_the_precision_that_is_asked_for": (5, "gradients"),
    },
    plain={"fast/loss.py:cross_entropy": "from model import cross_entropy as plain\nreturn plain(x, weight, targets)"},
    hidden=["fast/loss.py:loss_and_gradient", "fast/loss.py:SummedLoss.forward", "fast/loss.py:SummedLoss.backward"],
    left_out=["tests/test_loss.py", "tests/test_train.py"])

ASSIGNMENTS = {a.number: a for a in (DECODER, TRAINING)}


def get_assignment(number):
    if number not in ASSIGNMENTS:
        raise ValueError(f"there is no assignment {number}; they are {', '.join(map(str, ASSIGNMENTS))}")
    return ASSIGNMENTS[number]


def read_test_file(number):
    with open(f"{HERE}/tests/test_{number}.py", encoding="utf-8") as f:
        return f.read()


def test_names(source):
    """The names of the tests in a source, without "test_"."""
    return re.findall(r"^def test_(\w+)", source, re.M)
