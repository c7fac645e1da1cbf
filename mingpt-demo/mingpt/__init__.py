"""A toy GPT to read in one sitting: model.py, trainer.py, utils.py."""
