"""What a run says about its rows before it starts: how full they are, and what was left out."""

from neobert.data.packing import Packing, RowPlan
from neobert.data.token_store import TokenStore


def describe_plan(plan: RowPlan, store: TokenStore, packing: Packing, sample: bool) -> str:
    """One line, and one more for each setting that costs text.

    ``sample``: the store holds only the first documents of a stream.
    """
    info = store.info
    of = "the stream's first " if sample else ""
    full = f", {plan.fill:.1%} full" if packing.packed else ""
    kind = "rows" if packing.packed else "pieces"
    lines = [
        f"data: {of}{info.documents:,} documents, {info.tokens:,} tokens, {plan.num_rows:,} {kind} "
        f"of up to {plan.row_length if packing.packed else packing.longest}{full}"
    ]
    if info.empty_documents:
        lines.append(f"{info.empty_documents:,} documents are empty and left out")
    if cut := plan.info.cut_tokens:
        share = cut / max(1, info.tokens)
        lines.append(
            f"tokenizer.truncation left out {cut:,} tokens ({share:.1%}); false keeps them"
        )
    if packing.shortest:
        lines.append(
            f"dataset.filter_by_length kept {plan.info.documents:,} of {info.documents:,} "
            f"documents, those of {packing.shortest} tokens or more"
        )
    return "\n".join(lines)
