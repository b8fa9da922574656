"""The commands of `moesim`, one module each; imported when they are called."""
