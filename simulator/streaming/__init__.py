"""Runs in which layers stream through the GPU for micro-batches of a large batch (`pipeline=micro_batches`)."""
