"""Published claims as data: read, run, measured, and the pages made of them. See docs/validation/claims.md."""
