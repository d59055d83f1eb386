"""Where each array lies and how it is tiled and compressed; every number with its reason.

The tree is the CELLxGENE Census': `census_info` tables and one Experiment per organism under `census_data`.
What columns the frames have is in `schema`; who writes them is `store` and `write`.
"""

from __future__ import annotations

from typing import Any

CELLS_PER_TILE = 64  # rows of one X tile: the block a balanced sampler reads
X_CAPACITY = 16_384  # cells (non-zeros) per compressed chunk: single rows read 2x faster than at 65,536
RECORD_CAPACITY = (
    64  # records per compressed chunk: 32 reads single cells 1.2x faster at 4 % more bytes, 128 the reverse
)
NEIGHBOUR_TILE = 1024  # rows of one tile of the graph; 15 neighbours each fill one chunk of X_CAPACITY
OBS_CAPACITY = 65_536  # rows per compressed chunk of obs
NNZ_PER_FRAGMENT = 24_000_000  # non-zeros written at once: 0.5 GB of coordinates, the writer's memory bound

INFO = "census_info"
DATA = "census_data"
SPATIAL = "census_spatial_sequencing"  # empty; the Census' own tools index it
MEASUREMENT = "ms/RNA"
X_RAW = f"{MEASUREMENT}/X/raw"
VAR = f"{MEASUREMENT}/var"
PRESENCE = f"{MEASUREMENT}/feature_dataset_presence_matrix"
RECORDS = f"{MEASUREMENT}/records"
NEIGHBOURS = f"{MEASUREMENT}/obsp/neighbours"
OBSM = f"{MEASUREMENT}/obsm"
X = f"{MEASUREMENT}/X"
VARP = f"{MEASUREMENT}/varp"
NETWORK = "grn-"  # begins the kind of a network of genes, which is this and its read-out
LABELS = f"{MEASUREMENT}/labels"  # no part of the SOMA schema, which official clients leave alone


def _shuffled(level: int) -> list[Any]:
    """Return byte shuffle + zstd, the pair that won every layout measured for counts and coordinates."""
    return ["ByteShuffleFilter", {"_type": "ZstdFilter", "level": level}]


def x_options(n_vars: int) -> dict[str, Any]:
    """Return the creation options of `X/raw`: full-row tiles, so that sorted CSR is already in global order.

    Counts are packed as whole numbers: exact up to 2^24, as float32 is, and a quarter of a byte smaller than the bytes
    of floats. benchmarks/layout.py has what this and the other layouts measured give; decisions/0017 has the choice.
    """
    full_row = 1 << max(n_vars - 1, 1).bit_length()
    whole = {"_type": "FloatScaleFilter", "factor": 1.0, "offset": 0.0, "bytewidth": 4}
    return {
        "tiledb": {
            "create": {
                "capacity": X_CAPACITY,
                "cell_order": "row-major",
                "tile_order": "row-major",
                "allows_duplicates": False,  # a retried range then reads right; True would double counts silently
                "dims": {
                    "soma_dim_0": {"tile": CELLS_PER_TILE, "filters": _shuffled(1)},
                    "soma_dim_1": {"tile": full_row, "filters": _shuffled(1)},
                },
                "attrs": {"soma_data": {"filters": [whole, *_shuffled(1)]}},
            }
        }
    }


def presence_options(n_vars: int) -> dict[str, Any]:
    """Return the creation options of the presence matrix: one tile row per dataset, which is how it is read."""
    return {
        "tiledb": {
            "create": {
                "capacity": OBS_CAPACITY,
                "allows_duplicates": False,
                "dims": {
                    "soma_dim_0": {"tile": CELLS_PER_TILE, "filters": _shuffled(3)},
                    "soma_dim_1": {"tile": max(n_vars, 1), "filters": _shuffled(3)},
                },
            }
        }
    }


def record_options() -> dict[str, Any]:
    """Return the creation options of the records: bytes of one kind side by side, compressed as they are.

    Measured on 27 M non-zeros of resampled cells: 1.146 B a non-zero, all files included. One column for both strings
    costs 4 % more, byte or bit shuffle 9 % and more; zstd 3 saves 0.2 % and 9 less than nothing.
    """
    plain = [{"_type": "ZstdFilter", "level": 1}]
    return {
        "tiledb": {
            "create": {
                "capacity": RECORD_CAPACITY,
                "allows_duplicates": False,
                "dims": {"soma_joinid": {"filters": _shuffled(1)}},
                "attrs": {"genes": {"filters": plain}, "counts": {"filters": plain}},
            }
        }
    }


def neighbour_options() -> dict[str, Any]:
    """Return the creation options of the graph of neighbours: whole rows per tile however many cells come later."""
    return {
        "tiledb": {
            "create": {
                "capacity": X_CAPACITY,
                "cell_order": "row-major",
                "tile_order": "row-major",
                "allows_duplicates": False,
                "dims": {
                    "soma_dim_0": {"tile": NEIGHBOUR_TILE, "filters": _shuffled(3)},
                    "soma_dim_1": {"tile": 1 << 40, "filters": _shuffled(3)},
                },
                "attrs": {"soma_data": {"filters": _shuffled(3)}},
            }
        }
    }


def result_options(n_columns: int) -> dict[str, Any]:
    """Return the creation options of a model's matrix: whole rows per tile, as it is written and read."""
    return {
        "tiledb": {
            "create": {
                "capacity": X_CAPACITY,
                "cell_order": "row-major",
                "tile_order": "row-major",
                "allows_duplicates": False,
                "dims": {
                    "soma_dim_0": {"tile": CELLS_PER_TILE, "filters": _shuffled(3)},
                    "soma_dim_1": {"tile": max(n_columns, 1), "filters": _shuffled(3)},
                },
                "attrs": {"soma_data": {"filters": _shuffled(3)}},
            }
        }
    }


def frame_options() -> dict[str, Any]:
    """Return the creation options of data frames: chunks long enough that categorical codes compress away."""
    return {"tiledb": {"create": {"capacity": OBS_CAPACITY, "dims": {"soma_joinid": {"filters": _shuffled(3)}}}}}
