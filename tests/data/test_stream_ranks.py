"""A stream over real processes: killed and resumed under other numbers of ranks and workers."""

import json
import multiprocessing
import os
import signal
from itertools import islice
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from datasets import load_dataset

from neobert.data.curriculum import MaskRate
from neobert.data.loader import Workers
from neobert.data.masking import Masking
from neobert.data.mixture import SourceOrder
from neobert.data.packing import Packing
from neobert.data.sources import Documents
from neobert.data.steps import Share, Steps
from neobert.data.stream import StreamBatches, StreamLoader
from neobert.data.stream_readers import StreamRows
from neobert.data.stream_source import StreamSource
from neobert.data.token_rows import RowMaker
from neobert.data.tokenizer import TokenizerInfo, describe_tokenizer
from neobert.data.wordpiece import train_wordpiece
from neobert.errors import ConfigError

ROWS_PER_STEP = 16
PRELOADED = ["neobert.data.stream", "neobert.data.wordpiece"]


def explain(error: BaseException) -> ConfigError:
    return ConfigError(str(error))


def stream_of(folder: Path, parts: str = "*", readers: int = 8) -> StreamRows:
    texts = (folder / "part-0.txt").read_text().splitlines()
    info: TokenizerInfo = describe_tokenizer(train_wordpiece(lambda: texts, 128), "tiny")
    files = sorted(map(str, folder.glob(f"part-{parts}.txt")))
    dataset = load_dataset("text", data_files=files, split="train", streaming=True)
    masking = Masking(MaskRate.constant(0.2), False, info.mask_token_id, info.random_ids, seed=3)
    packing = Packing(32, 32, info.wrapping, packed=True, truncate=False)
    documents = Documents("mine", {"mine": parts}, list, explain)
    maker = RowMaker(info, masking, packing)
    return StreamRows(StreamSource(dataset, "text"), documents, maker, 40, readers=readers)


def batches_of(folder: Path, share: Share, is_mixed: bool) -> StreamBatches:
    """Of all parts as one stream, or of a mixture of them whose weights change at row 80."""
    if not is_mixed:
        return StreamBatches([stream_of(folder)], Steps(share))
    streams = [
        stream_of(folder, parts, readers) for parts, readers in (("0", 8), ("1", 4), ("2", 8))
    ]
    order = SourceOrder.of([(0, (0.5, 0.2, 0.3)), (80, (0.1, 0.6, 0.3))])
    return StreamBatches(streams, Steps(share), order)


def train(
    folder: Path, share: Share, workers: int, steps: int, killed: bool, is_mixed: bool
) -> None:
    """Draw steps from where the last run saved; write their rows, save, and draw one more."""
    torch.set_num_threads(1)
    ranks, rank = share.ranks, share.rank
    meeting = dist.FileStore(str(folder / f"meeting-{ranks}-{workers}"), ranks)
    dist.init_process_group("gloo", store=meeting, rank=rank, world_size=ranks)
    loader = StreamLoader(batches_of(folder, share, is_mixed), 1000, Workers(workers))
    saved = folder / "saved.pt"
    if saved.exists():
        loader.load_state_dict(torch.load(saved, weights_only=True))
    first = loader.state_dict()["place"]["micro_batches"]
    batches = iter(loader)
    for step, batch in enumerate(islice(batches, steps), first):
        rows = batch.inputs.input_ids.view(-1, 32).tolist()
        numbered = list(zip(loader.batches.steps.numbers(step), rows, strict=True))
        with (folder / f"rows-{ranks}-{workers}-{rank}.jsonl").open("a") as file:
            file.write(json.dumps([numbered, batch.num_targets_in_step]) + "\n")
    state = loader.state_dict()
    dist.barrier()
    if rank == 0:
        torch.save(state, saved)
    next(batches)  # what is drawn after a checkpoint is drawn again
    dist.barrier()
    if killed:
        os.kill(os.getpid(), signal.SIGKILL)


def run(folder: Path, ranks: int, workers: int, steps: int, killed: bool, is_mixed: bool) -> None:
    """So many steps by processes of their own, which have the imports done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    shares = [Share(ROWS_PER_STEP // ranks, 1, rank, ranks) for rank in range(ranks)]
    jobs = [
        context.Process(target=train, args=(folder, share, workers, steps, killed, is_mixed))
        for share in shares
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(300)
        assert job.exitcode == (-signal.SIGKILL if killed else 0)


def rows_of(folder: Path) -> tuple[list[list[int]], dict[int, int]]:
    """The rows in the order of their numbers, each computed once, and the targets of each step."""
    found: dict[int, list[int]] = {}
    targets: dict[int, int] = {}
    for file in folder.glob("rows-*.jsonl"):
        for line in file.read_text().splitlines():
            numbered, in_step = json.loads(line)
            for number, row in numbered:
                assert number not in found
                found[number] = row
                assert targets.setdefault(number // ROWS_PER_STEP, in_step) == in_step
    return [found[number] for number in sorted(found)], targets


@pytest.mark.slow
@pytest.mark.proves("dataset.stream_readers", "dataset.num_workers")
@pytest.mark.parametrize("is_mixed", [False, True], ids=["one stream", "mixture"])
def test_a_stream_is_the_same_over_kills_and_numbers_of_processes(
    tmp_path: Path, texts: list[str], is_mixed: bool
) -> None:
    folders = [tmp_path / name for name in ("undisturbed", "killed")]
    for folder in folders:
        folder.mkdir()
        for shard in range(3):
            lines = "\n".join(texts[shard::3]) + "\n"
            (folder / f"part-{shard}.txt").write_text(lines)
    run(folders[0], 1, 0, 14, killed=False, is_mixed=is_mixed)
    for ranks, workers, steps in [(1, 0, 3), (2, 2, 4), (4, 0, 3), (1, 4, 4)]:
        run(folders[1], ranks, workers, steps, killed=True, is_mixed=is_mixed)
    undisturbed, killed = map(rows_of, folders)
    assert len(undisturbed[0]) == 14 * ROWS_PER_STEP
    assert killed == undisturbed
