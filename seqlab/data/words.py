"""Words of a text: the rules by which a text is cut, for any script."""

import functools
import re
import unicodedata

from seqlab.data.checks import check_known

CUTS = ("blanks", "words", "treebank", "treebank-cased")

_STRAIGHT = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'})
_BRACKETS = {"(": "-lrb-", ")": "-rrb-"}
_CLITICS = "n't|'(?:s|re|ve|ll|d|m)"
_IN_FRONT_OF_CLITICS = re.compile(rf"(?<=\w)(?=(?:{_CLITICS})(?!\w))", re.IGNORECASE)
_OPENING_QUOTE = re.compile(r'(^|(?<=[\s(\[-]))"')


def cut_words(text: str, rule: str) -> list[str]:
    """Words and signs of a text, in their order.

    * "blanks" cuts at white space and changes nothing: for a text that is cut already.
    * "words" gives lower case. A word is letters, digits and marks of any script, with hyphens and
      apostrophes within; a number has points, commas and slashes within; a dash of several hyphens
      is one sign, and any other sign stands for itself.
    * "treebank" cuts further, as the Penn Treebank does: do n't, it 's, `` so '', -lrb-; while
      mr., u.s. and ... stay whole.
    * "treebank-cased" is the same without lower case.

    All but the first compose characters (NFC), as Korean syllables and accented letters are written
    in two ways that look the same, and read curly quotation marks as straight ones.

    Sets that come cut have followed rules of their own. A sentence that somebody types is cut by
    "words" for a model of MR, by "treebank" for SST and by "treebank-cased" for TREC: these come
    close, and leave most sentences of their sets as they are.

    Raises:
      InputError: an unknown rule.
    """
    check_known(rule, CUTS, "rule")
    if rule == "blanks":
        return text.split()
    text = unicodedata.normalize("NFC", text).translate(_STRAIGHT)
    if rule != "treebank-cased":
        text = text.lower()
    if rule == "words":
        return _words().findall(text)
    text = _IN_FRONT_OF_CLITICS.sub(" ", _OPENING_QUOTE.sub("`` ", text)).replace('"', "''")
    words: list[str] = _treebank().findall(text)
    return [_BRACKETS.get(word, word) for word in words]


@functools.cache
def letters() -> str:
    r"""A run of letters, digits and `_` of any script, as a regular expression.

    `\w` lacks the marks by which Hindi or Thai write their vowels. They are a slow set to look
    through, so ASCII characters are told apart first: English text is cut several times faster.
    """
    marks = [chr(code) for code in range(0x20000) if unicodedata.category(chr(code))[0] == "M"]
    mark = rf"(?![\x00-\x7f])[{''.join(marks)}\u200c\u200d]+"
    return rf"(?:\w+|{mark}\w*)(?:{mark}\w*)*"


@functools.cache
def _words() -> re.Pattern[str]:
    number = r"\d+(?:[.,/]\d+)+(?!\w)"
    return re.compile(rf"{number}|{letters()}(?:['-]{letters()})*|--+|\S")


@functools.cache
def _treebank() -> re.Pattern[str]:
    signs = r"-[lr]rb-|``|''|\.\.\."
    shortened = r"(?<!\w)(?:(?:mr|ms|mrs|dr|jr|st|vs|inc|bros)\.|(?:[^\W\d_]\.)+(?=\W|$))"
    return re.compile(
        rf"{signs}|(?:{_CLITICS})(?!\w)|{shortened}|{_words().pattern}", re.IGNORECASE
    )
