"""Replicas of a layout, and pools of them: prompts on one, decoding on another, KV cache sent between them."""
