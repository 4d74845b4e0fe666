"""The public repositories whose histories the benchmark is made from, and the files of theirs that it looks at.

`DEV` is the development set, `OWN` another one of other styles (Lightning modules, Keras, reinforcement learning, library
code). A folder `owner+name/repo` holds the git directory of each; one that is not there is left out, and said so.
"""

DEV = {
    "karpathy+nanoGPT": [r"^train\.py$"],
    "karpathy+minGPT": [r"^mingpt/trainer\.py$"],
    "kuangliu+pytorch-cifar": [r"^main\.py$"],
    "pytorch+examples": [
        r"(imagenet|mnist|dcgan|vae|snli|mnist_hogwild|word_language_model|time_sequence_prediction|OpenNMT|fast_neural_style|siamese_network|super_resolution)/.*(main|train|neural_style)\.py$"
    ],
    "ultralytics+yolov5": [r"^(train|val|segment/train|classify/train)\.py$"],
    "openai+baselines": [
        r"baselines/.*(run|ppo2|a2c|ddpg|deepq|learn|trpo_mpi|pposgd_simple|acktr|simple|train.*|runner|model|acer|her)\.py$"
    ],
    "eriklindernoren+PyTorch-GAN": [r"implementations/.*\.py$"],
    "NVIDIA+tacotron2": [r"^train\.py$"],
    "coqui-ai+TTS": [
        r"^(TTS/bin/train_.*|TTS/trainer|TTS/train)\.py$",
        r"^TTS/(tts|vocoder)/models/base_.*\.py$",
    ],
    "WongKinYiu+yolov7": [r"^train(_aux)?\.py$"],
}

OWN = {
    "facebookresearch+mae": [r"^(engine|main)_.*\.py$", r"^util/.*\.py$"],
    "jaywalnut310+vits": [r"^train.*\.py$"],
    "openai+spinningup": [r"spinup/algos/.*\.py$"],
    "DLR-RM+stable-baselines3": [r"stable_baselines3/(ppo|a2c|dqn|sac|td3|common)/.*\.py$"],
    "huggingface+pytorch-image-models": [r"^(train|validate|distributed_train)\.py$"],
    "facebookresearch+detr": [r"^(main|engine)\.py$"],
    "lucidrains+denoising-diffusion-pytorch": [r"denoising_diffusion_pytorch/.*\.py$"],
    "vwxyzjn+cleanrl": [r"cleanrl/.*\.py$"],
    "keras-team+keras-contrib": [
        r"examples/.*\.py$",
        r"keras_contrib/(callbacks|optimizers|applications)/.*\.py$",
    ],
    "Lightning-AI+lightning-bolts": [r"(pl|pl_bolts|src/pl_bolts)/.*(module|models|callbacks).*\.py$"],
    "rwightman+efficientdet-pytorch": [r"^(train|validate)\.py$"],
    "karpathy+build-nanogpt": [r"^train.*\.py$"],
}

SETS = {"dev": DEV, "own": OWN}
