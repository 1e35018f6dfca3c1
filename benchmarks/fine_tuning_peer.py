"""The peer of :mod:`benchmarks.fine_tuning`: transformers' ``Trainer`` on the same rows.

Words are tokenised one by one, and a batch is padded to its longest row, as in the examples of
transformers; the metrics are those of this project.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import AutoTokenizer, BertConfig, PreTrainedTokenizerBase

from benchmarks.fine_tuning import Recipe
from neobert.tasks.question_answering.answer_metrics import squad_scores
from neobert.tasks.token_classification.entities import entity_scores

IGNORED = -100
LONGEST_ANSWER = 30
STRIDE = 128

Row = dict[str, object]
Example = dict[str, list[int]]


def rows_of(data: Path, split: str, count: int | None = None) -> list[Row]:
    """The first rows of a split."""
    lines = (data / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[:count]]


class WordExamples:
    """Rows of tagged words for a classifier of transformers: the first token has the tag."""

    auto = transformers.AutoModelForTokenClassification
    bert = transformers.BertForTokenClassification

    def __init__(
        self, train: list[Row], test: list[Row], tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self.tokenizer, self.test = tokenizer, test
        self.tags = sorted({str(tag) for row in train for tag in _list(row["tags"])})
        self.collator = transformers.DataCollatorForTokenClassification(tokenizer)

    def examples(self, rows: list[Row], length: int) -> list[Example]:
        """A tokenised row each, truncated to ``length``."""
        return [self._example(row, length) for row in rows]

    def _example(self, row: Row, length: int) -> Example:
        encoding = self.tokenizer(
            row["tokens"], is_split_into_words=True, truncation=True, max_length=length
        )
        places, tags = self._first_tokens(encoding.word_ids()), _list(row["tags"])
        labels = [IGNORED] * len(encoding["input_ids"])
        for place, word in places:
            labels[place] = self.tags.index(str(tags[word]))
        return {**encoding, "labels": labels}

    def _first_tokens(self, words: list[int | None]) -> list[tuple[int, int]]:
        pairs = zip(words, [None, *words], strict=False)
        return [
            (place, word)
            for place, (word, before) in enumerate(pairs)
            if word is not None and word != before
        ]

    def score(self, output: NDArray[np.float32], length: int, metric: str) -> float:
        """The metric of the predictions of all test rows; a truncated word is ``O``."""
        gold, predicted = [], []
        for row, scores in zip(self.test, output, strict=True):
            labels = np.array(self._example(row, length)["labels"])
            kept = np.flatnonzero(labels != IGNORED)
            guesses = [self.tags[number] for number in scores[kept].argmax(-1)]
            tags = [str(tag) for tag in _list(row["tags"])]
            gold.append(tags)
            predicted.append(guesses + ["O"] * (len(tags) - len(guesses)))
        if metric == "f1":
            return entity_scores(gold, predicted)["f1"]
        tags, guesses = ([tag for row in rows for tag in row] for rows in (gold, predicted))
        return mean(float(tag == guess) for tag, guess in zip(tags, guesses, strict=True))


class AnswerExamples:
    """Questions for a model of transformers, in overlapping windows."""

    auto = transformers.AutoModelForQuestionAnswering
    bert = transformers.BertForQuestionAnswering
    tags = ("start", "end")

    def __init__(
        self, train: list[Row], test: list[Row], tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self.tokenizer, self.test = tokenizer, test
        self.collator = transformers.DataCollatorWithPadding(tokenizer)

    def examples(self, rows: list[Row], length: int) -> list[Example]:
        """The windows of all rows; a window without the answer has its first token as one."""
        found = []
        for row in rows:
            encoding = self._windows(row, length)
            for number in range(len(encoding["input_ids"])):
                example = {key: encoding[key][number] for key in self.tokenizer.model_input_names}
                start, end = self._answer(row, encoding, number)
                found.append({**example, "start_positions": start, "end_positions": end})
        return found

    def _windows(self, row: Row, length: int) -> transformers.BatchEncoding:
        return self.tokenizer(
            row["question"],
            row["context"],
            truncation="only_second",
            max_length=length,
            stride=STRIDE,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )

    def _answer(
        self, row: Row, encoding: transformers.BatchEncoding, number: int
    ) -> tuple[int, int]:
        answers = row["answers"]
        assert isinstance(answers, dict)
        begin = answers["answer_start"][0]
        end = begin + len(answers["text"][0])
        places, offsets = _context(encoding, number), encoding["offset_mapping"][number]
        if begin < offsets[places[0]][0] or end > offsets[places[-1]][1]:
            return 0, 0
        inside = [one for one in places if offsets[one][1] > begin and offsets[one][0] < end]
        return inside[0], inside[-1]

    def score(self, output: Sequence[NDArray[np.float32]], length: int, metric: str) -> float:
        """F1 of the likeliest spans."""
        starts, ends = output[:2]
        answers, gold, window = {}, {}, 0
        for row in self.test:
            encoding, best = self._windows(row, length), (-np.inf, "")
            for number in range(len(encoding["input_ids"])):
                places = np.array(_context(encoding, number))
                sums = starts[window][places][:, None] + ends[window][places]
                allowed = np.tril(np.triu(np.ones_like(sums)), LONGEST_ANSWER - 1)
                sums = np.where(allowed, sums, -np.inf)
                first, last = np.unravel_index(sums.argmax(), sums.shape)
                offsets = encoding["offset_mapping"][number]
                begin, end = offsets[places[first]][0], offsets[places[last]][1]
                best = max(best, (float(sums.max()), str(row["context"])[begin:end]))
                window += 1
            answers[str(row["id"])] = best[1]
            gold[str(row["id"])] = row["answers"]["text"]  # type: ignore[index]
        return squad_scores(answers, gold)[metric]


def _context(encoding: transformers.BatchEncoding, number: int) -> list[int]:
    return [place for place, part in enumerate(encoding.sequence_ids(number)) if part == 1]


def _list(value: object) -> list[object]:
    assert isinstance(value, list)
    return value


def train_with_transformers(recipe: Recipe) -> dict[str, float]:
    """Score in percent and useful tokens per second of a run of transformers' ``Trainer``."""
    tokenizer = AutoTokenizer.from_pretrained(recipe.model or recipe.tokenizer)
    train = rows_of(recipe.data, "train", recipe.rows)
    kind = WordExamples if recipe.task == "token_classification" else AnswerExamples
    examples = kind(train, rows_of(recipe.data, "validation", recipe.eval_rows), tokenizer)
    rows = examples.examples(train, recipe.max_length)
    transformers.set_seed(recipe.seed)
    if recipe.model is not None:
        model = kind.auto.from_pretrained(recipe.model, num_labels=len(examples.tags))
    else:
        width, layers = recipe.shape
        shape = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=max(1, width // 64),
            intermediate_size=4 * width,
            num_labels=len(examples.tags),  # type: ignore[call-arg]
        )
        model = kind.bert(shape)
    with tempfile.TemporaryDirectory() as folder:
        trainer = transformers.Trainer(
            model=model,
            args=_arguments(recipe, len(rows), folder),
            train_dataset=rows,
            data_collator=examples.collator,
        )
        seconds = trainer.train().metrics["train_runtime"]
        test = examples.examples(examples.test, recipe.max_length)
        output = trainer.predict(test).predictions  # type: ignore[arg-type]
    tokens = sum(len(row["input_ids"]) for row in rows) * recipe.epochs
    score = examples.score(output, recipe.max_length, recipe.metric)  # type: ignore[arg-type]
    return {"score": 100 * score, "tokens_per_sec": tokens / seconds}


def _arguments(recipe: Recipe, count: int, folder: str) -> transformers.TrainingArguments:
    steps = -(-count // recipe.batch_size) * recipe.epochs
    return transformers.TrainingArguments(
        output_dir=folder,
        seed=recipe.seed,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=32,
        num_train_epochs=recipe.epochs,
        learning_rate=recipe.lr,
        weight_decay=0.01,
        warmup_steps=round(0.1 * steps),
        lr_scheduler_type="linear",
        max_grad_norm=1.0,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )
