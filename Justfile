# One line per recipe: each hands its arguments to the command line or to a tool, unchanged and unquoted by us.
set shell := ["bash", "-euo", "pipefail", "-c"]
set positional-arguments

export PYTHONSAFEPATH := "1"  # a stray ./model.py must never shadow a floor
export PATH := justfile_directory() / ".venv/bin:" + env("PATH")

[private]
default:
    @just --justfile "{{justfile()}}" --list --unsorted

[private]
product:
    @.ci/setup

[private]
developer:
    @.ci/setup dev

# Ingest sources of one organism: `just ingest human`, `just ingest human --source my.h5ad`
[group('curator'), no-cd]
ingest organism *args: product
    @panatlas ingest "$@"

# Say what an ingest would come to, cells, bytes, hours and cost: `just plan human`, `just plan studies.toml`
[group('curator'), no-cd]
plan what *args: product
    @panatlas plan "$@"

# List the big public corpora, or write a manifest of your copy of one: `just sources tahoe100m human --root DIR --output m.toml`
[group('curator'), no-cd]
sources *args: product
    @panatlas sources "$@"

# Show how author labels map to terms, and take a curator's decisions: `just curate labels.csv`
[group('curator'), no-cd]
curate labels *args: product
    @panatlas curate "$@"

# List, fetch or import references: `just references fetch genes sheep`
[group('curator'), no-cd]
references *args: product
    @panatlas references "$@"

# Freeze the atlas under a name, with its splits and content hash
[group('curator'), no-cd]
release name *args: product
    @panatlas release "$@"

# Read the atlas again, derive anew what can be derived, and say what is not as it should be
[group('curator'), no-cd]
validate *args: product
    @panatlas validate "$@"

# Name what stopped ingests left behind, and mend it: `just doctor --repair`
[group('curator'), no-cd]
doctor *args: product
    @panatlas doctor "$@"

# Publish a state without a dataset; releases keep it: `just retract study-7 --reason "consent withdrawn"`
[group('curator'), no-cd]
retract dataset *args: product
    @panatlas retract "$@"

# Find copies and near-copies across datasets: `just duplicates human --output pairs.csv`
[group('curator'), no-cd]
duplicates organism *args: product
    @panatlas duplicates "$@"

# Make an atlas of many datasets quick to open again; releases keep all they read
[group('curator'), no-cd]
consolidate *args: product
    @panatlas consolidate "$@"

# Compare two releases: `just diff human-v1 human-v2`
[group('curator'), no-cd]
diff a b *args: product
    @panatlas diff "$@"

# Find cells and datasets by organism, label or id
[group('analyst'), no-cd]
search *args: product
    @panatlas search "$@"

# Say what the atlas holds: organisms, datasets, cells, versions
[group('analyst'), no-cd]
info *args: product
    @panatlas info "$@"

# Ask obs and datasets in SQL, read-only: `just sql "select ..."`
[group('analyst'), no-cd]
sql *args: product
    @panatlas sql "$@"

# What is known of each organism: genes, positions, orthologs, proteins, label ontologies
[group('analyst'), no-cd]
organisms *args: product
    @panatlas organisms "$@"

# A gene and its orthologs in every organism: `just gene TP53`
[group('analyst'), no-cd]
gene name *args: product
    @panatlas gene "$@"

# Embed cells with a trained model: `just embed my.h5ad --output embedded.h5ad`
[group('analyst'), no-cd]
embed input *args: product
    @panatlas embed "$@"

# Name cells with a trained model, with probabilities: `just annotate my.h5ad --output named.h5ad`
[group('analyst'), no-cd]
annotate input *args: product
    @panatlas annotate "$@"

# Counts that cells would be expected to have: `just denoise my.h5ad --output denoised.h5ad`
[group('analyst'), no-cd]
denoise input *args: product
    @panatlas denoise "$@"

# Counts of genes that were not measured: `just impute panel.h5ad --output imputed.h5ad`
[group('analyst'), no-cd]
impute input *args: product
    @panatlas impute "$@"

# How far a model's labels hold, from unseen donors: `just calibrate release:human-v1`
[group('analyst'), no-cd]
calibrate input *args: product
    @panatlas calibrate "$@"

# Labels that model and markers contradict: `just audit my.h5ad --output doubts.parquet`
[group('analyst'), no-cd]
audit input *args: product
    @panatlas audit "$@"

# Cell tokens swapped, beside what is observed: `just counterfactual my.h5ad --set sex=male --output swapped.h5ad`
[group('analyst'), no-cd]
counterfactual input *args: product
    @panatlas counterfactual "$@"

# A gene network, tested against shuffled cells: `just grn my.h5ad --readout pearson --output network.h5ad`
[group('analyst'), no-cd]
grn input *args: product
    @panatlas grn "$@"

# Label cells by the nearest labelled ones: `just transfer labelled.h5ad my.h5ad --output named.h5ad`
[group('analyst'), no-cd]
transfer reference query *args: product
    @panatlas transfer "$@"

# Train a model further on labelled cells: `just finetune my.h5ad --output tuned`
[group('trainer'), no-cd]
finetune input *args: product
    @panatlas finetune "$@"

# Pack a release's cells for training: `just pack human-v1 packs/human-v1`
[group('trainer'), no-cd]
pack release out *args: product
    @panatlas pack "$@"

# Train a network on the newest release, or on the one named: `just train small --release human-v1`
[group('trainer'), no-cd]
train size *args: product
    @panatlas train "$@"

# Go on with a run where it stopped: `just resume ~/.panatlas/models/small-human-v1-0`
[group('trainer'), no-cd]
resume run *args: product
    @panatlas resume "$@"

# Train the model that ships on the real training cells, or go on with it; then halve, calibrate and describe it
[group('developer')]
pretrain: developer
    @python -P benchmarks/run.py pretrain && python -P benchmarks/run.py shipped

# Everything CI runs: style, layers, tests but the slow ones, documentation, wheel; arguments go to pytest
[group('developer')]
test *args: developer lint
    @pytest --numprocesses auto -m "not slow" "$@"

# The tests that take 20 s or longer; part of a review, not of every run
[group('developer')]
test-slow *args: developer
    @pytest --numprocesses auto -m slow "$@"

# Style and formatting only, seconds
[group('developer')]
lint: developer
    @ruff check --quiet . && ruff format --check --quiet .

# Mend what a tool can mend
[group('developer')]
fix: developer
    @ruff check --fix --quiet . ; ruff format --quiet .

# Build the documentation into docs/_build
[group('developer')]
docs: developer
    @sphinx-build -W --keep-going -q -b html docs docs/_build

# Run one benchmark, or list them: `just bench ingest`
[group('developer')]
bench *args: developer
    @python -P benchmarks/run.py "$@"
