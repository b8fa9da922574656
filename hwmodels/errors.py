"""The error class of this package."""


class PlatformError(ValueError):
    """A platform, device, link, quantity or operator that cannot be used; the message is one sentence."""
