"""Retrieved documents, and one vector of a question, its documents and statistics of the retrieval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self, TypeAlias

import numpy as np

from unirouter_core.costs import TokenCounter
from unirouter_core.embedding import Array, Embedder, embed, normalise
from unirouter_core.exceptions import InvalidDataError

STATISTICS = (  # of a retrieval, each in the unit of its standard deviation over the training prompts
    "documents, log",
    "characters, log",
    "highest retrieval score",
    "mean retrieval score",
    "spread of retrieval scores",
    "cosine of the question with the documents' mean",
    "highest cosine of the question with a document",
)
FARTHEST = 3.0  # standard deviations at which a statistic is clipped: an outlier would dominate the question


@dataclass(frozen=True)
class Documents:
    """What was retrieved for one prompt.

    Raises `InvalidDataError` when a text is no string, or a score is missing or infinite.

    Parameters
    ----------
    scores : sequence of float, optional
        The retriever's, one for each text, in any unit; NaN where it gave none.

    Examples
    --------
    >>> found = Documents(["Lamps have two years of warranty."], scores=[0.83])
    >>> len(found), Documents.of(["Lamps have two years of warranty."]).scores is None
    (1, True)
    """

    texts: Sequence[str] = ()
    scores: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.texts, str):
            raise InvalidDataError(f"{self.texts!r:.60} is one document; put it in a list.")
        object.__setattr__(self, "texts", tuple(self.texts))
        for position, text in enumerate(self.texts):
            if not isinstance(text, str):
                raise InvalidDataError(f"Document {position} is {text!r:.60}, which is no text; give its text.")
        if self.scores is None:
            return
        try:
            scores = tuple(float(score) for score in self.scores)
        except (TypeError, ValueError) as failed:
            raise InvalidDataError(f"Retrieval scores {self.scores!r:.60} are not numbers; give one each.") from failed
        if len(scores) != len(self.texts) or any(map(math.isinf, scores)):
            raise InvalidDataError(
                f"{len(self)} documents but retrieval scores {scores!r:.60}; give one finite number for each."
            )
        object.__setattr__(self, "scores", scores)

    @classmethod
    def of(cls, given: GivenDocuments | None) -> Documents:
        """Return `given` as `Documents`: of texts without scores, of None without texts."""
        if isinstance(given, Documents):
            return given
        if given is not None and not isinstance(given, Sequence):
            raise InvalidDataError(f"documents={given!r:.60} must be a list of texts, or Documents(texts, scores).")
        return cls() if given is None else cls(given)

    def __len__(self) -> int:
        return len(self.texts)


GivenDocuments: TypeAlias = Documents | Sequence[str]  # with retrieval scores, or only texts


def check_documents(given: Sequence[GivenDocuments | None], n: int) -> tuple[Documents, ...]:
    """Return the documents of n prompts; raise `InvalidDataError` unless there are n."""
    if isinstance(given, (str, Documents)) or not isinstance(given, Sequence) or len(given) != n:
        found = f" {len(given)}" if isinstance(given, (list, tuple)) else f"={given!r:.60}"
        raise InvalidDataError(f"{n} prompts but documents{found}; give a list of documents for each prompt.")
    return tuple(Documents.of(each) for each in given)


def as_one_prompt(prompt: str, documents: Sequence[str]) -> str:
    """Return the plain form in which a prompt is sent with its documents: they come first, a blank line after each."""
    return "\n\n".join((*documents, prompt))


def distinct_texts(documents: Sequence[Documents]) -> list[str]:
    """Return the texts of all documents, each once: the same page is retrieved for many prompts."""
    return list(dict.fromkeys(text for each in documents for text in each.texts))


def count_tokens(counter: TokenCounter, prompts: Sequence[str], documents: Sequence[Documents] | None) -> Array:
    """Return the tokens of each prompt together with its documents, (n,)."""
    tokens = counter.count(prompts)
    if documents is None:
        return tokens
    texts = distinct_texts(documents)
    known = dict(zip(texts, counter.count(texts).tolist(), strict=True))
    return np.asarray(tokens + [sum(known[text] for text in each.texts) for each in documents])


def embed_with_documents(
    embedder: Embedder, prompts: Sequence[str], documents: Sequence[Documents]
) -> tuple[Array, list[Array]]:
    """Return the prompts' vectors (n, d), and those of each prompt's documents, in one call of the embedder."""
    texts = [text for text in distinct_texts(documents) if text.strip()]  # providers refuse to embed blank text
    vectors = embed(embedder, [*prompts, *texts])
    Q, blank = vectors[: len(prompts)], np.zeros(vectors.shape[1], np.float32)
    of = dict(zip(texts, vectors[len(prompts) :], strict=True))
    rows = [[of.get(text, blank) for text in each.texts] for each in documents]
    return Q, [np.array(each, np.float32).reshape(-1, Q.shape[1]) for each in rows]


@dataclass(eq=False)
class DocumentFeatures:
    """A question's vector, the mean of its documents', and statistics of the retrieval, in one row of length 1.

    The three settings weight the blocks. Documents count half as much as the question, whose topic they mostly repeat;
    all statistics together count as much as the question. What is not known of a prompt is 0. `fit` keeps the mean of
    each of `STATISTICS` over the training prompts, `centres_`, and 1 / standard deviation, `weights_`; 0 where unknown.
    """

    question: float = 1.0
    documents: float = 0.5
    statistics: float = 1.0
    centres_: Array = field(init=False, repr=False)
    weights_: Array = field(init=False, repr=False)

    def dims(self, width: int) -> int:
        """Return the embedder's dimension, given the dimension `width` of the joined vectors."""
        return (width - len(STATISTICS)) // 2

    def fit(self, Q: Array, found: Sequence[Array], documents: Sequence[Documents]) -> Self:
        """Learn mean and spread of the statistics from the vectors Q (n, d) of prompts and those of their documents."""
        rows = _statistics(Q, found, documents)
        known = ~np.isnan(rows)
        n = np.maximum(known.sum(0), 1)
        self.centres_ = np.where(known, rows, 0).sum(0) / n
        spread = np.sqrt((np.where(known, rows - self.centres_, 0) ** 2).sum(0) / n)
        constant = spread < 1e-6  # up to rounding; a new value is then not scaled
        self.weights_ = np.where(known.any(0), 1 / np.where(constant, 1, spread), 0)
        return self

    def join(self, Q: Array, found: Sequence[Array], documents: Sequence[Documents]) -> Array:
        """Return the joined vectors, float32, (n, 2 * d + 7), rows of length 1; parameters as in `fit`."""
        means = np.stack([rows.mean(0) if len(rows) else np.zeros(Q.shape[1], np.float32) for rows in found])
        unusual = np.nan_to_num((_statistics(Q, found, documents) - self.centres_) * self.weights_)
        scaled = np.clip(unusual, -FARTHEST, FARTHEST) / math.sqrt(len(STATISTICS))  # about as long as a unit vector
        return normalise(np.hstack([self.question * Q, self.documents * means, self.statistics * scaled]))


def _statistics(Q: Array, found: Sequence[Array], documents: Sequence[Documents]) -> Array:
    """Return `STATISTICS` of each prompt, (n, 7), NaN where they are not known."""
    rows = np.full((len(Q), len(STATISTICS)), np.nan)
    for row, question, vectors, each in zip(rows, Q, found, documents, strict=True):
        row[:2] = math.log1p(len(each)), math.log1p(sum(map(len, each.texts)))
        scores = [score for score in each.scores or () if score == score]
        if scores:
            row[2:5] = max(scores), sum(scores) / len(scores), max(scores) - min(scores)
        if len(vectors):
            mean = vectors.mean(0)
            row[5:] = question @ mean / max(float(np.linalg.norm(mean)), 1e-12), (vectors @ question).max()
    return rows
