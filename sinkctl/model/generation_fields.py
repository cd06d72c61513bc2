"""The fields of transformers' `GenerationConfig`: which are taken, which are not and why. Imports no torch.

Every one stands in one of the tables below, with the value that does nothing.
"""

from typing import Any

# Fields that a recipe has as well. The warpers act on a draw only, the others on a greedy choice too.
WARPERS = {"temperature": 1.0, "top_k": None, "top_p": 1.0, "min_p": None}
PROCESSORS = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_new_tokens": 0}
# Fields without one in a recipe, which has them under `sampling.config`.
MORE_WARPERS = {"typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "top_h": None}
MORE = MORE_WARPERS | {
    "suppress_tokens": None, "begin_suppress_tokens": None, "bad_words_ids": None, "sequence_bias": None,
    "forced_bos_token_id": None, "forced_eos_token_id": None, "min_length": 0,
    "exponential_decay_length_penalty": None, "remove_invalid_values": False, "renormalize_logits": False,
    "watermarking_config": None, "stop_strings": None,
}  # fmt: skip
_SPEED = "a token is made a step; the field changes their speed, not the text"
_PROMPT = "it weighs the whole prompt anew at every token"
_ONE = "a stream goes on in one place, not along several beams; {how} instead (sinkctl.streaming takes beams)"
NOT_USED: dict[str, tuple[Any, str]] = {
    "num_beams": (1, _ONE),
    "constraints": (None, _ONE),
    "force_words_ids": (None, _ONE),
    "penalty_alpha": (0.0, "contrastive search is not built; {how} instead"),
    "dola_layers": (None, "decoding by contrast of layers is not built; {how} instead"),
    "guidance_scale": (1.0, "guidance takes a second stream, of a prompt of its own"),
    "encoder_repetition_penalty": (1.0, _PROMPT),
    "encoder_no_repeat_ngram_size": (0, _PROMPT),
    "num_return_sequences": (1, "a prompt is continued once; give --prompt several times"),
    "token_healing": (False, "a prompt is taken as it is"),
    "max_time": (None, "--generate says when a text ends, in tokens"),
    "prompt_lookup_num_tokens": (None, _SPEED),
    "assistant_early_exit": (None, _SPEED),
    "use_mtp": (False, _SPEED),
}
# Fields that say how `generate()` computes or what it returns, or that do nothing without beams or an assistant model.
NO_MATTER = {
    "do_sample", "eos_token_id", "bos_token_id", "pad_token_id", "decoder_start_token_id",  # read where they belong
    "max_length", "max_new_tokens",
    "use_cache", "cache_implementation", "cache_config", "max_cache_len", "prefill_chunk_size", "low_memory",
    "compile_config", "disable_compile", "continuous_batching_config",
    "output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate",
    "early_stopping", "length_penalty", "num_beam_groups", "diversity_penalty",
    "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold",
    "max_matching_ngram_size", "assistant_lookbehind", "target_lookbehind", "assistant_ensemble_weight",
    "speculation_type", "transformers_version",
}  # fmt: skip
