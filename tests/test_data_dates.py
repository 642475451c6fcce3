import datetime
import subprocess
import sys
import unicodedata
from collections import Counter, defaultdict

import numpy as np
import pytest

from seqlab.data.dates import (
    FORMATS,
    LOCALES,
    date_formats,
    date_pairs,
    date_part,
    write_date,
)
from seqlab.errors import InputError

# Leap years that begin on each of the seven weekdays: every day of the year on every weekday.
LEAP_YEARS = (2000, 2004, 2008, 2012, 2016, 2020, 2024)


def sample(count=500, seed=0, **options):
    return date_pairs(count, np.random.default_rng(seed), **options)


def days_of(year):
    start = datetime.date(year, 1, 1).toordinal()
    return [datetime.date.fromordinal(start + n) for n in range(366)]


def test_thirty_languages_with_a_format_each_at_least():
    assert len({locale.partition("_")[0] for locale in LOCALES}) == len(LOCALES) == 30
    found = {locale: date_formats(locale) for locale in LOCALES}
    assert all(len(formats) >= 2 and formats[-1] == "full" for formats in found.values())
    assert found["en"] == FORMATS == ("medium", "long", "full")
    assert found["de"] == ("long", "full")  # its medium one is all numbers
    assert found["zh"] == ("medium", "full")  # its long one is its medium one


@pytest.mark.parametrize(
    ("locale", "format_name", "text"),
    [
        ("en", "full", "Thursday, March 7, 2024"),
        ("de", "long", "7. März 2024"),
        ("fr", "full", "jeudi 7 mars 2024"),
        ("ko", "full", "2024년 3월 7일 목요일"),
        ("ja", "long", "2024年3月7日"),
        ("ru", "long", "7 марта 2024 \N{CYRILLIC SMALL LETTER GHE}."),
        ("hu", "long", "2024. március 7."),
    ],
)
def test_dates_as_people_write_them(locale, format_name, text):
    assert write_date(datetime.date(2024, 3, 7), locale, format_name) == text


def without_year(day, locale, name):
    """What stands before and after the year's four digits."""
    before, digits, after = write_date(day, locale, name).partition(str(day.year))
    assert digits
    assert not before[-1:].isdigit()
    assert not after[:1].isdigit()
    return before, after


def test_every_text_has_one_date_in_all_languages():
    # The year stands in a text once, in four digits, and nothing else depends on it but the weekday
    # (next test): texts that are the same are of the same year. With its digits taken out, what can
    # be left of any date of any year is all here, and tells month and day.
    assert {datetime.date(year, 1, 1).weekday() for year in LEAP_YEARS} == set(range(7))
    found = defaultdict(set)
    for locale in LOCALES:
        for name in date_formats(locale):
            for year in LEAP_YEARS if name == "full" else LEAP_YEARS[-1:]:
                for day in days_of(year):
                    found[without_year(day, locale, name)].add((day.month, day.day))
    assert {len(days) for days in found.values()} == {1}
    assert set.union(*found.values()) == {(day.month, day.day) for day in days_of(2024)}


def test_a_year_changes_nothing_but_its_digits_and_the_weekday():
    for locale in LOCALES:
        for name in date_formats(locale):
            # 7 March is a Thursday in these, and any other weekday in the leap years.
            years = (1901, 1929, 1957, 2013, 2024)
            years += LEAP_YEARS if name != "full" else ()
            days = [datetime.date(year, 3, 7) for year in years]
            assert len({without_year(day, locale, name) for day in days}) == 1


def test_texts_are_of_plain_blanks_and_composed():
    for text in sample(2000)[0]:
        assert text == " ".join(text.split(" "))
        assert not {"\u202f", "\u00a0"} & set(text)
        assert unicodedata.is_normalized("NFC", text)


def test_dates_are_of_the_years_and_the_seed():
    sources, targets = sample(2000, years=(1999, 2000))
    days = [datetime.date.fromisoformat(target) for target in targets]
    assert len(sources) == len(days) == 2000
    assert {day.year for day in days} == {1999, 2000}
    assert len(set(days)) > 650  # of 731
    assert all(str(day.year) in source for source, day in zip(sources, days, strict=True))
    assert sample(50) == sample(50) != sample(50, seed=1)
    assert datetime.date(1000, 1, 1) <= datetime.date.fromisoformat(
        sample(1, years=(1000, 1000))[1][0]
    )


def test_every_language_comes_equally_often():
    sources, _ = sample(3000)
    signs = Counter("년" if "년" in text else "年" if "年" in text else "" for text in sources)
    assert abs(signs["년"] - 100) < 40  # four standard deviations
    assert abs(signs["年"] - 200) < 55


def test_a_part_has_its_own_dates_only():
    days = [datetime.date.fromordinal(n) for n in range(693_596, 693_596 + 40_000)]
    shares = Counter(map(date_part, days))
    assert abs(shares["train"] / 40_000 - 0.90) < 0.006
    assert abs(shares["valid"] / 40_000 - 0.05) < 0.0045
    assert date_part(datetime.date(2024, 3, 7)) == "train"  # whatever the seed, for all time
    for part in ("train", "valid", "test"):
        _, targets = sample(200, part=part)
        assert {date_part(datetime.date.fromisoformat(each)) for each in targets} == {part}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"count": 0}, "count must be 1 or more, got 0"),
        ({"years": (999, 2000)}, "years must be two of 1000 to 9999.*got 999 2000"),
        ({"years": (2001, 2000)}, "the first one first, got 2001 2000"),
        ({"part": "vaild"}, "did you mean 'valid'"),
    ],
)
def test_what_cannot_be(options, words):
    with pytest.raises(InputError, match=words):
        sample(**options)


def test_an_unknown_language():
    with pytest.raises(InputError, match="unknown language 'xx'; known: bg, ca"):
        date_formats("xx")


def test_babel_is_read_only_when_it_is_needed():
    code = "import sys, seqlab.data.pairs; sys.exit('babel' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
