"""This machine: its platform file from microbenchmarks, and a real offloading loop beside its simulation."""
