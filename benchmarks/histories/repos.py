"""Public repositories of styles that the development set lacks, and which of their files are trainings."""

from __future__ import annotations

REPOS: dict[str, str] = {
    "Lightning-AI+pytorch-lightning": r"(^|/)(pl_examples|examples|loops|trainer|optim\w*|callbacks)/.*\.py$",
    "Lightning-AI+lightning-bolts": r"(models|callbacks|losses)/.*\.py$",
    "keras-team+keras-contrib": r"^(examples|keras_contrib)/.*\.py$",
    "openai+spinningup": r"^spinup/(algos|utils|examples)/.*\.py$",
    "facebookresearch+mae": r"\.py$",
    "jaywalnut310+vits": r"\.py$",
    "rwightman+efficientdet-pytorch": r"^(train|validate|effdet/.*)\.py$",
    "ageron+handson-ml": r"^\d+_.*\.ipynb$",
}
