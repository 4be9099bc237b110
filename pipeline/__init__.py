"""Robust training with data augmentation: attacks, views, objectives, evidence and delivery for MONAI classifiers."""

import os

# importing monai.handlers imports mlflow, which decides then whether to report home and writes an id file if so
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
