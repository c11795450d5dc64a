"""LLaMA's seven public sources (section 2.1, table 1) with their shares of the rows.

    python prepare.py configs/data/llama.py only=wikipedia,stackexchange        # any subset, in proportion
    python prepare.py configs/data/llama.py models="{'quality': 'data/quality.npz'}"

Put each source's files where `path` says (all seven are about 4.7 TB); Wikipedia is downloaded. Books3 is
not public any more: Gutenberg alone is here. The classifier of pages that Wikipedia refers to is yours to
train (docs/corpus.md); to use it, add "reference" to commoncrawl's rules.
"""
from corpus.recipe import Corpus, Source, Tokenizer

LANGUAGES = "bg ca cs da de en es fr hr hu it nl pl pt ro ru sl sr sv uk".split()
DUMPS = "https://dumps.wikimedia.org/{0}wiki/latest/{0}wiki-latest-pages-articles.xml.bz2"
# Bytes of text of the paper's sources (table 1), for plan.py corpus: 4.75 TB
SIZES = {"commoncrawl": 3.3e12, "c4": 783e9, "github": 328e9, "wikipedia": 83e9, "books": 85e9, "arxiv": 92e9,
         "stackexchange": 78e9}
PERMISSIVE = ["Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT"]


def config():
    return Corpus("llama", [
        Source("commoncrawl", "raw/llama/commoncrawl/**/*.warc.wet.gz", lang="en", clean="ccnet", weight=0.67,
               licence="Common Crawl terms of use", custodian="Common Crawl Foundation",
               origin="https://data.commoncrawl.org: five dumps of 2017 to 2020, see their wet.paths.gz"),
        Source("c4", "raw/llama/c4/*.json.gz", lang="en", clean="c4", weight=0.15, licence="ODC-By",
               custodian="Allen Institute for AI",
               origin="https://huggingface.co/datasets/allenai/c4, folder en"),
        Source("github", "raw/llama/github", reader="code", licences=PERMISSIVE, clean="llama_code",
               weight=0.045, custodian="the authors, under each file's licence",
               origin="the public GitHub dataset of BigQuery, as trees of files with their LICENSE"),
        Source("wikipedia", url=[DUMPS.format(lang) for lang in LANGUAGES], reader="wiki", weight=0.045,
               licence="CC-BY-SA-4.0", custodian="Wikimedia Foundation",
               origin="dumps of 20 languages in Latin or Cyrillic script (LLaMA: June to August 2022)"),
        Source("books", "raw/llama/gutenberg/**/*.txt", reader="gutenberg", lang="en", split=10 ** 9,
               near="overlap", weight=0.045,
               licence="public domain in the USA", custodian="Project Gutenberg",
               origin="https://www.gutenberg.org/help/mirroring.html"),
        Source("arxiv", "raw/llama/arxiv/*.tar", reader="arxiv", lang="en", weight=0.025,
               licence="of each paper", custodian="arXiv",
               origin="https://info.arxiv.org/help/bulk_data_s3.html: the source files"),
        Source("stackexchange", "raw/llama/stackexchange/*/Posts.xml", reader="stackexchange", lang="en",
               weight=0.02, custodian="Stack Exchange",
               origin="https://archive.org/details/stackexchange: the 28 largest sites, unpacked"),
    ], Tokenizer("sentencepiece", 32_000, bytes=2_000_000_000), sizes=SIZES)
