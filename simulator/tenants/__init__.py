"""Several instances of a model on one machine: variants whose experts are shared, in part or not at all.

An *instance* is a variant of the model with weights of its own outside the experts, and `unique_experts` of its own in
every routed layer; the others are the same bit for bit in all of them. Every request is of one instance. What a memory
holds follows from identity: a layer's *pool* has each distinct expert once (MoEsaic, SoCC 2024).
"""
