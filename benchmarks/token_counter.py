"""Make the vocabulary that briefs are counted with: `python benchmarks/token_counter.py`.

It is learned from the bundled addresses and from Python's standard library, so that it knows prose and Python and has
seen none of what it will count. It is small on purpose: a tokenizer with fewer pieces needs more of them for the same
text, so that what fits by this count fits by the count of the models' own, much larger vocabularies.

`--compare RANKS` counts the repository's files with this vocabulary and with another one in tiktoken's file format,
and prints ours divided by theirs, the lowest first.
"""

from __future__ import annotations

import argparse
import base64
import lzma
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from autoexp.brief.counting import PATTERN, VOCABULARY, count

TOP = Path(__file__).resolve().parents[1]
SIZE = 8192
"""Pieces, the 256 single bytes included."""
PROSE_CHARACTERS = 2_000_000


def sources() -> list[Path]:
    folders = ("src", "tests", "docs", "benchmarks")
    return sorted(p for name in folders for kind in ("py", "md") for p in (TOP / name).rglob(f"*.{kind}"))


def texts() -> Iterator[str]:
    packed = TOP / "src" / "autoexp" / "model" / "bundled" / "sotu-1790-2021.txt.xz"
    yield lzma.decompress(packed.read_bytes()).decode()[-PROSE_CHARACTERS:]
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        yield path.read_text(errors="replace")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compare", type=Path, help="A vocabulary in tiktoken's format, cl100k_base.tiktoken say.")
    other = parser.parse_args().compare
    if other is None:
        import rustbpe  # type: ignore[import-untyped,unused-ignore]

        learner = rustbpe.Tokenizer()
        learner.train_from_iterator(texts(), SIZE, pattern=PATTERN)
        ranked = sorted(learner.get_mergeable_ranks(), key=lambda item: item[1])
        VOCABULARY.write_text("".join(f"{base64.b64encode(bytes(piece)).decode()}\n" for piece, _ in ranked))
        print(f"{len(ranked)} pieces in {VOCABULARY}")
        return
    import tiktoken

    ranks = {base64.b64decode(word): int(rank) for word, rank in (line.split() for line in other.open())}
    pattern = (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+"
    )
    theirs = tiktoken.Encoding(name="other", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    counted = [(count(text) / len(theirs.encode_ordinary(text)), p) for p in sources() if (text := p.read_text())]
    for ratio, path in sorted(counted):
        print(f"{ratio:.3f}  {path.relative_to(TOP)}")


if __name__ == "__main__":
    main()
