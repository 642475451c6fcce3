"""Dates as people write them in 30 languages, and what they mean: "7. März 2024" -> "2024-03-07".

The texts are those of the Unicode CLDR, by way of `babel`. Of a language's formats "medium", "long"
and "full", those are taken in which the text alone says the date: the month is a word, or the signs
for year, month and day are beside the numbers (2024年3月7日). All-number formats are left out, as
03/04/2024 is another date in another country. So a text has one date, whatever its language; a test
goes through every language, format, day and weekday.

CLDR is mended now and then, and other versions of `babel` may write other texts: record the
`digest` of a set beside a result (`seqlab.data.pairs.Pairs`).
"""

import datetime
import functools
import re
import unicodedata

import numpy as np

from seqlab.data.checks import check_at_least, check_known
from seqlab.data.text import PARTS, text_digest
from seqlab.errors import InputError

# By default all of them write western digits and the Gregorian calendar.
LOCALES = (
    "bg", "ca", "cs", "da", "de", "el", "en", "es", "et", "fi", "fr", "hr", "hu", "id", "it",
    "ja", "ko", "lt", "nb", "nl", "pl", "pt", "ro", "ru", "sk", "sv", "tr", "uk", "vi", "zh",
)  # fmt: skip
FORMATS = ("medium", "long", "full")

_YEARS = (1000, 9999)  # of four digits
_TELLS_THE_MONTH = re.compile("MMM|LLL|[年년]")


def date_pairs(
    count: int,
    rng: np.random.Generator,
    *,
    years: tuple[int, int] = (1900, 2100),
    part: str | None = None,
) -> tuple[list[str], list[str]]:
    """Dates in words and in numbers: `count` sources, and targets such as "2024-03-07".

    Language, format and date are drawn uniformly, the format among those of its language; the same
    date may come again.

    Args:
      count: number of pairs.
      rng: source of the dates.
      years: the first and the last one.
      part: only the dates of "train", "valid" or "test", see `date_part`; None for all dates.

    Raises:
      InputError: no pair, an unknown part, or years that are not 1000 to 9999, in this order.
    """
    check_at_least(count, 1, "count")
    first, last = years
    if not _YEARS[0] <= first <= last <= _YEARS[1]:
        raise InputError(
            f"years must be two of {_YEARS[0]} to {_YEARS[1]}, the first one first, "
            f"got {first} {last}"
        )
    if part is not None:
        check_known(part, PARTS, "part")
    start = datetime.date(first, 1, 1).toordinal()
    stop = datetime.date(last, 12, 31).toordinal() + 1
    sources, targets = [], []
    while len(sources) < count:
        day = datetime.date.fromordinal(int(rng.integers(start, stop)))
        if part is not None and date_part(day) != part:
            continue
        locale = LOCALES[rng.integers(len(LOCALES))]
        formats = date_formats(locale)
        sources.append(write_date(day, locale, formats[rng.integers(len(formats))]))
        targets.append(day.isoformat())
    return sources, targets


def date_part(day: datetime.date) -> str:
    """The part that a date is held out for: "train" (90 % of the dates), "valid" or "test".

    It is decided by a hash of the date, so that neither seed nor size of a set changes it.
    """
    share = int(text_digest(day.isoformat())[:8], 16) / 16**8
    return PARTS[(share >= 0.90) + (share >= 0.95)]


@functools.cache
def date_formats(locale: str) -> tuple[str, ...]:
    """Those of `FORMATS` in which a language tells the date beyond doubt, each pattern once.

    Raises:
      InputError: not one of `LOCALES`.
    """
    from babel import Locale

    check_known(locale, LOCALES, "language")
    patterns = Locale.parse(locale).date_formats
    chosen: dict[str, str] = {}
    for name in FORMATS:
        pattern = patterns[name].pattern
        if _TELLS_THE_MONTH.search(pattern):
            chosen.setdefault(pattern, name)
    return tuple(chosen.values())


def write_date(day: datetime.date, locale: str, format_name: str) -> str:
    """A date as a language writes it, with plain blanks and composed characters (NFC)."""
    from babel.dates import format_date

    text = format_date(day, format_name, locale=locale)  # type: ignore[arg-type]
    # Some languages put a narrow no-break space before "year"; nobody types it.
    return unicodedata.normalize("NFC", " ".join(text.split()))
