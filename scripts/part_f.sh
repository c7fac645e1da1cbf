#!/usr/bin/env bash
# Part (f): pretrain, finetune and evaluate the vanilla model.
# Flags given here go to both trainings, for example: scripts/part_f.sh --recipe fast --resume
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh

# Pretrain the model
"$PYTHON" src/run.py pretrain vanilla wiki.txt \
    --writing_params_path vanilla.pretrain.params "$@"

# Finetune the model
"$PYTHON" src/run.py finetune vanilla wiki.txt \
    --reading_params_path vanilla.pretrain.params \
    --writing_params_path vanilla.finetune.params \
    --finetune_corpus_path birth_places_train.tsv "$@"

# Evaluate on the dev set; write to disk
"$PYTHON" src/run.py evaluate vanilla wiki.txt \
    --reading_params_path vanilla.finetune.params \
    --eval_corpus_path birth_dev.tsv \
    --outputs_path vanilla.pretrain.dev.predictions

# Evaluate on the test set; write to disk
"$PYTHON" src/run.py evaluate vanilla wiki.txt \
    --reading_params_path vanilla.finetune.params \
    --eval_corpus_path birth_test_inputs.tsv \
    --outputs_path vanilla.pretrain.test.predictions
