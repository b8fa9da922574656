"""Energy of a run, bottom up: every byte and operation at its price, and the background (docs/energy.md)."""
