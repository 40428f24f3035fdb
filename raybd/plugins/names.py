"""Names that are not known, told with those that are."""

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches


def unknown(kind: str, names: Iterable[str], allowed: Iterable[str], most: int | None = None) -> list[str]:
    """One line that names every one of `names` that is not `allowed`, with the allowed; none if all are known.

    Of more than `most` that are allowed, those that are spelt most like the unknown ones are listed.
    """
    allowed = list(dict.fromkeys(allowed))
    bad = [name for name in dict.fromkeys(names) if name not in allowed]
    if not bad:
        return []
    parts = [part for name in bad for part in name.split(",")]
    if set(parts) <= set(allowed):
        return [f"unknown {kind}: {', '.join(bad)} (several are written with spaces between them: {' '.join(parts)})"]
    near = dict.fromkeys(m for name in bad for m in get_close_matches(name, allowed, n=1))
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    if most is None or len(allowed) <= most:
        return [f"unknown {kind}: {', '.join(bad)} (known: {', '.join(sorted(allowed)) or 'none'}{hint})"]
    nearest = sorted(allowed, key=lambda name: -max(SequenceMatcher(None, one, name).ratio() for one in bad))[:most]
    return [f"unknown {kind}: {', '.join(bad)} (nearest of {len(allowed)} known: {', '.join(nearest)}{hint})"]
