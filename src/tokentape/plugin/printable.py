"""Texts of recordings and names of files, made safe for the terminal that pytest writes to.

`tokentape.recorder.escapes` keeps more writing systems whole; it is not imported into pytest.
"""


def printable(text: str) -> str:
    """Return the text as one line, with escapes for characters that cannot be seen."""
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def printable_lines(text: str) -> str:
    """Return the text with escapes for characters that cannot be seen, except for line ends."""
    return "\n".join(map(printable, text.split("\n")))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
