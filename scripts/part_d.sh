#!/usr/bin/env bash
# Part (d): vanilla without pretraining, its predictions, and the London baseline.
# Flags given here go to the training, for example: scripts/part_d.sh --recipe fast --resume
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh

# Train on the names dataset
"$PYTHON" src/run.py finetune vanilla wiki.txt \
    --writing_params_path vanilla.model.params \
    --finetune_corpus_path birth_places_train.tsv "$@"

# Evaluate on the dev set, writing out predictions
"$PYTHON" src/run.py evaluate vanilla wiki.txt \
    --reading_params_path vanilla.model.params \
    --eval_corpus_path birth_dev.tsv \
    --outputs_path vanilla.nopretrain.dev.predictions

# Evaluate on the test set, writing out predictions
"$PYTHON" src/run.py evaluate vanilla wiki.txt \
    --reading_params_path vanilla.model.params \
    --eval_corpus_path birth_test_inputs.tsv \
    --outputs_path vanilla.nopretrain.test.predictions

# London for everyone
"$PYTHON" src/london_baseline.py
