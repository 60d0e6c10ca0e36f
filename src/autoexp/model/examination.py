"""Is it a language model, and how good? What the judge asks two examinees, and what it makes of their answers.

Each row is scored by one of the two, by a secret coin, in a secret order. Some rows, chosen secretly, are put to the
other one too: as they are, in other company and after other rows; or with other tokens from a secret place on. The
probabilities before that place must come out the same. So none can profit from

- tokens that it is to predict: those of the second asking are others, and it does not know which asking is which;
- other rows of its batch, or rows that it was asked before: the other process has seen others, in another order.

What is compared is judged in two ways: no single pair may differ by more than rounding does, and on average the true
next token must not be more probable where it was in the input than where it was not.
"""

from __future__ import annotations

import math
import select
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from autoexp.model.asking import Desk, Unanswered
from autoexp.model.errors import Refused, TrainingFailed
from autoexp.model.prepared import Prepared
from autoexp.model.scoring import Answer, Floats, Ids, bits_per_byte, evaluated_rows

# Rows that are asked twice: a quarter of all, within these limits. Each change tells of one place whether the token
# after it is seen; one that looks at a token in N is missed with the probability (1 - 1/N) to the power of the changes.
PROBES = (512, 1024)
CHANGED = 0.75  # part of the probes whose later tokens are others
PLACES = 8  # of a row, at which the probabilities are compared
# By the precision of the model: how far two answers may be apart, as half the sum of the absolute differences of the
# probabilities (0 to 1), and how much more probable, in nats on average, the true next token may be where it was seen.
TOLERANCE = {"float32": (1e-4, 1e-5), "bfloat16": (0.05, 1e-3), "float16": (0.02, 3e-4)}
SIGMAS = 4.0


@dataclass(frozen=True)
class Probe:
    """A row that is asked twice. Before `cut` both askings are the same; `places` are compared."""

    cut: int  # the length of the row when it is asked unchanged
    places: Ids
    target: int  # the true token at `cut`, predicted at the first of the places; -1 when it is unchanged


@dataclass
class Question:
    """A row of ids for one of the examinees. Scored questions have targets."""

    row: int  # its number, counted over all splits
    ids: Ids
    targets: Ids | None = None
    split: str = ""
    probe: Probe | None = None


@dataclass
class Examination:
    """The questions for each of two examinees, and what has come of them."""

    questions: tuple[list[Question], list[Question]]
    lengths: Ids  # bytes of text of each token
    dtype: str = "float32"
    nats: dict[str, list[float]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    waiting: dict[int, Floats] = field(default_factory=dict)  # the first answer about a row that is asked twice
    apart: list[tuple[bool, float]] = field(default_factory=list)  # (whether tokens were changed, how far)
    seen: list[float] = field(default_factory=list)  # nats that the true token gained where it was in the input

    def check(self, part: Sequence[Question], answer: Answer) -> None:
        """Take in the answer to some questions. Raises TrainingFailed for one that no language model gives."""
        if not answer.finite():
            raise TrainingFailed("the model's logits are not all finite")
        targets = np.zeros((len(part), len(part[0].ids)), dtype=np.int64)
        scored = []
        for place, question in enumerate(part):
            if question.targets is not None:
                targets[place] = question.targets
                scored.append(place)
        losses = answer.losses(targets) if scored else np.zeros(targets.shape, dtype=np.float32)
        for place in scored:
            split, size = part[place].split, self.lengths[targets[place]]
            nats = losses[place][size > 0].sum(dtype=np.float64)
            self.nats.setdefault(split, []).append(float(nats))
            self.sizes[split] = self.sizes.get(split, 0) + int(size.sum())
        for place, question in enumerate(part):
            if question.probe is not None:
                self._compare(question, answer.log_probabilities(place, question.probe.places))

    def _compare(self, question: Question, found: Floats) -> None:
        probe = question.probe
        assert probe is not None
        other = self.waiting.pop(question.row, None)
        if other is None:
            self.waiting[question.row] = found
            return
        changed = probe.target >= 0
        distance = np.abs(np.exp(found) - np.exp(other)).sum(axis=-1) / 2
        self.apart.append((changed, float(distance.max())))
        if changed:
            gained = float(found[0, probe.target] - other[0, probe.target])
            self.seen.append(gained if question.targets is not None else -gained)

    def verdict(self) -> dict[str, float]:
        """The figures of the comparisons. Raises Refused when the answers are not those of a language model."""
        most, most_seen = TOLERANCE[self.dtype]
        worst = {kind: max((d for changed, d in self.apart if changed == kind), default=0.0) for kind in (False, True)}
        if not worst[False] <= most:
            raise Refused(
                "the model's answer to a row depends on other rows of its batch, or on those it was asked before: "
                f"its probabilities differ by {worst[False]:.3g}"
            )
        if not worst[True] <= most:
            raise Refused(
                "the model sees tokens it is to predict: with others later in the row, its probabilities before them "
                f"differ by {worst[True]:.3g}"
            )
        gained = float(np.mean(self.seen)) if self.seen else 0.0
        error = float(np.std(self.seen) / math.sqrt(len(self.seen))) if self.seen else 0.0
        if not gained <= most_seen + SIGMAS * error:
            raise Refused(
                f"the model sees tokens it is to predict: where they were in its input it gave them {gained:.2g} nats "
                f"more, +/- {error:.1g}"
            )
        return {
            "compared": float(len(self.apart)),
            "apart": max(worst.values()),
            "seen_nats": gained,
            "seen_error": error,
        }

    def bits_per_byte(self) -> dict[str, float]:
        """Of each split. Raises TrainingFailed if it is no finite number."""
        answers = {}
        for split, nats in self.nats.items():
            answers[split] = bits_per_byte(math.fsum(nats), self.sizes[split])
            if not math.isfinite(answers[split]):
                raise TrainingFailed(f"{split}_bpb is {answers[split]}")
        return answers


def prepared_examination(data: Prepared, splits: Sequence[str], rng: np.random.Generator) -> Examination:
    """Choose, by a generator that nobody else knows, what is asked of whom and in which order."""
    questions: tuple[list[Question], list[Question]] = ([], [])
    number = 0
    for split in splits:
        chosen = evaluated_rows(data, split)
        rows = np.asarray(data.rows(split)[chosen], dtype=np.int64)
        who = rng.integers(2, size=len(rows))
        probed = set(rng.choice(len(rows), _probes(len(rows)), replace=False).tolist()) if split == splits[0] else set()
        for index, row in enumerate(rows):
            question = Question(number, row[:-1], row[1:], split)
            questions[who[index]].append(question)
            if index in probed:
                ids, question.probe = _asked_again(rows, index, data.vocab_size, rng)
                questions[1 - who[index]].append(Question(number, ids, probe=question.probe))
            number += 1
    for part in questions:
        rng.shuffle(part)
    return Examination(questions, data.token_bytes().astype(np.int64))


def _probes(rows: int) -> int:
    return min(rows, max(PROBES[0], min(PROBES[1], rows // 4)))


def _asked_again(rows: Ids, index: int, vocab: int, rng: np.random.Generator) -> tuple[Ids, Probe]:
    """The ids of a row for its second asking. What is put into it is of another row: text like any other."""
    ids = rows[index, :-1]
    tokens = len(ids)
    if tokens < 2 or rng.random() >= CHANGED:
        return ids, Probe(tokens, np.sort(rng.choice(tokens, min(PLACES, tokens), replace=False)), -1)
    cut = int(rng.integers(1, tokens))
    other = ids.copy()
    other[cut:] = rows[rng.integers(len(rows)), :-1][cut:]
    if other[cut] == ids[cut]:
        other[cut] = (ids[cut] + rng.integers(1, vocab)) % vocab
    earlier = rng.choice(cut - 1, min(PLACES, cut) - 1, replace=False) if cut > 1 else np.empty(0, np.int64)
    return other, Probe(cut, np.concatenate([[cut - 1], earlier]).astype(np.int64), int(ids[cut]))


def parts(questions: Sequence[Question], rows: int) -> Iterator[list[Question]]:
    """The questions, so many at a time."""
    for start in range(0, len(questions), rows):
        yield list(questions[start : start + rows])


def examine(
    examination: Examination,
    desks: tuple[Desk, Desk],
    rows: int,
    deadline: float,
    tick: Callable[[float], None] = lambda done: None,
) -> None:
    """Ask both all their questions, at the same time, `rows` rows at once, until `deadline` by time.monotonic().

    A last part of fewer rows is filled up, so that a compiled model sees one shape. Raises TrainingFailed, of which
    Unanswered is one.
    """
    queues = {index: parts(examination.questions[index], rows) for index in (0, 1)}
    asked: dict[int, list[Question]] = {}
    number = done = 0
    total = sum(map(len, examination.questions))

    def ask(index: int) -> None:
        nonlocal number
        part = next(queues[index], None)
        if part is None:
            return
        number += 1
        filled = [question.ids for question in part]
        filled += [filled[-1]] * (rows - len(filled))
        desks[index].put(np.stack(filled), number)
        asked[index] = part

    for index in (0, 1):
        ask(index)
    while asked:
        left = deadline - time.monotonic()
        ready = select.select([desks[index].examinee for index in asked], [], [], left)[0] if left > 0 else []
        if not ready:
            raise Unanswered("the model did not answer in time")
        for index in [index for index in asked if desks[index].examinee in ready]:
            heard = desks[index].examinee.hear()
            if heard is None:
                continue
            if heard["said"] != "done":
                raise Unanswered("the model's process answered with something that is no answer")
            part = asked.pop(index)
            answer = desks[index].take(len(part))
            ask(index)  # it works while this is looked at
            examination.check(part, answer)
            done += len(part)
            tick(done / total)
