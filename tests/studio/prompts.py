"""Prompts as people type them: every one is a text that YAML reads as something else, or nearly."""

PROMPTS = [
    # Comments, mappings, lists.
    "a red mug #1", "#1 mug", "a mug#1", "a robot: blue", "robot:", ": robot", "a: b: c",
    "- a mug", "-", "? a mug", "a, b", "{a} mug", "[a] mug", "[a, mug]", "{a: mug}", "[mug", "mug]",
    "{mug", "}{", "[[]]",
    # Quotes, beginnings that YAML keeps for itself.
    '"Hello" said a robot', "'tis a mug", '"a red mug"', "'a red mug'", '"', "'", "a robot's mug",
    '"unfinished', "a \"b\" 'c'", "&mug", "*mug", "!mug", "!!str mug", "|", ">", "| mug", "%mug",
    "@mug", "`mug`", "---", "...", "<<", "=", "a=b", "==",
    # Truth, nothing, numbers, times, dates.
    "yes", "No", "on", "TRUE", "null", "Null", "~", "1e3", "1_000", "007", "0x10", "0b1", ".5",
    "._", "+1", ".inf", ".nan", "12:30", "1:2:3", "2024-01-01", "2024-01-01 12:30:00",
    # Spaces, breaks, letters.
    "a\tmug", "\ta mug", " a mug ", "a\nmug", "a mug\n", "a\r\nmug", "a\x85mug", "a\u2028mug",
    "é 漢字 🎈",
    "a\\nmug", "a\\", "\\a mug", "C:\\mugs", "a/mug", "../../mug", "..", "/mug", "~/mug",
    # Signs of references that are none.
    "$5 mug", "a $mug", "$$", "mug}", "a ??? mug", "????", "%s %d {0}",
    "-mug", "--mug", "key=value", "a " * 150 + "mug", "漢" * 200,
]  # fmt: skip
assert len(set(PROMPTS)) == len(PROMPTS) >= 50
