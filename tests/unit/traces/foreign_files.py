"""Small files of every foreign format, all with the same routing, written as the formats' publications say."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

EXPERTS, TOP_K, LAYERS = 8, 2, 3
LENGTHS = [(3, 2), (2, 3), (4, 1)]  # prompt and generated tokens that were routed, of three requests


def experts(
    request: int, tokens: int, layers: int = LAYERS, top_k: int = TOP_K, num_experts: int = EXPERTS
) -> np.ndarray:
    """Slot s of token t at layer l of request r goes to expert (t + l + 2 r + 3 s) mod E, all different."""
    token, layer, slot = np.ogrid[:tokens, :layers, :top_k]
    return ((token + layer + 2 * request + 3 * slot) % num_experts).astype(np.int16)


def lines(records: list[dict]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def long_parquet(folder: Path) -> Path:
    """Three requests, prefill and decode, all slots filled."""
    columns: dict[str, list] = {name: [] for name in ("request", "position", "phase", "layer", "slot", "expert")}
    for request, (prompt, generated) in enumerate(LENGTHS):
        for (token, layer, slot), expert in np.ndenumerate(experts(request, prompt + generated)):
            row = (request, token, int(token >= prompt), layer, slot, int(expert))
            for name, value in zip(columns, row, strict=True):
                columns[name].append(value)
    table = pa.table(columns).replace_schema_metadata({"num_experts": str(EXPERTS), "top_k": str(TOP_K)})
    pq.write_table(table, folder / "long.parquet")
    return folder / "long.parquet"


def phone_route(folder: Path) -> Path:
    """Three turns; prefill layer by layer, decode token by token."""
    text = ["# route_trace v1", f"# model=toy arch=toy n_layer={LAYERS} n_expert={EXPERTS} n_expert_used={TOP_K}"]
    text += [f"# layer={layer} expert_bytes=100 dense_bytes=10" for layer in range(LAYERS)]
    text += ["turn,phase,step,layer,slot,expert,weight,residency,expert_bytes"]
    for request, (prompt, generated) in enumerate(LENGTHS):
        ids = experts(request, prompt + generated)
        order = [(0, token, layer) for layer in range(LAYERS) for token in range(prompt)]
        order += [(1, token, layer) for token in range(prompt, prompt + generated) for layer in range(LAYERS)]
        for phase, token, layer in order:
            for slot in range(TOP_K):
                weight, expert = (0.75, 0.25)[slot], ids[token, layer, slot]
                text.append(f"{request},{phase},{token},{layer},{slot},{expert},{weight},0,100")
    (folder / "x.route.csv").write_text("\n".join(text) + "\n")
    return folder / "x.route.csv"


def layer_lists(folder: Path) -> Path:
    """The form of warp's tests/trace_olmoe_299.jsonl: one request, ids sorted."""
    ids = np.sort(experts(0, 12), axis=-1)
    records = [{"tok": token + 1, "layers": layer.tolist()} for token, layer in enumerate(ids)]
    (folder / "lists.jsonl").write_bytes(lines(records))
    return folder / "lists.jsonl"


def simllm(folder: Path) -> Path:
    """The form of simllm's routing-trace.jsonl, schema simllm-preplay-trace-v2."""
    schema = "simllm-preplay-trace-v2"
    provenance = {"model_id": "toy", "expert_count": EXPERTS, "top_k": TOP_K, "moe_layer_indices": list(range(LAYERS))}
    records: list[dict] = [{"provenance": provenance, "row_type": "header", "schema": schema}]
    for request, (prompt, generated) in enumerate(LENGTHS):
        name = f"p{request}"
        inputs = list(range(100, 100 + prompt))
        # the last generated token is not fed back
        described = {"row_type": "request", "request_id": name, "input_token_ids": inputs}
        records.append(described | {"output_length": generated + 1, "framework_cached_tokens": 0})
        for token, by_layer in enumerate(experts(request, prompt + generated).tolist()):
            routing = [{"expert_ids": ids, "layer_index": layer} for layer, ids in enumerate(by_layer)]
            phase, index = ("prefill", token) if token < prompt else ("decode", token - prompt)
            row = {"row_type": "observed-dispatch", "request_id": name, "phase": phase, "token_index": index}
            records.append(row | {"routing": routing})
        records.append({"row_type": "kv-event", "request_id": name})
    prompts, generated = (sum(length[phase] for length in LENGTHS) for phase in (0, 1))
    footer = {"row_type": "footer", "request_count": len(LENGTHS), "kv_event_count": len(LENGTHS)}
    records.append(footer | {"prefill_dispatch_count": prompts, "decode_dispatch_count": generated})
    (folder / "sim.jsonl").write_bytes(lines(records))
    return folder / "sim.jsonl"


def stratamoe(folder: Path) -> Path:
    """The form of stratamoe-lab's router-trace.v2.json, with capture-metadata.json beside it."""
    ids = [experts(request, prompt) for request, (prompt, _) in enumerate(LENGTHS)]
    document = {"expertsPerLayer": EXPERTS, "layers": LAYERS, "tokens": sum(map(len, ids)), "topK": TOP_K, "version": 2}
    document |= {"selections": np.concatenate(ids).tolist(), "source": {"model": {"id": "toy"}}}
    (folder / "router.json").write_text(json.dumps(document))
    spans, end = [], 0
    for name, block in zip(("law-01", "law-02", "maths-01"), ids, strict=True):
        spans.append({"id": name, "token_start": end, "token_end_exclusive": end + len(block)})
        end += len(block)
    capture = {"prompt_spans": spans, "sparse_encoder_block_indices": [1, 3, 5]}
    (folder / "capture-metadata.json").write_text(json.dumps(capture))
    return folder / "router.json"


def vllm_fields() -> dict[str, np.ndarray]:
    """Prompt and generated tokens of all requests in one array, as releases after 0.21 have them."""
    blocks = [experts(request, prompt + generated) for request, (prompt, generated) in enumerate(LENGTHS)]
    offsets = np.cumsum([0, *map(len, blocks)])
    prompts = np.array([prompt for prompt, _ in LENGTHS])
    fields = {"routed_experts": np.concatenate(blocks), "offsets": offsets, "prompt_lengths": prompts}
    return fields | {"num_experts": np.array(EXPERTS)}


def vllm_npz(folder: Path) -> Path:
    np.savez(folder / "routed.npz", **vllm_fields())
    return folder / "routed.npz"


def vllm_npy(folder: Path) -> Path:
    fields = vllm_fields()
    np.save(folder / "routed.npy", fields.pop("routed_experts"))
    (folder / "routed.json").write_text(json.dumps({name: value.tolist() for name, value in fields.items()}))
    return folder / "routed.npy"


def base64_npy(array: np.ndarray) -> str:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return base64.b64encode(buffer.getvalue()).decode()


def vllm_response(request: int, *, split: bool) -> dict:
    """One response in the form of release 0.21 (`split`: lists for prompt and choice) or of those after it."""
    prompt, generated = LENGTHS[request]
    ids = experts(request, prompt + generated)
    response = {"id": f"cmpl-{request}", "object": "text_completion", "model": "toy"}
    usage = {"usage": {"prompt_tokens": prompt, "completion_tokens": generated + (0 if split else 1)}}
    if split:
        choice = {"index": 0, "routed_experts": ids[prompt:].tolist()}
        return response | {"choices": [choice], "prompt_routed_experts": ids[:prompt].tolist()} | usage
    return response | {"choices": [{"index": 0, "routed_experts": base64_npy(ids.astype(np.uint8))}]} | usage


def vllm_responses(folder: Path) -> Path:
    path = folder / "responses.jsonl"
    path.write_bytes(lines([vllm_response(request, split=request == 1) for request in range(len(LENGTHS))]))
    return path


def esft(folder: Path) -> Path:
    """A folder of 26 files as in deepseek-ai/ESFT, results/expert_scores: 64 experts, six per token, in no order."""
    place = folder / "law"
    place.mkdir()
    for layer in range(1, 27):
        text = ""
        for request, (prompt, _) in enumerate(LENGTHS):
            ids = experts(request, prompt, 27, 6, 64)[:, layer]
            shuffled = np.roll(ids, layer, axis=-1)
            weights = np.roll(np.tile([0.3, 0.2, 0.1, 0.05, 0.04, 0.03], (prompt, 1)), layer, axis=-1)
            text += "\t".join(map(str, shuffled.ravel())) + "\t\t" + "\t".join(map(str, weights.ravel())) + "\n"
        (place / f"expert_weights_{layer}.txt").write_text(text)
    return place


BUILDERS = {
    builder.__name__: builder
    for builder in (
        long_parquet,
        phone_route,
        layer_lists,
        simllm,
        stratamoe,
        vllm_npz,
        vllm_npy,
        vllm_responses,
        esft,
    )
}
OPTIONS: dict[str, dict] = {"layer_lists": {"num_experts": EXPERTS}, "vllm_responses": {"num_experts": EXPERTS}}
