"""Prompts on one pool of GPUs, decoding on another: each request's KV cache is sent from the one to the other."""
