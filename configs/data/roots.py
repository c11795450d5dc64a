"""ROOTS (BLOOM, section 3.1), with the shares that were really sampled.

    python prepare.py configs/data/roots.py only=sw,yo accept=sw,yo        # any subset, in proportion
    python prepare.py configs/data/roots.py tokenizer.vocab=250680 only=...

Put the files in raw/roots/LANG/catalogue, raw/roots/LANG/oscar and raw/roots/code. The catalogue is at
https://huggingface.co/bigscience-data, behind each dataset's own terms: a gated source is read only when
you name it in accept=. What ROOTS did and this does not: pages of 605 chosen sites fetched from Common
Crawl archives (use the rules pseudo_crawl), functions of single datasets, substrings repeated in long
documents. ROOTS used SimHash for OSCAR; here MinHash finds near duplicates. ROOTS kept only GPL code, by a
mistake that its authors describe; here permissive licences are kept.
"""
from corpus.recipe import Corpus, Source, Tokenizer

# Shares of the training mixture (training_dataset_ratios_merged_nigercongo_v3.json). Where it has one number
# for a language that has both a catalogue and OSCAR, we divide it 62 : 38, as all of ROOTS divides.
SHARES = {"fr": .13054, "es": .10668, "pt": .04954, "ar": .03307, "vi": .02462, "ca": .01124, "id": .01092,
          "hi": .00747, "bn": .00549, "eu": .001560, "ur": .001245}
BOTH = {"en": (.22171, .08137), "zh": (.12092, .05529)}         # {language: (catalogue, OSCAR)}
BOTH |= {lang: (.62 * share, .38 * share) for lang, share in SHARES.items()}
CATALOGUE = {"ta": .002114, "ml": .001034, "te": .000913, "ne": .000667, "kn": .000619, "zh-Hant": .000518,
             "pa": .000508, "mr": .000501, "gu": .000402, "or": .000359, "as": .000110}
# .000316 together
NIGER_CONGO = "sw yo rw xh ig zu sn lg wo rn fon nso ln tn tw ny st ts ak bm ki tum".split()
PERMISSIVE = ["Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT", "ISC", "Unlicense"]


def catalogue(lang, share):
    return Source(lang, f"raw/roots/{lang}/catalogue", lang=lang, weight=share, clean="catalogue",
                  permission="gated", licence="of each dataset",
                  custodian="BigScience, for the dataset's owner",
                  origin=f"https://huggingface.co/bigscience-data, datasets roots_{lang}_*")


def oscar(lang, share):
    return Source(f"{lang}-oscar", f"raw/roots/{lang}/oscar", lang=lang, weight=share,
                  clean="oscar", near="minhash", permission="gated", licence="CC0-1.0 (packaging)",
                  custodian="the OSCAR project",
                  origin="https://huggingface.co/datasets/oscar-corpus/OSCAR-2109")


def config():
    sources = [catalogue(lang, share) for lang, (share, _) in BOTH.items()]
    sources += [catalogue(lang, share) for lang, share in CATALOGUE.items()]
    sources += [catalogue(lang, .000316 / len(NIGER_CONGO)) for lang in NIGER_CONGO]
    sources += [oscar(lang, share) for lang, (_, share) in BOTH.items()]
    sources.append(Source(
        "code", "raw/roots/code", reader="code", weight=.13027, clean="roots_code", licences=PERMISSIVE,
        origin="the public GitHub dataset of BigQuery, as trees of files with their LICENSE",
        custodian="the authors, under each file's licence"))
    return Corpus("roots", sources, Tokenizer("bpe", 250_680, bytes=2_000_000_000, alpha=0.3))
