"""Recorded runs of real machines: constants fitted on some of them, the others predicted."""
