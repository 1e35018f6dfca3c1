"""Where pairs come from: the table of known sources, own ones, and their selection by name.

Columns are paths into a row: ``question``, ``set.query``, ``set[0]`` (an element of a list),
``neg[]`` (all of them), ``neg_paras[].text``, ``body1|post1`` (whichever a row has).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace

from neobert.config.contrastive import ContrastiveConfig
from neobert.errors import ConfigError
from neobert.tasks.contrastive.packaged_pairs import Example, factbook_pairs, wordnet_pairs

EVERYTHING = ("", "all", "refinedweb")
"""Values of ``dataset.name`` that stand for all sources; the last is that key's default."""


@dataclass(frozen=True, slots=True)
class PairSource:
    """A collection of pairs: its location and columns."""

    name: str
    query: str = ""
    positive: str = ""
    negatives: tuple[str, ...] = ()
    text: str = ""
    """Labelled data, instead of query and positive: texts of one label are positives."""

    label: str = ""
    hub: str = ""
    """Id on the Hugging Face Hub."""

    configs: tuple[str | None, ...] = (None,)
    """Configurations (subsets) there, one after the other."""

    split: str = "train"
    path: str = ""
    """Local file or folder."""

    above: tuple[str, float] | None = None
    """A column of scores, and what a row's has to exceed."""

    joined: bool = False
    """Three tables in MTEB's layout for retrieval: queries, corpus, and qrels that join them."""

    package: Callable[[str], Iterable[Example]] | None = None
    """Reads a source that comes with a package; gets the local folder, if one is named."""


TRIPLET = {"query": "anchor", "positive": "positive", "negatives": ("negative",)}
SCORED = {"query": "sentence1", "positive": "sentence2", "above": ("score", 4.0)}


def _hub(name: str, hub: str, config: str | None = None, **columns: object) -> PairSource:
    return replace(PairSource(name, hub=hub, configs=(config,)), **columns)  # type: ignore[arg-type]


TABLE = {
    source.name: source
    for source in (
        _hub("ALLNLI", "sentence-transformers/all-nli", "triplet", **TRIPLET),
        _hub("AMAZONQA", "embedding-data/Amazon-QA", query="query", positive="pos[0]"),
        _hub(
            "CONCURRENTQA",
            "stanfordnlp/concurrentqa-retrieval",
            query="question",
            positive="pos_paras[0].text",
            negatives=("neg_paras[].text",),
        ),
        _hub("FEVER", "mteb/fever", joined=True),
        _hub(
            "GITHUBISSUE",
            "WhereIsAI/github-issue-similarity",
            "positive",
            query="anchor",
            positive="positive",
        ),
        _hub(
            "GOOAQ",
            "tomaarsen/gooaq-hard-negatives",
            "triplet-5",
            query="question",
            positive="answer",
            negatives=tuple(f"negative_{number}" for number in range(1, 6)),
        ),
        _hub("MSMARCO", "mteb/msmarco", joined=True),
        _hub("PAQ", "embedding-data/PAQ_pairs", query="set[0]", positive="set[1]"),
        _hub(
            "PUBMEDQA",
            "sentence-transformers/pubmedqa",
            "triplet-20",
            query="anchor",
            positive="positive",
            negatives=tuple(f"negative_{number}" for number in range(1, 21)),
        ),
        _hub(
            "QQP",
            "embedding-data/QQP_triplets",
            query="set.query",
            positive="set.pos[0]",
            negatives=("set.neg[]",),
        ),
        _hub(
            "SENTENCECOMP", "embedding-data/sentence-compression", query="set[1]", positive="set[0]"
        ),
        _hub(
            "STACKEXCHANGE",
            "sentence-transformers/stackexchange-duplicates",
            configs=("body-body-pair", "post-post-pair"),
            query="body1|post1",
            positive="body2|post2",
        ),
        _hub(
            "STACKOVERFLOW",
            "mteb/stackoverflowdupquestions-reranking",
            query="query",
            positive="positive[0]",
            negatives=("negative[]",),
        ),
        _hub("STS12", "mteb/sts12-sts", None, **SCORED),
        _hub("STSBENCHMARK", "mteb/stsbenchmark-sts", None, **SCORED),
        _hub("TRIVIAQA", "sentence-transformers/trivia-qa-triplet", "triplet", **TRIPLET),
        _hub("WIKIHOW", "sentence-transformers/wikihow", query="text", positive="summary"),
        PairSource("FACTBOOK", package=factbook_pairs),
        PairSource("WORDNET", package=wordnet_pairs),
    )
}
"""The 17 sources of the reference, and two that need no hub: the World Factbook, which is installed
with this package, and WordNet (Debian's ``wordnet-base``, or a folder of its ``data.*`` files)."""

OWN_KEYS = ("path", "hub", "config", "split", "query", "positive", "negatives", "text", "label")


def select_sources(name: str, settings: ContrastiveConfig) -> list[PairSource]:
    """The sources that ``dataset.name`` names: one, several with commas between, or ALL.

    A name is a row's, or its id on the hub, or the last part of that; case and punctuation do not
    count. ALL are the sources of the hub and the user's own. Raises ``ConfigError`` for an unknown
    name, and where own sources are defined but not used.
    """
    own = {name: own_source(name, values) for name, values in settings.sources.items()}
    known = {**TABLE, **own}
    if name.strip().lower() in EVERYTHING:
        return [source for source in known.values() if source.package is None]
    selected: dict[str, PairSource] = {}
    problems = []
    for word in filter(None, (part.strip() for part in name.strip("[]").split(","))):
        match = next((source for source in known.values() if _is_called(source, word)), None)
        if match is None:
            problems.append(
                f"dataset.name={word}: is no source of pairs; there are {', '.join(known)}, ALL, "
                "and those you define in contrastive.sources"
            )
        else:
            selected[match.name] = match
    unused = set(own) - set(selected)
    if own and unused == set(own) and not problems:
        problems.append(
            f"contrastive.sources defines {', '.join(own)}, but dataset.name={name} selects none "
            "of them: name the sources to train on, or ALL"
        )
    if problems:
        raise ConfigError(*problems)
    return list(selected.values())


def own_source(name: str, values: object) -> PairSource:
    """A source of ``contrastive.sources``. Raises ``ConfigError`` if it cannot be one."""
    key = f"contrastive.sources.{name}"
    if not isinstance(values, Mapping):
        raise ConfigError(f"{key}={values}: must be a mapping of {', '.join(OWN_KEYS)}")
    problems = [
        f"{key}.{field}: unknown; there are {', '.join(OWN_KEYS)}"
        for field in values
        if field not in OWN_KEYS
    ]
    if not re.fullmatch(r"[\w-]+", name):
        problems.append(f"{key}: the name may have letters, digits, _ and - only")
    present = {str(field): value for field, value in values.items() if value is not None}
    if ("path" in present) == ("hub" in present):
        problems.append(f"{key}: needs either path (a local file or folder) or hub (an id there)")
    pairs, labelled = {"query", "positive"} <= set(present), {"text", "label"} <= set(present)
    if pairs == labelled:
        problems.append(f"{key}: needs the columns query and positive, or text and label")
    if problems:
        raise ConfigError(*problems)
    negatives = present.pop("negatives", ())
    listed = [negatives] if isinstance(negatives, str) else negatives
    config = present.pop("config", None)
    known = {field.name for field in fields(PairSource)}
    return PairSource(
        name,
        negatives=tuple(str(column) for column in listed),  # type: ignore[union-attr]
        configs=(None if config is None else str(config),),
        **{field: str(value) for field, value in present.items() if field in known},  # type: ignore[arg-type]
    )


def _is_called(source: PairSource, word: str) -> bool:
    """A word with a namespace is only ever the whole id: ``someone/all-nli`` is another source."""
    if "/" in word:
        return bool(source.hub) and source.hub.lower() == word.lower()
    return _bare(word) in (_bare(source.name), _bare(source.hub.rpartition("/")[2]))


def _bare(name: str) -> str:
    return "".join(filter(str.isalnum, name.upper())) or name
