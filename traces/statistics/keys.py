"""What the keys of `summarise` say; the names are stable."""

from __future__ import annotations

KEYS = {
    "model": "name of the model",
    "digest": "of the trace, as in its metadata",
    "seed": "of the shuffles that are drawn",
    "requests": "how many were read",
    "tokens": "routed tokens of these",
    "experts": "routed experts of a layer, E",
    "top_k": "slots recorded, k",
    "layers": "the model's indices of the routed layers; all lists in `by_layer` follow them",
    "load_cv": "load of a layer's experts: standard deviation over mean; mean of the layers",
    "load_cv_uniform": "the same for as many tokens whose experts are drawn uniformly",
    "load_max_over_mean": "load of the most loaded expert over the mean; mean of the layers",
    "load_max_over_mean_uniform": "the same for experts drawn uniformly",
    "load_gini": "Gini coefficient of the load; mean of the layers",
    "load_gini_uniform": "the same for experts drawn uniformly",
    "consecutive_overlap": "share of a token's experts that the token before it chose too: mean of |E(t) ∩ E(t+1)| / k",
    "consecutive_overlap_within_request_shuffle": "expected if the tokens of each request are shuffled",
    "consecutive_overlap_global_shuffle": "expected if the tokens of all requests are shuffled",
    "consecutive_overlap_uniform": "expected of experts drawn uniformly: k / E",
    "overlap_by_lag": "the same overlap by distance in tokens",
    "overlap_by_lag_shuffle": "expected if the tokens of each request are shuffled",
    "first_choice_repeat": "share of tokens whose first choice is that of the token before; null if ranks are unknown",
    "first_choice_repeat_shuffle": "expected if the tokens of each request are shuffled",
    "reuse_within": "share of accesses whose expert was used in its layer within the last n tokens of its request",
    "reuse_within_shuffle": "the same with the tokens of each request shuffled",
    "lru_hit_rate": (
        "hit rate of one LRU cache per layer that holds this fraction of the layer's experts (⌊fraction · E⌋, at least "
        "one); accesses slot by slot in file order, caches empty at the start and kept across requests, first uses miss"
    ),
    "lru_hit_rate_shuffle": "the same with the tokens of each request shuffled",
    "belady_hit_rate": "the same caches, dropping the expert whose next use is farthest",
    "belady_hit_rate_shuffle": "the same with the tokens of each request shuffled",
    "next_layer_information_bits": (
        "mutual information of a token's experts in adjacent layers, every pair of slots one observation; "
        "mean of the layers; of at most 131,072 tokens at even distances"
    ),
    "next_layer_information_bits_shuffle": "the same with the next layer's tokens permuted: bias of a finite sample",
    "next_layer_recall": (
        "share of a layer's experts among the k that a transition table of the other requests "
        "expects from the layer before; null for one request"
    ),
    "popularity_recall": "share of a layer's experts among the k most popular of the other requests",
    "look_ahead_recall": "share of a layer's experts that were guessed so many layers before; null without guesses",
    "look_ahead_recall_shuffle": "the same with the guesses of another token of the request",
    "request_similarity": "of a request's first half to its second: 1 - total variation distance of expert shares",
    "other_request_similarity": "of a request's first half to another's second half",
    "same_task_similarity": "the same for two requests of one task; null if there are no tasks to compare",
    "other_task_similarity": "the same for requests of different tasks",
    "request_similarity_shuffle": "of two halves of a request, its tokens shuffled",
    "embedding_cosine": "of the embeddings of two requests; null without embeddings, as in the next five",
    "same_task_embedding_cosine": "the same for two requests of one task",
    "other_task_embedding_cosine": "the same for requests of different tasks",
    "nearest_request_similarity": (
        "of a request's first half to the second half of the request whose embedding is nearest by cosine; its control "
        "is `other_request_similarity`"
    ),
    "embedding_routing_correlation": (
        "Spearman's, over pairs of requests, of the cosine of their embeddings with the similarity of their routing"
    ),
    "embedding_routing_correlation_shuffle": "the same with the embeddings dealt to the requests at random",
    "quarter_similarity": "of a request's first quarter to its second, third and fourth",
    "quarter_similarity_shuffle": "the same with the tokens of each request shuffled",
    "weight_top_share": "share of a token's weight on its heaviest expert; null without weights",
    "weight_entropy_bits": "entropy of a token's weights",
    "weight_top_share_uniform": "of equal weights: 1 / k",
    "weight_entropy_bits_uniform": "of equal weights: log2 k",
    "norm_mean": "L2 norm of the hidden states that a layer's router is given; mean of the layers; null without norms",
    "norm_cv": "its standard deviation over tokens by its mean; mean of the layers",
    "phases": "tokens, load and overlap of prefill and of decode; null unless both are there",
    "phase_similarity": "of the experts' shares in prefill to those in decode",
    "phase_similarity_shuffle": "the same with each request's tokens dealt to the phases at random",
    "by_layer": "lists over layers of what stands above under the same name, and of what is below",
}
BY_LAYER = {
    "lru_hit_rate_at_half": "LRU hit rate with half of the layer's experts",
    "lru_hit_rate_at_half_shuffle": "the same, shuffled",
    "belady_hit_rate_at_half": "Belady's hit rate with half of the layer's experts",
    "belady_hit_rate_at_half_shuffle": "the same, shuffled",
    "look_ahead_recall": "guesses one layer ahead, for the second layer to the last",
    "next_layer_recall": "for the second layer to the last, as of all that lead from a layer to the next",
}
