"""Makes the files of this folder from the two tables of the Azure LLM inference trace 2023.

    python -m traces.data.workloads.make SOURCE [--out FOLDER]

SOURCE holds `splitwise_conv.csv` and `splitwise_code.csv` with the columns arrived_at (seconds since the first
request), num_prefill_tokens and num_decode_tokens; README.md says where they are from.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

FILES = {"azure_conversation_2023": "splitwise_conv.csv", "azure_code_2023": "splitwise_code.csv"}
ABOUT = {
    "source": "Azure LLM inference trace 2023, github.com/Azure/AzurePublicDataset (AzureLLMInferenceDataset2023.md)",
    "licence": "CC-BY-4.0",
    "changes": "times since the first request, rounded to microseconds; columns renamed; Parquet",
}


def main(arguments: list[str] | None = None) -> None:
    """Write both files anew; the same sources give the same bytes."""
    parser = argparse.ArgumentParser(prog="python -m traces.data.workloads.make", description=__doc__)
    parser.add_argument("source", type=Path, help="folder with the source files")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write (default: this one)")
    options = parser.parse_args(arguments)
    for name, file in FILES.items():
        table = pa.csv.read_csv(options.source / file)
        arrival_us = np.rint(table.column("arrived_at").to_numpy() * 1e6).astype(np.int64)
        columns = {
            "arrival_us": pa.array(arrival_us),
            "prompt_tokens": table.column("num_prefill_tokens").cast(pa.int32()),
            "decode_tokens": table.column("num_decode_tokens").cast(pa.int32()),
        }
        pq.write_table(
            pa.table(columns).replace_schema_metadata(ABOUT),
            options.out / f"{name}.parquet",
            compression="zstd",
            compression_level=22,
            use_dictionary=False,
            column_encoding={
                "arrival_us": "DELTA_BINARY_PACKED",
                "prompt_tokens": "BYTE_STREAM_SPLIT",
                "decode_tokens": "BYTE_STREAM_SPLIT",
            },
        )


if __name__ == "__main__":
    main()
