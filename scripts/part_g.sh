#!/usr/bin/env bash
# Part (g): pretrain, finetune and evaluate the rope model.
# Flags given here go to both trainings, for example: scripts/part_g.sh --recipe fast --resume
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh

# Pretrain the model
"$PYTHON" src/run.py pretrain rope wiki.txt \
    --writing_params_path rope.pretrain.params "$@"

# Finetune the model
"$PYTHON" src/run.py finetune rope wiki.txt \
    --reading_params_path rope.pretrain.params \
    --writing_params_path rope.finetune.params \
    --finetune_corpus_path birth_places_train.tsv "$@"

# Evaluate on the dev set; write to disk
"$PYTHON" src/run.py evaluate rope wiki.txt \
    --reading_params_path rope.finetune.params \
    --eval_corpus_path birth_dev.tsv \
    --outputs_path rope.pretrain.dev.predictions

# Evaluate on the test set; write to disk
"$PYTHON" src/run.py evaluate rope wiki.txt \
    --reading_params_path rope.finetune.params \
    --eval_corpus_path birth_test_inputs.tsv \
    --outputs_path rope.pretrain.test.predictions
