"""Requests that come and go while the run goes on: their queue, their KV cache, and the steps that serve them."""
