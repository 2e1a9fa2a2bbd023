"""What a client asked for in Accept and Accept-Encoding."""

from __future__ import annotations

from collections.abc import Iterator

from gpuwarden.exposition.render import Format

_MAX_OFFERS = 32  # a client that lists more is not a scraper


def _offers(header: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Yield (value, parameters, quality) of a comma-separated header; what does not parse has quality 0."""
    for offer in header.split(",", _MAX_OFFERS)[:_MAX_OFFERS]:
        value, *rest = (part.strip() for part in offer.split(";"))
        pairs = (part.partition("=") for part in rest)
        parameters = {name.strip().lower(): text.strip().strip('"') for name, _, text in pairs}
        try:
            quality = float(parameters.get("q", "1"))
        except ValueError:
            quality = 0.0
        yield value.lower(), parameters, quality if 0.0 < quality <= 1.0 else 0.0


def exposition_format(accept: str) -> Format:
    """Return the format that an Accept header prefers; the text format when it prefers none of ours."""
    best = {Format.TEXT: 0.0, Format.OPENMETRICS: 0.0}
    for value, parameters, quality in _offers(accept):
        if value == "application/openmetrics-text" and parameters.get("version", "1.0.0") in ("1.0.0", "0.0.1"):
            best[Format.OPENMETRICS] = max(best[Format.OPENMETRICS], quality)
        elif value == "text/plain" and parameters.get("version", "0.0.4") == "0.0.4":
            best[Format.TEXT] = max(best[Format.TEXT], quality)
    wins = best[Format.OPENMETRICS] > 0 and best[Format.OPENMETRICS] >= best[Format.TEXT]
    return Format.OPENMETRICS if wins else Format.TEXT


def gzip_wanted(accept_encoding: str) -> bool:
    """Return whether the client said that it takes gzip."""
    return any(value == "gzip" and quality > 0 for value, _, quality in _offers(accept_encoding))
