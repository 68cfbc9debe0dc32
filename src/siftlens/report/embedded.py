"""Bytes and pictures as text that stands in a page."""

import base64


def as_text(data: bytes) -> str:
    """Bytes as base64."""
    return base64.b64encode(data).decode()


def picture_uri(jpeg: bytes) -> str:
    """A JPEG file as an address that holds it."""
    return f"data:image/jpeg;base64,{as_text(jpeg)}"
