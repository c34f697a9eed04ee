"""Whether an answer declines the task."""

from __future__ import annotations

import re

_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am)? (?:really |truly )?(?:can't|cannot|can not|won't|will not|(?:am |'m )?(?:not able|unable) to"
    r"|not able to|unable to|must decline to|have to decline to|not comfortable)"
    r"(?: \w+){0,2}? (?:help|assist|provide|comply|fulfil+|answer|do (?:that|this)|discuss|engage|generate|create"
    r"|support|share|give|continue|participat\w+|process|respond)"
    r"|(?:sorry|apologi[sz]e),? (?:but )?(?:i |that )?(?:can't|cannot|can not|won't|am unable|'m unable"
    r"|isn't something)(?! (?:find|see|come|make|attend|be|wait))"
    r"|as an ai(?: \w+){0,3},? i (?:can't|cannot|am unable|'m unable|don't|do not)"
    r"|(?:against|violates?) (?:my|our) (?:guidelines|polic\w+|programming)"
    r"|(?:ich kann|tut mir leid).{0,40}\bnicht (?:helfen|beantworten|weiterhelfen|unterstützen|erfüllen)"
    r"|je (?:ne peux|suis désolée?).{0,40}\b(?:pas|aider) ?(?:vous |t')?(?:aider|répondre|fournir|à cela)?"
    r"|(?:no puedo|lo siento).{0,40}\b(?:ayudar|responder|proporcionar|cumplir))",
)
_OPENING = 300  # characters; a refusal says so at once


def is_refusal(answer: str) -> bool:
    """Return whether `answer` declines the task, in English, German, French or Spanish.

    Read from its opening alone. "I do not know" is no refusal; it is a wrong answer.

    Examples
    --------
    >>> is_refusal("I'm sorry, but I can't help with that."), is_refusal("I do not know.")
    (True, False)
    """
    opening = re.sub(r"\s+", " ", answer[:_OPENING].replace("’", "'")).casefold()
    return _REFUSAL.search(opening) is not None
