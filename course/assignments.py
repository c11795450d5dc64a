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


# what stands in a handout in the place of a fast form
PLAIN_LOSS = "from model import cross_entropy as plain\nreturn plain(x, weight, targets)"
PLAIN_BPE = """from tokenizer import merge_most_frequent
merges = merge_most_frequent(count, vocab)
most = len(SPECIALS) + len(BYTES) + len(merges)
if most < vocab:
    raise TooManyEntries(vocab, most)
return merges"""
PLAIN_SPECIAL = """if any(name in text for name in self.special_ids):
    raise NotImplementedError("left out of handout 1: special tokens that a text spells")
return self.encode(text)"""

TOKENIZER = Assignment(
    1, "Byte-level BPE",
    ["tokenizer.py:merge_most_frequent", "tokenizer.py:Tokenizer.decode", "course/parts.py:encode_piece",
     "course/parts.py:split_specials"],
    {
        "merges_by_hand": (8, "merge_most_frequent"),
        "pairs_count_as_often_as_their_piece": (6, "merge_most_frequent"),
        "ties_go_to_the_older_parts": (7, "merge_most_frequent"),
        "a_run_of_one_letter": (7, "merge_most_frequent"),
        "what_occurs_once_is_not_joined": (5, "merge_most_frequent"),
        "letters_are_bytes": (5, "merge_most_frequent"),
        "the_earliest_merge_comes_first": (8, "encode_piece"),
        "merges_build_on_merges": (6, "encode_piece"),
        "equal_pairs_are_joined_from_the_left": (5, "encode_piece"),
        "single_bytes_and_nothing": (5, "encode_piece"),
        "training_and_encoding_agree": (6, "merge_most_frequent encode_piece"),
        "special_tokens_are_parts_of_their_own": (6, "split_specials"),
        "the_longer_special_token_counts": (6, "split_specials"),
        "a_letter_may_be_cut_by_tokens": (8, "Tokenizer.decode"),
        "broken_bytes_are_shown_as_such": (6, "Tokenizer.decode"),
        "the_space_in_front_goes_once": (6, "Tokenizer.decode"),
    },
    plain={"corpus/bpe.py:train_bpe": PLAIN_BPE, "tokenizer.py:Tokenizer.ids_with_special": PLAIN_SPECIAL},
    hidden=[*(f"corpus/bpe.py:Places.{name}" for name in ("born", "recount", "join")),
            "course/parts.py:train_bpe", "course/parts.py:join"],
    left_out=["tests/test_tokenizer.py"])

FERTILITY = Assignment(
    2, "SentencePiece and fertility: which languages pay, and why",
    ["corpus/pieces.py:shares", "corpus/pieces.py:short_lines", "vocabulary.py:piece_bytes",
     "corpus/fertility.py:figures", "corpus/fertility.py:monolingual"],
    {
        "shares_by_hand": (6, "shares"),
        "alpha_decides_between_sizes_and_languages": (5, "shares"),
        "more_than_there_is_is_everything": (3, "shares"),
        "lines_have_a_length_that_is_read": (3, "short_lines"),
        "no_line_is_empty": (2, "short_lines"),
        "pieces_become_bytes": (4, "piece_bytes"),
        "what_only_looks_like_a_byte": (3, "piece_bytes"),
        "a_count_by_hand": (6, "figures"),
        "words_count_as_often_as_they_occur": (4, "figures"),
        "words_that_are_cut": (4, "figures"),
        "tokens_of_one_byte": (4, "figures"),
        "the_space_before_a_word": (5, "figures"),
        "what_is_measured_was_not_trained_on": (4, "monolingual figures"),
        "the_criterion_of_bloom": (4, "monolingual figures"),
        "too_little_text_is_left_out": (3, "monolingual figures"),
    },
    left_out=["tests/test_tokenizer.py", "tests/test_fertility.py"])

# what a whole model needs
BLOOM = "layer_norm gelu alibi_slopes attention Attention.forward places"
LLAMA = "rms_norm swiglu rope_angles rope attention Attention.forward places"

DECODER = Assignment(
    3, "Parts of the decoder",
    ["model.py:layer_norm", "model.py:rms_norm", "model.py:gelu", "model.py:swiglu",
     "model.py:rope_angles", "model.py:rope", "model.py:alibi_slopes", "model.py:attention",
     "model.py:Attention.forward", "model.py:places"],
    {
        "layer_norm_by_hand": (4, "layer_norm"),
        "rms_norm_by_hand": (4, "rms_norm"),
        "norms_survive_half_precision": (4, "layer_norm rms_norm"),
        "gelu_in_its_tanh_form": (3, "gelu"),
        "swiglu_by_hand": (5, "swiglu"),
        "rope_turns_a_pair_by_its_angle": (5, "rope_angles rope"),
        "rope_scales_its_frequencies": (2, "rope_angles"),
        "rope_scores_depend_on_the_distance": (5, "rope_angles rope"),
        "rope_takes_a_position_for_each_row": (4, "rope_angles rope"),
        "slopes_of_a_power_of_two": (4, "alibi_slopes"),
        "slopes_of_any_number_of_heads": (6, "alibi_slopes"),
        "attention_by_hand": (6, "attention"),
        "attention_looks_back_only": (6, "attention"),
        "attention_of_the_last_queries": (5, "attention"),
        "attention_obeys_a_mask": (5, "attention"),
        "attention_shares_key_heads": (5, "attention"),
        "attention_adds_the_bias_of_alibi": (6, "attention"),
        "places_of_a_whole_text_and_of_one_token": (3, "places"),
        "positions_begin_behind_the_padding": (2, "places"),
        "no_token_sees_the_padding": (2, "places"),
        "padding_sees_itself": (2, "places"),
        "heads_are_cut_and_put_together": (4, "Attention.forward"),
        "positions_turn_q_and_k_or_give_slopes": (2, "Attention.forward rope"),
        "keys_and_values_go_into_the_memory": (2, "Attention.forward"),
        "cached_equals_uncached_in_bloom": (2, BLOOM),
        "cached_equals_uncached_in_llama": (2, LLAMA),
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
    plain={"fast/loss.py:cross_entropy": PLAIN_LOSS},
    hidden=[f"fast/loss.py:{n}" for n in ("loss_and_gradient", "SummedLoss.forward", "SummedLoss.backward")],
    left_out=["tests/test_loss.py", "tests/test_train.py"])

# a step of rows needs all that comes before it
STEP = "Rows.rows Rows.windows Rows.where Rows.cycle permuted rows_before Split.window"

ROWS = Assignment(
    5, "Rows as a function of the step, exact resume",
    ["data.py:permuted", "data.py:batch_at", "data.py:rows_before", "data.py:Split.window", "data.py:quotas",
     "data.py:Rows.cycle", "data.py:Rows.where", "data.py:Rows.windows", "data.py:Rows.rows",
     "course/parts.py:save_state", "course/parts.py:load_state"],
    {
        "every_number_comes_once": (7, "permuted"),
        "one_number_alone_is_the_same": (5, "permuted"),
        "another_key_is_another_order": (5, "permuted"),
        "an_order_too_long_for_memory": (6, "permuted"),
        "the_ramp_by_hand": (6, "batch_at"),
        "rows_before_a_step_are_the_sum_of_its_batches": (6, "rows_before batch_at"),
        "rows_before_a_late_step_come_at_once": (4, "rows_before batch_at"),
        "a_window_has_the_token_after_it": (6, "Split.window"),
        "the_last_window_is_filled_up": (4, "Split.window"),
        "shares_become_whole_rows": (5, "quotas"),
        "a_cycle_holds_each_share_exactly": (6, "Rows.cycle"),
        "numbers_go_on_over_cycles": (5, "Rows.where Rows.cycle"),
        "each_window_comes_once_per_epoch": (7, "Rows.windows Rows.where Rows.cycle permuted"),
        "processes_share_a_step": (6, STEP),
        "the_batch_only_cuts_the_stream": (4, STEP),
        "resume_equals_not_stopping": (10, "save_state load_state"),
        "a_state_fits_into_any_file": (4, "save_state load_state"),
        "settings_of_the_optimizer_come_back": (4, "save_state load_state"),
    },
    left_out=["tests/test_data.py"])

FILTERS = Assignment(
    6, "Filters, personal information, near duplicates",
    ["corpus/clean.py:word_repetition", "corpus/clean.py:character_repetition",
     "corpus/clean.py:special_characters", "corpus/clean.py:share_of", "corpus/clean.py:c4_lines",
     "corpus/clean.py:c4_document", "corpus/personal.py:pii_email", "corpus/personal.py:pii_user",
     "corpus/personal.py:pii_ip", "corpus/personal.py:address", "corpus/dedup.py:shingles",
     "corpus/dedup.py:signature", "corpus/dedup.py:meeting", "corpus/dedup.py:bands"],
    {
        "repeated_words_by_hand": (5, "word_repetition"),
        "short_texts_repeat_nothing": (3, "word_repetition character_repetition"),
        "repeated_characters_by_hand": (6, "character_repetition"),
        "special_characters_are_no_letters_and_no_marks": (4, "special_characters"),
        "the_share_of_known_words": (5, "share_of"),
        "lines_end_as_sentences_do": (5, "c4_lines"),
        "lines_about_cookies_go_and_citations_too": (5, "c4_lines"),
        "a_document_has_five_sentences": (6, "c4_document"),
        "addresses_of_mail": (7, "pii_email"),
        "names_of_users": (5, "pii_user"),
        "addresses_of_machines": (7, "pii_ip address"),
        "masking_does_not_hang": (5, "pii_email pii_user pii_ip"),
        "shingles_are_runs_of_eight_letters": (6, "shingles"),
        "shingles_of_short_and_odd_texts": (4, "shingles"),
        "signatures_estimate_similarity": (8, "signature"),
        "signatures_of_few_shingles": (5, "signature"),
        "a_signature_is_that_of_a_set": (4, "signature"),
        "the_s_curve_by_hand": (3, "meeting"),
        "bands_are_as_long_as_they_may_be": (3, "bands meeting"),
        "near_duplicates_are_found": (4, "shingles signature bands meeting"),
    },
    hidden=[f"corpus/personal.py:{name}" for name in ("EMAIL", "USER", "IP")],
    left_out=["tests/test_clean.py", "tests/test_dedup.py"])

SHARDING = Assignment(
    7, "Sharding on two processes: what is summed, what is divided",
    ["parallel.py:total", "course/parts.py:rows_of", "course/parts.py:sum_of_gradients",
     "course/parts.py:reduce_scatter", "course/parts.py:norm_of_rows", "course/parts.py:gather"],
    {
        "a_total_by_hand": (10, "total"),
        "a_total_loses_nothing": (8, "total"),
        "rows_are_those_of_chunk": (10, "rows_of"),
        "each_process_keeps_its_rows_of_the_sum": (12, "reduce_scatter rows_of"),
        "rows_are_put_together_again": (10, "gather rows_of"),
        "the_norm_of_what_is_kept_apart": (10, "norm_of_rows"),
        "two_processes_equal_one": (10, "sum_of_gradients"),
        "targets_weigh_the_same_on_every_process": (12, "sum_of_gradients"),
        "who_has_no_gradient_takes_part": (8, "sum_of_gradients"),
        "a_sharded_step_equals_a_whole_one": (10, "reduce_scatter gather norm_of_rows rows_of"),
    },
    seconds=30)

SCORES = Assignment(
    8, "Zero-shot scores, normalisations, and drawing",
    ["evaluation/scoring.py:encode", "evaluation/scoring.py:fit", "evaluation/scoring.py:row_scores",
     "evaluation/scoring.py:mean", "evaluation/scoring.py:rule_scores", "evaluation/scoring.py:normal",
     "evaluation/scoring.py:judge", "generate.py:candidates", "generate.py:choose",
     "course/parts.py:bits_per_byte"],
    {
        "the_border_is_cut_by_ids": (6, "encode"),
        "a_context_has_at_least_one_id": (4, "encode"),
        "contexts_are_cut_on_the_left": (5, "fit"),
        "what_does_not_fit_is_said": (2, "fit"),
        "scores_are_those_of_the_target": (6, "row_scores"),
        "ignored_places_score_nothing": (4, "row_scores"),
        "logits_are_held_a_few_at_a_time": (4, "row_scores"),
        "the_error_of_a_mean": (4, "mean"),
        "normalisations_by_hand": (6, "rule_scores"),
        "answers_as_they_are_compared": (4, "normal"),
        "numbers_as_they_are_compared": (4, "normal"),
        "the_best_choice_by_each_rule": (5, "judge rule_scores"),
        "targets_and_written_answers": (5, "judge normal"),
        "tokenizers_are_compared_by_bytes": (5, "bits_per_byte"),
        "temperature": (5, "candidates"),
        "the_k_likeliest": (4, "candidates"),
        "the_nucleus": (7, "candidates"),
        "the_nucleus_of_many_tokens": (4, "candidates"),
        "the_share_of_the_first": (3, "candidates"),
        "the_penalty": (4, "candidates"),
        "draws_have_the_probabilities": (6, "choose candidates"),
        "the_ends_of_the_line": (3, "choose candidates"),
    },
    left_out=["tests/test_evaluate.py", "tests/test_generate.py"])

BUDGET = Assignment(
    9, "Decisions: ablations by small models, a scaling law, the budget of a life",
    ["planning/law.py:predict", "planning/law.py:fit", "planning/law.py:compute_optimal",
     "planning/law.py:cheapest", "planning/law.py:smooth", "planning/ablate.py:differences",
     "train.py:flops_per_token"],
    {
        "the_law_by_hand": (4, "predict"),
        "flops_by_hand": (5, "flops_per_token"),
        "the_fit_finds_the_constants": (9, "fit predict"),
        "one_bad_run_moves_little": (5, "fit predict"),
        "resamplings_show_the_noise": (5, "fit predict"),
        "the_best_use_of_training": (8, "compute_optimal predict"),
        "the_cheapest_model_reaches_its_loss": (6, "cheapest compute_optimal predict"),
        "the_cheapest_life": (8, "cheapest"),
        "a_loss_out_of_reach": (2, "cheapest"),
        "smoothing_by_hand": (4, "smooth"),
        "differences_by_hand": (6, "differences"),
        "intervals_come_from_the_seeds": (4, "differences"),
        "what_the_seeds_share_cancels": (4, "differences"),
    },
    left_out=["tests/test_law.py", "tests/test_ablate.py"], seconds=40)

# an own language: no function is cut, no test grades; its page has a rubric
PROJECT = Assignment(10, "A corpus and a model of your language", [], {})

ASSIGNMENTS = {a.number: a for a in (TOKENIZER, FERTILITY, DECODER, TRAINING, ROWS, FILTERS, SHARDING, SCORES,
                                     BUDGET, PROJECT)}


def get_assignment(number):
    if number not in ASSIGNMENTS:
        raise ValueError(f"there is no assignment {number}; they are {', '.join(map(str, ASSIGNMENTS))}")
    return ASSIGNMENTS[number]


def read_test_file(number):
    with open(f"{HERE}/tests/test_{number}.py", encoding="utf-8") as f:
        return f.read()


def names_of_tests(source):
    """The names of the tests in a source, without "test_"."""
    return re.findall(r"^def test_(\w+)", source, re.M)
